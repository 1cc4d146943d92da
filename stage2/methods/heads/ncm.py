"""The nearest class mean [cRT §4.1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings
from stage2.methods.heads.moments import pieces
from stage2.methods.heads.reduction import Reduction, comparison_keys
from stage2.methods.heads.transforms import TRANSFORMS, centers, rank_empty_last, transformed
from stage2.methods.neighbors import class_distances
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class NCM(Head):
    """z_k = −‖t(x) − c_k‖², or the cosine of t(x) and c_k, with c_k the mean of t(x) over class k.

    t is ``un`` (identity), ``l2n`` (unit length) or ``cl2n`` (centred on the mean of all training
    rows, then unit length); class means are not normalised again. A class without samples is never
    predicted.
    """

    description = "nearest class mean"
    source = "crt"
    settings = (
        Setting("transform", "cl2n", "transform of the features", choices=tuple(TRANSFORMS)),
        Setting("metric", "l2", "squared Euclidean distance or cosine", choices=("l2", "cosine")),
    )

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        return 8 * dim * (classes + 3 * SUMMED_ROWS)  # sums, and rows on their way into them

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        center = centers(settings, context)
        transforms = {s["transform"]: mean for s, mean in zip(settings, center, strict=True)}
        means_of = _class_means(transforms, context)
        means = torch.stack([means_of[s["transform"]] for s in settings])
        return {
            "means": means,
            "center": center,
            "transform": column([_NAMES.index(s["transform"]) for s in settings], means),
            "cosine": column([float(s["metric"] == "cosine") for s in settings], means),
            "empty": torch.from_numpy(context.counts == 0)
            .to(context.device)
            .expand(len(settings), -1)
            .clone(),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        each = []
        for c in range(len(parameters["means"])):
            name = _NAMES[int(parameters["transform"][c])]
            rows = transformed(batch.x, name, parameters["center"][c])
            means = parameters["means"][c]
            if parameters["cosine"][c]:
                z = class_distances(
                    torch.nn.functional.normalize(rows, dim=1),
                    torch.nn.functional.normalize(means, dim=1),
                    "dot",
                )
            else:
                z = class_distances(rows, means, "l2").neg_()
            each.append(z)
        z = each[0][:, None] if len(each) == 1 else torch.stack(each, 1)
        return rank_empty_last(z, parameters["empty"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        keys = comparison_keys(parameters["means"], settings["metric"])
        tensors = {name: parameters[name] for name in ("center", "empty")}
        return Reduction(
            "means", {**tensors, **keys}, {name: settings[name] for name in ("transform", "metric")}
        )


_NAMES = tuple(TRANSFORMS)

SUMMED_ROWS = 1024
"""Rows that are transformed, converted to float64 and summed at once."""


def _class_means(transforms: Mapping[str, Tensor], context: Context) -> dict[str, Tensor]:
    """Class means [K, D] of t(x) by transform t; `transforms` gives the center [D] of each."""
    classes = len(context.counts)
    rows = torch.zeros(classes, dtype=torch.float64, device=context.device)
    totals = {
        name: torch.zeros(classes, context.dim, dtype=torch.float64, device=context.device)
        for name in transforms
    }
    for x, y in pieces(context, SUMMED_ROWS):
        rows += torch.bincount(y, minlength=classes)
        for name, total in totals.items():
            total.index_add_(0, y, transformed(x, name, transforms[name]).double())
    return {name: (total / rows.clamp_min(1)[:, None]).float() for name, total in totals.items()}
