"""Class weights ω_k, Σω = K: by a power of the counts, or by effective numbers of samples.

`reweighted` puts them, and focusing, on top of another loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.family import LossParameters, Moment

RHO = Setting("rho", 1.2, "exponent ρ: 1 weighs by 1/n, 0.5 by 1/√n", low=0)
BETA = Setting("beta", 0.9999, "effective-number β; 0 for equal weights", low=0, below=1)
NORMALISE = Setting(
    "normalise",
    "weights",
    "divide the loss by the sum of weights in the batch, or by the batch size",
    choices=("weights", "batch"),
)
DEFER = Setting(
    "defer",
    0,
    "first epoch with weights (deferred re-weighting); 0 from the start",
    low=0,
    role="epoch",
)

REWEIGHTING = (
    replace(RHO, default=0.0, help="exponent ρ of class weights ∝ (1/n)^ρ; 0 for none"),
    replace(BETA, default=0.0, help="effective-number β of class weights; 0 for none"),
    Setting("gamma", 0.0, "focusing exponent γ; 0 for none", low=0, role="focus"),
    replace(DEFER, help="first epoch with weights and focusing; 0 from the start"),
)
"""Settings of `reweighted`."""


def inverse_power_weights(counts: np.ndarray, rho: float) -> np.ndarray:
    """ω_k ∝ (1/n_k)^ρ, Σω = K [DisAlign eq. 11]; ρ = 0 weighs every class alike."""
    return _normalised((counts / counts.max()) ** -rho)


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """ω_k ∝ (1−β)/(1−β^n_k), Σω = K [CB eq. 4]; β = 0 weighs every class alike."""
    return _normalised(-1 / np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts))


def _normalised(weight: np.ndarray) -> np.ndarray:
    """Class weights with Σω = K."""
    return weight * len(weight) / weight.sum()


def reweighted(
    parameters: LossParameters, counts: np.ndarray, settings: Mapping[str, Any], moment: Moment
) -> LossParameters:
    """A loss with the weights and the focusing of `REWEIGHTING` from epoch ``defer`` on.

    The loss is divided by the batch's Σω, as that of `weighted` and `class_balanced`; with focusing
    it is averaged over the batch, as that of `cb_focal`.
    """
    if moment.epoch < settings["defer"]:
        return parameters
    rho, beta, gamma = settings["rho"], settings["beta"], settings["gamma"]
    weight = inverse_power_weights(counts, rho) if rho else None
    if beta:
        weight = effective_number_weights(counts, beta)
    by_weights = weight is not None and not gamma
    return replace(parameters, weight=weight, gamma=gamma, by_weights=by_weights)


def reweighting_conflict(settings: Mapping[str, Any]) -> str | None:
    """The problem of values of `REWEIGHTING` together, as `Loss.conflict`."""
    rho, beta, defer = settings["rho"], settings["beta"], settings["defer"]
    if rho and beta:
        return f"has two kinds of class weights, rho={rho:g} and beta={beta:g}. Choose one of them."
    if defer and not (rho or beta or settings["gamma"]):
        return f"has defer={defer} and nothing to defer. Set rho, beta or gamma, or leave it out."
    return None
