"""The linear classifier, retrained (cRT) or fine-tuned from stage 1 [cRT §4.1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from featbank.settings import Setting
from stage2.methods.heads.algebra import broadcast, cosines_of_logits, project, weight_gradient
from stage2.methods.heads.interface import (
    INIT,
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import linear_start

if TYPE_CHECKING:
    from torch import Tensor


class Linear(TrainedHead):
    """z = Wx + b."""

    description = "linear classifier, fresh (cRT), from stage 1 or from text"
    source = "crt"
    settings: ClassVar[tuple[Setting, ...]] = (
        INIT,
        *MAX_NORM,
    )
    convex = True
    biases = ("bias",)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        return linear_start(settings, context)

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, parameters["weight"], parameters["bias"])

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        return {"weight": weight_gradient(grad, batch.x), "bias": grad.sum(0)}

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        lengths = broadcast(batch.x).norm(dim=2)
        return cosines_of_logits(z, y, lengths, parameters["weight"], parameters["bias"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return affine(parameters["weight"], parameters["bias"])
