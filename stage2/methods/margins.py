"""Margins and noise on cosines by training counts: `ldam`, `gcl`."""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_weights import BETA, effective_number_weights
from stage2.methods.family import LossParameters, Moment

_SCALE = Setting(
    "scale",
    None,
    "logit scale s of the margin; if not set, the head's, or 1 where it has none",
    above=0,
    kind=float,
    role="head",
)
LDAM = (
    Setting(
        "max_margin",
        0.5,
        "largest margin, on the cosine (0.3 on iNaturalist) or on logits without a scale",
        low=0,
    ),
    _SCALE,
    Setting("exponent", 0.25, "exponent of n_min/n in the margin", low=0),
    Setting(
        "defer",
        0,
        "first epoch with class-balanced weights; 0 for none",
        low=0,
        role="epoch",
    ),
    BETA,
)
"""Settings of `ldam`."""

GCL = (
    Setting("margin", 0.1, "margin m of the true class, on the cosine", low=0),
    _SCALE,
    Setting("cloud", 0.5, "amplitude of the noise of the rarest class, on the cosine", low=0),
    Setting("gamma", 1.0, "focusing exponent γ, whose factor carries no gradient", low=0),
)
"""Settings of `gcl`."""

STAGE1_SCALE = 30.0
"""The s of stage 1's cosine classifier, and of a loss that no head gives one."""


def ldam(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Label-distribution-aware margin, max_margin·(n_k/n_min)^{−1/4} on the cosine [LDAM eq. 13].

    On logits z = s·cos the margin is s times as large. The `cosine` head brings the s, so that the
    head's softmax is the one that the loss trained; a recipe takes the loss's s from its head. On a
    head without a scale, such as `linear`, s is 1 and max_margin is in logits, as in the
    shared-backbone table of LOS; ``exponent`` is the ¼.
    From epoch ``defer`` > 0 the weights of `class_balanced` act as well: deferred re-weighting,
    DRW.
    """
    scale = settings["scale"] or STAGE1_SCALE
    margin = scale * settings["max_margin"] * (counts / counts.min()) ** -settings["exponent"]
    if 0 < settings["defer"] <= moment.epoch:
        weight = effective_number_weights(counts, settings["beta"])
        return LossParameters(margin=margin, weight=weight, by_weights=True)
    return LossParameters(margin=margin)


def gcl(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Gaussian clouded logits, u_k = s(cosθ_k − a·δ_k·|ε_k| − m·1[k=y]) [GCL, as released].

    δ_k = log(n_max/n_k)/log(n_max/n_min), and ε ~ N(0, ⅓²), cut at ±1, is drawn anew for each row
    and class. Defaults are those that the release retrains a classifier with, at s = 20; its
    (1−p_y)^γ carries no gradient. Rows with two labels have the same noise for both.
    """
    scale = settings["scale"] or STAGE1_SCALE
    behind = np.log(counts.max() / counts)
    share = behind / behind.max() if behind.any() else behind
    return LossParameters(
        margin=np.full_like(counts, scale * settings["margin"]),
        cloud=scale * settings["cloud"] * share,
        frozen_gamma=settings["gamma"],
    )
