"""Data of finished heads in a few forms, from which `stage2.export.forms` builds modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reduction:
    """The head of one configuration as data.

    Attributes
    ----------
    form
        A name of `stage2.export.forms.FORMS`.
    tensors, options
        Inputs of that form.
    """

    form: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)


def affine(
    weight: Tensor, bias: Tensor | None = None, empty: Tensor | None = None, *, parts: int = 0
) -> Reduction:
    """z = W·t(x) + b, with W [K, D], b [K] (default 0) and the `empty` classes [K] bool, which rank
    behind all others; t normalises each of `parts` pieces of x, and is the identity for 0."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    empty = torch.zeros_like(bias, dtype=torch.bool) if empty is None else empty
    return Reduction("affine", {"weight": weight, "bias": bias, "empty": empty}, {"parts": parts})


def comparison_keys(rows: Tensor, metric: str) -> dict[str, Tensor]:
    """Turn `rows` into ``keys`` [n, D] that a metric compares features with, and their ``origin``.

    For squared distances the origin is the mean of the rows: with a large offset shared by x and k,
    ‖x‖² + ‖k‖² − 2⟨x, k⟩ would be mostly rounding error.
    """
    if metric == "cosine":
        return {
            "keys": torch.nn.functional.normalize(rows, dim=1),
            "origin": torch.zeros_like(rows[0]),
        }
    origin = rows.mean(0)
    return {"keys": rows - origin, "origin": origin}
