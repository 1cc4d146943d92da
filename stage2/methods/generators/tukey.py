"""Tukey's ladder of powers, for features of either sign, and the spaces it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class FeatureSpace:
    """A space of features: T(x) = sign(x)|x|^λ of stage 1's, by default these themselves.

    Attributes
    ----------
    power
        λ > 0.
    unit
        Whether features are normalised to length 1 before T and after it.
    """

    power: float = 1.0
    unit: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Features of stage 1 [n, D] in this space."""
        x = tukey(torch.nn.functional.normalize(x, dim=1) if self.unit else x, self.power)
        return torch.nn.functional.normalize(x, dim=1) if self.unit else x


STAGE1 = FeatureSpace()
"""Features as they are in the bank."""
