"""`Form`, what the forms of exported heads have in common.

Axes: B rows, K classes, D features.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import normalize

from stage2.methods.generators.tukey import STAGE1

Allowed = Callable[[Any], bool]

SPACE: dict[str, Allowed] = {
    "power": lambda value: isinstance(value, float) and 0 < value < math.inf,
    "unit": lambda value: isinstance(value, bool),
}
"""Options of every form, with their values: `stage2.methods.generators.tukey.FeatureSpace`."""


class Form(nn.Module):
    """A classifier on the features of one view, [B, D] → logits [B, K].

    Features are first moved to the space in which a generator let the head see them: with ``power``
    λ ≠ 1 by Tukey's transform sign(x)|x|^λ, with ``unit`` normalised to length 1 before and after.

    Parameters
    ----------
    tensors
        By the names of `shapes`, in those shapes.
    options
        By the names of `allowed` and `SPACE`.
    """

    shapes: ClassVar[dict[str, str]]
    """Axes of each tensor; K, D and 1 are given by the head, the others are free."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Tensors that are not parameters."""
    allowed: ClassVar[dict[str, Allowed]] = {}
    """Test of each option's value."""

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = {**asdict(STAGE1), **options}
        self.power, self.to_unit = self.options["power"], self.options["unit"]
        for name in self.shapes:
            values = tensors[name].detach().clone().contiguous()
            if name in self.constants:
                self.register_buffer(name, values)
            else:
                self.register_parameter(name, nn.Parameter(values))

    def forward(self, x: Tensor) -> Tensor:
        if self.to_unit:
            x = normalize(x, dim=1)
        if self.power != 1:
            x = x.sign() * x.abs().pow(self.power)
        return self.classify(normalize(x, dim=1) if self.to_unit else x)

    @abstractmethod
    def classify(self, x: Tensor) -> Tensor:
        """Logits [B, K] of features [B, D] in the space it was trained in."""
