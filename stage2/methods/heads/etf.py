"""A fixed simplex as classifier behind a trained projection [ETF]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project, target_logits, weight_gradient
from stage2.methods.heads.interface import (
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.starts import fresh_linear
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class ETF(TrainedHead):
    """z_k = s·⟨m_k, ĥ⟩ with h = Vx + a in R^K, ĥ = h/‖h‖ and a simplex of unit m_k.

    The m_k, at equal angles of cosine −1/(K−1), are the columns of √(K/(K−1))·(I − 11ᵀ/K), so that
    z is ĥ less its mean, times s√(K/(K−1)). The paper rotates them at random; V can undo that. The
    paper trains the backbone where V and a, the parameters ``projection`` and ``offset``, are
    trained here.
    """

    description = "fixed simplex of class directions behind a trained projection"
    source = "etf"
    settings = (Setting("scale", 16.0, "s of the logits", above=0),)
    biases = ("offset",)

    def problem(self, settings: Settings, dim: int) -> str | None:
        return None

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(classes * dim, 4 * classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        shape = (len(context.counts), context.dim)
        fresh = fresh_linear(settings, shape, context.device)
        scale = column([s["scale"] for s in settings], fresh["bias"])[:, None]
        return {"projection": fresh["weight"], "offset": fresh["bias"], "scale": scale}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        unit, _ = _unit(parameters, batch)
        return unit.sub_(unit.mean(2, keepdim=True)).mul_(_spread(parameters))

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # ∂L/∂ĥ = s√(K/(K−1))·(G less its mean), and ∂L/∂h its component orthogonal to ĥ over ‖h‖.
        unit, length = _unit(parameters, batch)
        back = (grad - grad.mean(2, keepdim=True)).mul_(_spread(parameters))
        along = (back * unit).sum(2, keepdim=True)
        back = back.addcmul_(unit, along, value=-1).div_(length)
        return {"projection": weight_gradient(back, batch.x), "offset": back.sum(0)}

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        return target_logits(z, y).div_(parameters["scale"].view(-1)).nan_to_num_(0).clamp_(-1, 1)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        projection, offset = parameters["projection"], parameters["offset"]
        simplex = _simplex(len(offset), projection) * parameters["scale"]
        tensors = {"hidden_weight": projection, "hidden_bias": offset, "weight": simplex}
        return Reduction("projected", tensors)


def _unit(parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
    """ĥ [B, C, K] and ‖h‖ [B, C, 1]."""
    h = project(batch.x, parameters["projection"], parameters["offset"])
    length = torch.linalg.vector_norm(h, dim=2, keepdim=True).clamp_min_(1e-12)
    return h.div_(length), length


def _spread(parameters: Parameters) -> Tensor:
    """s√(K/(K−1)), [C, 1]."""
    classes = parameters["offset"].shape[1]
    return parameters["scale"] * math.sqrt(classes / max(1, classes - 1))


def _simplex(classes: int, like: Tensor) -> Tensor:
    """The m_k as rows, √(K/(K−1))·(I − 11ᵀ/K)."""
    rows = torch.eye(classes, dtype=like.dtype, device=like.device) - 1 / classes
    return rows * math.sqrt(classes / max(1, classes - 1))
