"""Class weights ω_k, Σω = K: by a power of the counts, or by effective numbers of samples."""

from __future__ import annotations

import numpy as np

from featbank.settings import Setting

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


def inverse_power_weights(counts: np.ndarray, rho: float) -> np.ndarray:
    """ω_k ∝ (1/n_k)^ρ, Σω = K [DisAlign eq. 11]; ρ = 0 weighs every class alike."""
    return _normalised((counts / counts.max()) ** -rho)


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """ω_k ∝ (1−β)/(1−β^n_k), Σω = K [CB eq. 4]; β = 0 weighs every class alike."""
    return _normalised(-1 / np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts))


def _normalised(weight: np.ndarray) -> np.ndarray:
    """Class weights with Σω = K."""
    return weight * len(weight) / weight.sum()
