"""The linear probe with a learned share of text for each class, LP++ [Huang et al. 2024 eq. 2]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import broadcast, cosines_of_logits, project, weight_gradient
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings, TrainedHead
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.text import text_weight
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class LPPlus(TrainedHead):
    """z_k = w_k·x + b_k + (1 + α_k)·s·⟨t_k, x/‖x‖⟩: W, b and α trained, all from 0.

    So it starts as zero-shot, and weight decay pulls it there. The logits are affine in everything
    trained: with ``optimiser=lbfgs`` they have their optimum, whatever the rates.

    The release takes full-batch steps of 4N/λ_max(XᵀX) for W and, every tenth time, of
    N/(4·max_k Σ_i⟨x_i, t_k⟩²) for the share of text, from class means and one share for all classes
    that it estimates. For features of length c as here, and s = 100, these steps are near 0.05
    for W and 5e-4 for α; steps on batches and ``alpha_lr`` are ours.
    """

    description = "linear classifier plus a learned share of the zero-shot logits of each class"
    source = "lp_plus"
    settings = (
        Setting("alpha_lr", 0.01, "learning-rate multiplier of α; 0 freezes it at 0", low=0),
    )
    convex = True
    biases = ("bias",)
    needs_text = True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weight = torch.zeros_like(text_weight(context)).repeat(len(settings), 1, 1)
        bias = weight.new_zeros(weight.shape[:2])
        return {"weight": weight, "bias": bias, "alpha": torch.zeros_like(bias)}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        share = 1 + parameters["alpha"]
        z = project(batch.x, parameters["weight"], parameters["bias"])
        return z.addcmul_(_text(batch), share)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        return {
            "weight": weight_gradient(grad, batch.x),
            "bias": grad.sum(0),
            "alpha": (grad * _text(batch)).sum(0),
        }

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        lengths = broadcast(batch.x).norm(dim=2)
        weight = _whole(parameters, batch.context)
        return cosines_of_logits(z, y, lengths, weight, parameters["bias"])

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return _whole(parameters, context).norm(dim=2)

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        return {"alpha": [s["alpha_lr"] for s in settings]}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        return affine(_whole(parameters, context), parameters["bias"])


def _text(batch: Batch) -> Tensor:
    """The logits of text, [B, 1, K] or [B, C, K]."""
    return torch.nn.functional.linear(broadcast(batch.x), text_weight(batch.context))


def _whole(parameters: Parameters, context: Context) -> Tensor:
    """w_k + (1 + α_k)·t_k, [C, K, D] or [K, D]."""
    return parameters["weight"] + (1 + parameters["alpha"])[..., None] * text_weight(context)
