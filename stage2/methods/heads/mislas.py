"""The MiSLAS head: learnable weight scaling on a gently fine-tuned classifier [MiSLAS eq. 4]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featbank.settings import Setting
from stage2.methods.heads.algebra import project, weight_gradient
from stage2.methods.heads.interface import (
    MAX_NORM,
    Batch,
    Context,
    Parameters,
    Settings,
    TrainedHead,
)
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import stage1_linear


class MiSLAS(TrainedHead):
    """z = s ⊙ (Wx + b) with W = W₀ + ΔW: s at the recipe's lr, W and b at lr·delta_lr.

    As released, W itself is fine-tuned, the bias is scaled too, and weight decay acts on all three.
    With ``decay=delta`` it acts on W − W₀ and b − b₀, as if these were the trained parameters.
    """

    description = "per-class scale on a classifier fine-tuned at lr·delta_lr"
    source = "mislas"
    settings = (
        Setting("delta_lr", 0.2, "learning-rate multiplier of W and b; 0 freezes them", low=0),
        Setting(
            "decay",
            "weight",
            "apply weight decay to W and b as released, or to ΔW and Δb",
            choices=("weight", "delta"),
        ),
        *MAX_NORM,
    )
    shared = ("decay",)
    biases = ("bias",)

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        parameters = stage1_linear(len(settings), context)
        return {**parameters, "scale": torch.ones_like(parameters["bias"])}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, parameters["weight"], parameters["bias"]).mul_(parameters["scale"])

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return parameters["scale"].abs() * parameters["weight"].norm(dim=2)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With M = Gᵀx [C, K, D] and g = Σ_b G [C, K], the three gradients do not need the logits:
        # ∂L/∂s_k = ⟨M_k, w_k⟩ + g_k b_k,  ∂L/∂w_k = s_k M_k,  ∂L/∂b_k = s_k g_k.
        scale = parameters["scale"]
        product, total = weight_gradient(grad, batch.x), grad.sum(0)
        along = (product * parameters["weight"]).sum(2)
        return {
            "scale": along.addcmul_(total, parameters["bias"]),
            "weight": product.mul_(scale[:, :, None]),
            "bias": total.mul_(scale),
        }

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        delta = [s["delta_lr"] for s in settings]
        return {"weight": delta, "bias": delta}

    def anchors(self, settings: Sequence[Settings], context: Context) -> Parameters:
        return stage1_linear(1, context) if settings[0]["decay"] == "delta" else {}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        scale = parameters["scale"]
        return affine(scale[:, None] * parameters["weight"], scale * parameters["bias"])
