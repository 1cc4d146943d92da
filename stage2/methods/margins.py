"""Margins of the true class by training counts: `ldam`."""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_weights import BETA, effective_number_weights
from stage2.methods.family import LossParameters, Moment

LDAM = (
    Setting(
        "max_margin",
        0.5,
        "largest margin, on the cosine (0.3 on iNaturalist) or on logits without a scale",
        low=0,
    ),
    Setting(
        "scale",
        None,
        "logit scale s of the margin; if not set, the head's, or 1 where it has none",
        above=0,
        kind=float,
        role="head",
    ),
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


def ldam(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Label-distribution-aware margin, max_margin·(n_k/n_min)^{−1/4} on the cosine [LDAM eq. 13].

    On logits z = s·cos the margin is s times as large. The `cosine` head brings the s, so that the
    head's softmax is the one that the loss trained; a recipe takes the loss's s from its head. On a
    head without a scale, such as `linear`, s is 1 and max_margin is in logits, as in the
    shared-backbone table of LOS; ``exponent`` is the ¼.
    From epoch ``defer`` > 0 the weights of `class_balanced` act as well: deferred re-weighting,
    DRW.
    """
    scale = 30.0 if settings["scale"] is None else settings["scale"]  # that of stage 1's cosine
    margin = scale * settings["max_margin"] * (counts / counts.min()) ** -settings["exponent"]
    if 0 < settings["defer"] <= moment.epoch:
        weight = effective_number_weights(counts, settings["beta"])
        return LossParameters(margin=margin, weight=weight, by_weights=True)
    return LossParameters(margin=margin)
