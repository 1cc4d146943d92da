"""Normalisation of the stage-1 logits, class by class [LogN]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings, Size
from stage2.methods.heads.moments import pieces
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

VARIANCE = 1e-11
"""Smallest variance that logits are divided by, as released."""


class LogN(Head):
    """z_k = (z⁰_k − μ_k + β)/σ_k with the mean μ_k and the standard deviation σ_k of logit k over
    all training rows, whatever their class.

    β = 0, or with ``offset=minimum`` the smallest μ_k, as released for detectors, whose background
    stays as it is. The release takes μ and σ as running averages over the batches of training; here
    they are those of the final classifier.
    """

    description = "stage-1 logits less their mean, divided by their deviation, class by class"
    source = "logn"
    settings = (
        Setting(
            "offset",
            "none",
            "β: 0, or the smallest mean as released for detectors",
            choices=("none", "minimum"),
        ),
    )

    bends = "normalised logits"

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes, classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        mean, deviation = _statistics(context)
        minimum = column([float(s["offset"] == "minimum") for s in settings], mean).double()
        shift = (minimum[:, None] * mean.min() - mean) / deviation
        return {"scale": (1 / deviation).expand_as(shift).float(), "shift": shift.float()}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return torch.addcmul(parameters["shift"], batch.z0, parameters["scale"])

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return parameters["scale"] * context.classifier[0].norm(dim=1)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        (weight, bias), scale = context.classifier, parameters["scale"]
        return affine(scale[:, None] * weight, scale * bias + parameters["shift"])


def _statistics(context: Context) -> tuple[Tensor, Tensor]:
    """μ and σ [K], float64, in one pass over the training rows, kept in the context."""
    cache = context.derived.setdefault("logn", {})
    if not cache:
        rows, (mean, squares) = (
            0,
            torch.zeros(2, len(context.counts), device=context.device).double(),
        )
        for x, _ in pieces(context):
            z = context.batch(x).z0[:, 0].double()
            step = z.mean(0) - mean  # of Chan's update: squares of raw logits would cancel
            squares += (z - z.mean(0)).square().sum(0)
            squares += step.square() * (rows * len(z) / (rows + len(z)))
            mean += step * (len(z) / (rows + len(z)))
            rows += len(z)
        cache["statistics"] = mean, (squares / max(rows, 1)).clamp_min(VARIANCE).sqrt()
    return cache["statistics"]
