"""τ-normalisation of the stage-1 classifier [cRT §4.2]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.starts import stage1_linear


class TauNorm(AffineHead):
    """z_k = (w_k/‖w_k‖^τ)·x; the bias is dropped, as released, or kept with ``keep_bias``."""

    description = "stage-1 weights divided by their norm to the power τ"
    source = "crt"
    settings = (
        Setting("tau", 1.0, "exponent τ: 0 keeps W₀, 1 normalises its rows; grid 0…2", low=0),
        Setting("keep_bias", False, "keep the stage-1 bias b₀, unscaled"),
    )

    bends = "normalised weights"

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return max(0.0, 1 - settings["tau"]) * log_shares

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        stage1 = stage1_linear(len(settings), context)
        weight, bias = stage1["weight"], stage1["bias"]
        tau = column([s["tau"] for s in settings], weight)
        keep = column([float(s["keep_bias"]) for s in settings], weight)
        length = weight.norm(dim=2, keepdim=True).clamp_min(1e-12)
        return {"weight": weight / length ** tau[:, None, None], "bias": bias * keep[:, None]}
