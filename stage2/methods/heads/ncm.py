"""The nearest class mean [cRT §4.1]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from featbank.settings import Setting
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings, column
from stage2.methods.neighbors import class_distances


class NCM(Head):
    """z_k = −‖t(x) − c_k‖², or the cosine of t(x) and c_k, with c_k the mean of t(x) over class k.

    t is ``un`` (nothing), ``l2n`` (length 1) or ``cl2n`` (less the mean of all training rows, then
    length 1); class means are not normalised again. A class without samples is never the nearest.
    """

    description = "nearest class mean"
    source = "crt"
    settings = (
        Setting("transform", "cl2n", "what features go through", choices=("un", "l2n", "cl2n")),
        Setting("metric", "l2", "squared distance or cosine", choices=("l2", "cosine")),
    )

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        transforms = {s["transform"] for s in settings}
        center = torch.zeros(context.dim, device=context.device)
        if "cl2n" in transforms:
            rows, total = 0, center.double()
            for x, _ in context.blocks():
                rows, total = rows + len(x), total + x.double().sum(0)
            center = (total / rows).float()
        means_of = _class_means(transforms, center, context)
        means = torch.stack([means_of[s["transform"]] for s in settings])
        return {
            "means": means,
            "center": center.expand(len(settings), -1).clone(),
            "transform": column([_TRANSFORMS.index(s["transform"]) for s in settings], means),
            "cosine": column([float(s["metric"] == "cosine") for s in settings], means),
            "empty": torch.from_numpy(context.counts == 0)
            .to(context.device)
            .expand(len(settings), -1)
            .clone(),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        configs, classes, _ = parameters["means"].shape
        z = torch.empty(len(batch.x), configs, classes, device=batch.x.device)
        for c in range(configs):
            name = _TRANSFORMS[int(parameters["transform"][c])]
            rows = _transform(batch.x, name, parameters["center"][c])
            means = parameters["means"][c]
            if parameters["cosine"][c]:
                z[:, c] = class_distances(normalize(rows, dim=1), normalize(means, dim=1), "dot")
            else:
                z[:, c] = -class_distances(rows, means, "l2")
        empty = parameters["empty"]
        furthest = z.masked_fill(empty, torch.inf).amin(2, keepdim=True)
        return torch.where(empty, furthest - EMPTY_BEHIND, z)


EMPTY_BEHIND = 100.0
"""How far the logit of a class without samples lies behind the furthest other: e^−100 is nothing,
and a likelihood stays finite."""

_TRANSFORMS = ("un", "l2n", "cl2n")


def _class_means(transforms: Iterable[str], center: Tensor, context: Context) -> dict[str, Tensor]:
    """Means [K, D] of t(x) over the rows of each class, for every transform t, in one pass."""
    classes = len(context.counts)
    rows = torch.zeros(classes, dtype=torch.float64, device=context.device)
    totals = {
        name: torch.zeros(classes, context.dim, dtype=torch.float64, device=context.device)
        for name in transforms
    }
    for x, y in context.blocks():
        rows += torch.bincount(y, minlength=classes)
        for name, total in totals.items():
            total.index_add_(0, y, _transform(x, name, center).double())
    return {name: (total / rows.clamp_min(1)[:, None]).float() for name, total in totals.items()}


def _transform(x: Tensor, name: str, center: Tensor) -> Tensor:
    if name == "un":
        return x
    return normalize(x - center if name == "cl2n" else x, dim=1)
