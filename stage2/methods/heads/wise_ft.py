"""Interpolation of a trained classifier with that of text, WiSE-FT [Wortsman et al. 2022 eq. 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.algebra import column, project
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings
from stage2.methods.heads.linear import Linear
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.text import text_weight, text_weights
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class WiSEFT(Linear):
    """z = Wx + b, trained from W_t of text; it is evaluated with (1−α)W_t + αW and αb.

    On frozen features the interpolation of all weights, which the paper proposes, is that of the
    classifiers, and so of the logits: α = 0 is zero-shot, α = 1 the trained head. All α train the
    same W.
    """

    description = "linear classifier from text, averaged with that of text after training"
    source = "wise_ft"
    settings = (
        Setting(
            "alpha",
            0.5,
            "α, share of the trained classifier in the average; grid 0…1",
            low=0,
            high=1,
        ),
    )
    needs_text = True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        weight = text_weights(len(settings), context)
        return {
            "weight": weight,
            "bias": weight.new_zeros(weight.shape[:2]),
            "alpha": column([s["alpha"] for s in settings], weight)[:, None],
        }

    def evaluate(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, *_averaged(parameters, batch.context))

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor:
        return _averaged(parameters, context)[0].norm(dim=2)

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return settings["alpha"] * log_shares  # no prior is in the logits of text

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = _averaged({name: p[None] for name, p in parameters.items()}, context)
        return affine(weight[0], bias[0])


def _averaged(parameters: Parameters, context: Context) -> tuple[Tensor, Tensor]:
    """(1−α)W_t + αW [C, K, D] and αb [C, K]."""
    alpha = parameters["alpha"]
    weight = torch.lerp(text_weight(context), parameters["weight"], alpha[:, :, None])
    return weight, alpha * parameters["bias"]
