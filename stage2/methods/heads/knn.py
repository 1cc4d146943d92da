"""The k-nearest-neighbour classifier with weighted votes [Wu et al. 2018 §3.4]."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import (
    BLOCK_ROWS,
    Batch,
    Context,
    Head,
    Parameters,
    Settings,
    Size,
)
from stage2.methods.heads.moments import class_weights, pieces
from stage2.methods.heads.reduction import Reduction, comparison_keys
from stage2.methods.heads.transforms import TRANSFORMS, centers, transformed
from stage2.methods.neighbors import nearest
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class KNN(Head):
    """z_k = log of class k's share of the votes of the training rows nearest to t(x).

    A row's vote is 1 (``vote=uniform``), or e^{cos/T} (``softmax``, the default, with the released
    T = 0.07, as in DINO). With ``metric=l2`` it is e^{−d²/2T}, equivalent for rows of length 1.
    ``class_weight=balanced`` divides the votes of a class by its training count. The defaults are
    those DINO reports as best: cosine, k = 20.

    The search is exact; a k above the number of rows uses them all. A class without votes has the
    share `NO_VOTES`, so that a likelihood stays finite. Ties between classes go to the first.
    Which of several equally distant rows is the k-th is undefined, as in scikit-learn.

    Training rows are not copied: each call of `logits` reads them once, for all configurations,
    and holds one block at a time.
    """

    description = "votes of the nearest training rows"
    source = "knn"
    settings = (
        Setting("k", 20, "neighbours, augmentation copies included; at most all rows", low=1),
        Setting("transform", "un", "transform of the features", choices=tuple(TRANSFORMS)),
        Setting("metric", "cosine", "measure of closeness", choices=("l2", "cosine")),
        Setting("vote", "softmax", "weight of each vote", choices=("uniform", "softmax")),
        Setting("temperature", 0.07, "T of the votes e^{cos/T} or e^{−d²/2T}", low=1e-6),
        Setting(
            "class_weight",
            "none",
            "divide each vote by the training count of its class, or not",
            choices=("none", "balanced"),
        ),
    )

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(classes + dim, classes)

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return 2 * 4 * BLOCK_ROWS * dim  # a block of training rows, transformed and normalised

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        center = centers(settings, context)
        weights = [class_weights(context, s["class_weight"] == "balanced") for s in settings]
        sharpness = [1 / s["temperature"] if s["vote"] == "softmax" else 0.0 for s in settings]
        search = [_SEARCHES.index((s["transform"], s["metric"])) for s in settings]
        return {
            "k": torch.tensor([s["k"] for s in settings], device=context.device),
            "search": torch.tensor(search, device=context.device),
            "sharpness": column(sharpness, center),
            "class_weight": torch.stack(weights).float(),
            "center": center,
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        weight, sharpness = parameters["class_weight"], parameters["sharpness"]
        ks, searches = parameters["k"].tolist(), parameters["search"].tolist()
        votes = torch.zeros(len(batch.x), *weight.shape, device=batch.x.device)
        for search in set(searches):
            members = [c for c, index in enumerate(searches) if index == search]
            furthest = max(ks[c] for c in members)
            behind, labels = _neighbours(parameters, batch, members[0], furthest)
            for c in members:
                vote = (behind[:, : ks[c]] * sharpness[c]).exp()
                votes[:, c].scatter_add_(1, labels[:, : ks[c]], vote)
        votes.mul_(weight)
        return votes.div_(votes.sum(2, keepdim=True)).clamp_min_(NO_VOTES).log_()

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        balanced = settings["class_weight"] == "balanced"
        return np.zeros_like(log_shares) if balanced else log_shares

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        x, labels = (torch.cat(list(parts)) for parts in zip(*pieces(context), strict=True))
        rows = transformed(x, settings["transform"], parameters["center"])
        tensors = {
            "center": parameters["center"],
            **comparison_keys(rows, settings["metric"]),
            "labels": labels,
            "class_weight": parameters["class_weight"],
            "sharpness": parameters["sharpness"][None],
        }
        options = {name: settings[name] for name in ("transform", "metric", "k")}
        return Reduction("neighbours", tensors, options)


NO_VOTES = float(np.finfo(np.float32).eps)
"""Share of a class without votes: where scikit-learn's log_loss clips a float32 probability."""

_SEARCHES = list(itertools.product(TRANSFORMS, ("l2", "cosine")))
"""Every transform with every metric; configurations that share both share the search."""


def _neighbours(parameters: Parameters, batch: Batch, c: int, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest training rows under configuration c: closeness (cos or −d²/2) relative to
    that of the nearest, and label, [B, k] each."""
    transform, metric = _SEARCHES[int(parameters["search"][c])]
    cosine, center = metric == "cosine", parameters["center"][c]

    def prepared(x: Tensor) -> Tensor:
        rows = transformed(x, transform, center)
        return torch.nn.functional.normalize(rows, dim=1) if cosine else rows

    closeness, labels = nearest(
        prepared(batch.x),
        pieces(batch.context),
        k=k,
        metric="dot" if cosine else "l2",
        transform=prepared,
    )
    behind = closeness - closeness[:, :1]
    return behind if cosine else behind / 2, labels
