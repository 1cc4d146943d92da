"""The class-adaptive linear probe, held near text [Silva-Rodríguez et al. 2024]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.heads.cosine import Cosine
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.text import text_rows, text_weight
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class CLAP(Cosine):
    """z_k = s·⟨w_k/‖w_k‖, x/‖x‖⟩ from w_k = t_k, with (1/K) Σ_k λ_k‖w_k − t_k‖² added to the loss.

    λ_k is the mean probability that text gives class k on the training rows of that class: where
    text is right, the probe stays near it. It is 1 for a class without rows. As in the release, s
    is the logit scale of text and is not trained, and λ_k does not change in training.

    The penalty is the recipe's weight decay: 1 is that of the release, c is c times as much.
    """

    description = "cosine classifier from text, penalised for leaving it where text is right"
    source = "clap"
    settings = ()
    needs_text = True
    bends = "a penalty towards text"

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        assert context.text is not None
        weight = _prototypes(context).repeat(len(settings), 1, 1)
        scale = torch.full((len(settings), 1), context.text.logit_scale, device=weight.device)
        return {"weight": weight, "scale": scale}

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        return {"scale": [0.0] * len(settings)}

    def anchors(self, settings: Sequence[Settings], context: Context) -> Parameters:
        return {"weight": _prototypes(context)}

    def decay_weights(self, settings: Sequence[Settings], context: Context) -> Parameters:
        # Weight decay c adds c/2·‖w − t‖².
        return {"weight": 2 / len(context.counts) * _certainty(context)[None, :, None]}


def _prototypes(context: Context) -> Tensor:
    """t_k at length 1, [1, K, D]."""
    return torch.nn.functional.normalize(text_weight(context), dim=1)[None]


def _certainty(context: Context) -> Tensor:
    """λ [K], from one pass over the training rows; cached in the context."""
    cache = context.derived.setdefault("clap", {})
    if not cache:
        classes = len(context.counts)
        total = torch.zeros(classes, dtype=torch.float64, device=context.device)
        rows = torch.zeros_like(total)
        for z, y in text_rows(context):
            own = z.softmax(1).gather(1, y[:, None])[:, 0]
            total.index_add_(0, y, own.double())
            rows += torch.bincount(y, minlength=classes)
        cache["certainty"] = torch.where(rows > 0, total / rows, 1.0).float()
    return cache["certainty"]
