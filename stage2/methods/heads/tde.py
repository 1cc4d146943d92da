"""The normalised classifier with the direction of the mean feature removed [TDE §4]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project, weight_gradient
from stage2.methods.heads.interface import (
    INIT,
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    Size,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import linear_start
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class TDE(TrainedHead):
    """z_k = τ/H·Σ_h ⟨x̂_h, ŵ_kh⟩ with x̂_h = x_h/‖x_h‖ and ŵ_kh = w_kh/(‖w_kh‖ + γ).

    Features and weights are split into H parts of D/H numbers each. Evaluation removes the
    contribution of the mean direction d of the features: x̂_h − α·cos(x_h, d_h)·d̂_h replaces x̂_h.
    Here d is the mean of all training rows. In the release it is a moving average (μ = 0.9) over
    the batches of a backbone in training; on frozen features with instance sampling, that would be
    a noisy estimate of the same mean.
    """

    description = "normalised classifier; evaluation removes the direction of the mean feature"
    source = "tde"
    settings = (
        INIT,
        Setting("heads", 2, "number of parts H the features are split into; must divide D", low=1),
        Setting("scale", 16.0, "scale τ, divided among the parts", above=0),
        Setting("gamma", 1 / 32, "γ, added to the norm of each weight", low=0),
        Setting("alpha", 1.5, "α, weight of the direction removed; 3 for ImageNet-LT", low=0),
        *MAX_NORM,
    )
    shared = ("heads",)
    bends = "the mean direction taken out"

    def problem(self, settings: Settings, dim: int) -> str | None:
        if dim % settings["heads"]:
            return (
                f"Head 'tde' cannot split D={dim} features into heads={settings['heads']} equal "
                f"parts. Give a number of heads that divides {dim}."
            )
        return super().problem(settings, dim)

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes * dim, 2 * classes)  # W and its normalised rows

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return np.zeros_like(log_shares)  # that of the head classes is what it takes out

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        for s in settings:
            self.check(s, context.dim)
        weight = linear_start(settings, context)["weight"]
        (heads,) = {s["heads"] for s in settings}
        direction = torch.nn.functional.normalize(context.mean.view(heads, -1), dim=1)
        constants = {
            name: column([s[name] for s in settings], weight)[:, None]
            for name in ("scale", "gamma", "alpha")
        }
        return {
            "weight": weight,
            **constants,
            "direction": direction.expand(len(settings), -1, -1).clone(),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        parts = _parts(parameters)
        _, slope = _lengths(parts, parameters)
        return project(_unit(parameters, batch), (parts * slope).view_as(parameters["weight"]))

    def evaluate(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(_unit(parameters, batch), _evaluated(parameters))

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With n = ‖w‖ and M = Gᵀx̂, part by part:
        # ∂L/∂w = τ/H·(M/(n+γ) − ⟨M, w⟩w/(n(n+γ)²)) = τ/(H(n+γ))·(M − ⟨M, w⟩/(n(n+γ))·w).
        parts = _parts(parameters)
        length, slope = _lengths(parts, parameters)
        toward = weight_gradient(grad, _unit(parameters, batch)).view_as(parts)
        along = (toward * parts).sum(3, keepdim=True)
        reach = length * (length + parameters["gamma"][:, :, None, None])
        toward.addcmul_(parts, along.div_(reach), value=-1).mul_(slope)
        return {"weight": toward.view_as(parameters["weight"])}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        # The weights of `evaluate`: ŵ without its component along the mean direction.
        stack = {name: value[None] for name, value in parameters.items()}
        return affine(_evaluated(stack)[0], parts=len(parameters["direction"]))


def _parts(parameters: Parameters) -> Tensor:
    """W as [C, K, H, D/H]."""
    return parameters["weight"].unflatten(2, parameters["direction"].shape[1:])


def _lengths(parts: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """n = ‖w_kh‖ and τ/(H(n+γ)), both [C, K, H, 1]."""
    scale, gamma = parameters["scale"][:, :, None, None], parameters["gamma"][:, :, None, None]
    length = torch.linalg.vector_norm(parts, dim=3, keepdim=True).clamp_min_(1e-12)
    return length, scale / parts.shape[2] / (length + gamma)


def _evaluated(parameters: Parameters) -> Tensor:
    """Scaled W [C, K, D] less α times its component along the mean direction."""
    # ⟨x̂ − α⟨x̂, d̂⟩d̂, ŵ⟩ = ⟨x̂, ŵ − α⟨d̂, ŵ⟩d̂⟩: moving the removal from x̂ to ŵ.
    parts = _parts(parameters)
    _, slope = _lengths(parts, parameters)
    scaled, direction = parts * slope, parameters["direction"][:, None]
    along = (scaled * direction).sum(3, keepdim=True) * parameters["alpha"][:, :, None, None]
    rest = scaled.addcmul_(along, direction, value=-1)
    return rest.view_as(parameters["weight"])


def _unit(parameters: Parameters, batch: Batch) -> Tensor:
    """Features with each of the H parts normalised, [B, D] or [B, C, D]."""
    parts = batch.x.unflatten(-1, parameters["direction"].shape[1:])
    return torch.nn.functional.normalize(parts, dim=-1).flatten(-2)
