"""Post-hoc logit adjustment [LA eq. 9]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings, Size
from stage2.methods.heads.moments import class_log_prior
from stage2.methods.heads.reduction import Reduction, affine

if TYPE_CHECKING:
    from torch import Tensor


class LogitAdjust(Head):
    """z_k = z⁰_k − τ log π_k."""

    description = "stage-1 logits minus τ times the log prior"
    source = "logit_adjust"
    uses_counts = True
    settings = (Setting("tau", 1.0, "strength τ of the prior", low=0),)

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(classes, classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        self.require(context.counts)
        log_prior = class_log_prior(context)
        tau = column([s["tau"] for s in settings], log_prior)
        return {"shift": -tau[:, None] * log_prior.float()}

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return context.classifier[0].norm(dim=1).expand(len(parameters["shift"]), -1)

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return batch.z0 + parameters["shift"]

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return (1 - settings["tau"]) * log_shares

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = context.classifier
        return affine(weight, bias + parameters["shift"])
