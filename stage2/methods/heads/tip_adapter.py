"""A cache of the training rows added to zero-shot logits, Tip-Adapter [Zhang et al. 2022]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.text import text_weight
from stage2.methods.on_demand import torch
from stage2.methods.precision import precision

if TYPE_CHECKING:
    from torch import Tensor

ENTRIES = 1 << 22
"""Cosines of rows with training rows held at once."""


class TipAdapter(Head):
    """z_k = s·⟨t_k, x̂⟩ + α Σ_{i of class k} ω_k·exp(−β(1 − ⟨x̂, x̂_i⟩)), x̂ = x/‖x‖.

    The sum goes over all training rows, not over neighbours: for a β as published, far rows count.
    ω is 1, as published for as many rows of each class. With ``class_weight=balanced`` it is
    N/(K·n_k), as in `KNN`, which is 1 there too, and elsewhere gives each class the same weight:
    that is ours.

    The cache trained further (Tip-Adapter-F) is not here. Each call of `logits` reads the training
    rows once, for all configurations.
    """

    description = "zero-shot logits plus similarities to the training rows of each class"
    source = "tip_adapter"
    settings = (
        Setting("alpha", 1.17, "α, weight of the cache; the release tries 0.1…3", low=0),
        Setting("beta", 1.0, "β, sharpness of the similarities; the release tries 0.1…7", low=0),
        Setting(
            "class_weight",
            "none",
            "equal weight in the cache for every row, or for every class",
            choices=("none", "balanced"),
        ),
    )
    needs_text = True
    bends = "a sum of similarities in the logits"

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(classes, 2 * classes)

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return 4 * (2 * BLOCK_ROWS * dim + 3 * ENTRIES)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weights = [
            s["alpha"] * class_weights(context, s["class_weight"] == "balanced") for s in settings
        ]
        weight = torch.stack(weights).float()
        return {"beta": column([s["beta"] for s in settings], weight), "class_weight": weight}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        each, weight = parameters["beta"].tolist(), parameters["class_weight"]
        votes = _votes(batch, sorted(set(each)), weight.shape[1])
        z = torch.nn.functional.linear(batch.x, text_weight(batch.context))
        made = [z + votes[beta].t() * own for beta, own in zip(each, weight, strict=True)]
        return torch.stack(made, 1)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        x, labels = (torch.cat(list(parts)) for parts in zip(*pieces(context), strict=True))
        tensors = {
            "weight": text_weight(context),
            "keys": torch.nn.functional.normalize(x, dim=1),
            "labels": labels,
            "class_weight": parameters["class_weight"],
            "sharpness": parameters["beta"][None],
        }
        return Reduction("cache", tensors)


def _votes(batch: Batch, betas: Sequence[float], classes: int) -> dict[float, Tensor]:
    """Σ_{i of class k} exp(−β(1 − ⟨x̂, x̂_i⟩)) [K, B] for each β."""
    queries = batch.unit.t()
    votes = {beta: queries.new_zeros(classes, queries.shape[1]) for beta in betas}
    for x, y in pieces(batch.context, max(1, ENTRIES // max(1, queries.shape[1]))):
        with precision("fp32"):
            behind = torch.nn.functional.normalize(x, dim=1) @ queries - 1
        for beta, sums in votes.items():
            sums.index_add_(0, y, (beta * behind).exp_())
    return votes
