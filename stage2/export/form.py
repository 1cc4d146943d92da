"""`Form`, what the forms of exported heads have in common.

Axes: B rows, or maps of height H and width W; K classes, D features.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import normalize

from stage2.methods.generators.tukey import STAGE1

Allowed = Callable[[Any], bool]

SPACE: dict[str, Allowed] = {
    "power": lambda value: isinstance(value, float) and 0 < value < math.inf,
    "unit": lambda value: isinstance(value, bool),
}
"""Options of every form, with their values: `stage2.methods.generators.tukey.FeatureSpace`."""

PART = 16
"""Features whose squares are added at once."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Wx + b of rows x [B, D], or of every cell of maps [B, D, H, W] as a 1 × 1 convolution."""
    if x.dim() == 4:
        return functional.conv2d(x, weight[:, :, None, None], bias)
    return functional.linear(x, weight, bias)


def by_length(z: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """z/‖x‖ + b of products z [B, K, …] with x [B, D, …], rows or maps.

    It is a pass over x and one over z; to scale x itself would be two more passes over x.
    """
    # Summed in place, part by part: squares of all features would not stay in cache. A runtime of
    # ONNX would copy the parts.
    first, *others = [x] if torch.compiler.is_exporting() else x.split(PART, 1)
    squares = first.square()
    for part in others:
        squares[:, : part.shape[1]].addcmul_(part, part)
    length = squares.sum(1, keepdim=True).clamp(min=1e-24).sqrt()
    return torch.addcmul(beside(bias, z), z, 1 / length)


def beside(values: Tensor, x: Tensor) -> Tensor:
    """Values [D] of the features, or [1], in axes that broadcast to those of x [B, D, …]."""
    return values.reshape(-1, *[1] * (x.dim() - 2))


class Form(nn.Module):
    """A classifier on the features of one view, [B, D] → logits [B, K], or on maps of them,
    [B, D, H, W] → [B, K, H, W].

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
    on_maps: bool = False
    """Whether `classify` takes maps too; otherwise their cells are given to it as rows."""

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
        if x.dim() == 4 and not self.on_maps:
            rows = x.permute(0, 2, 3, 1)  # [B, H, W, D]
            z = self.forward(rows.flatten(0, 2)).unflatten(0, rows.shape[:3])
            return z.permute(0, 3, 1, 2)
        if self.to_unit:
            x = normalize(x, dim=1)
        if self.power != 1:
            x = x.sign() * x.abs().pow(self.power)
        return self.classify(normalize(x, dim=1) if self.to_unit else x)

    @abstractmethod
    def classify(self, x: Tensor) -> Tensor:
        """Logits [B, K] of features [B, D] in the space it was trained in; of maps, where a form
        is `on_maps`."""
