"""Heads in closed form whose logits are affine in the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage2.methods.heads.algebra import project
from stage2.methods.heads.interface import Batch, Context, Head, Parameters, Settings
from stage2.methods.heads.reduction import Reduction, affine

if TYPE_CHECKING:
    from torch import Tensor


class AffineHead(Head):
    """z = Wx + b; `init` solves for the parameters ``weight`` [C, K, D] and ``bias`` [C, K].

    An optional parameter ``empty`` [C, K] marks classes that rank behind all others.
    """

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, parameters["weight"], parameters["bias"])

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return affine(parameters["weight"], parameters["bias"], parameters.get("empty"))
