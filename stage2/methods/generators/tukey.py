"""Tukey's ladder of powers, for features of either sign."""

from __future__ import annotations

from torch import Tensor


def tukey(x: Tensor, power: float) -> Tensor:
    """T(x) = sign(x)|x|^λ, elementwise [DC eq. 3, GLAG §4.2]; `power` is λ > 0."""
    if power == 1:
        return x
    root = x.abs().sqrt_() if power == 0.5 else x.abs().pow_(power)
    return root.copysign_(x)


def inverse_tukey(x: Tensor, power: float) -> Tensor:
    """T⁻¹(x) = sign(x)|x|^(1/λ)."""
    if power == 1:
        return x
    if power == 0.5:
        return x * x.abs()
    return x.abs().pow_(1 / power).copysign_(x)
