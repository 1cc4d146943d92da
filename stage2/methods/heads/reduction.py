"""What trained heads reduce to: a few forms, of which `stage2.export.forms` makes modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Reduction:
    """A head of one configuration as data.

    Attributes
    ----------
    form
        A name of `stage2.export.forms.FORMS`.
    tensors, options
        What that form takes.
    """

    form: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)


def affine(
    weight: Tensor, bias: Tensor | None = None, empty: Tensor | None = None, *, parts: int = 0
) -> Reduction:
    """z = W·t(x) + b, from W [K, D], b [K] (0 if not given) and the `empty` classes [K] bool, which
    rank behind all others; t gives each of `parts` pieces of x length 1, and is nothing for 0."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    empty = torch.zeros_like(bias, dtype=torch.bool) if empty is None else empty
    return Reduction("affine", {"weight": weight, "bias": bias, "empty": empty}, {"parts": parts})


def comparison_keys(rows: Tensor, metric: str) -> dict[str, Tensor]:
    """The ``keys`` [n, D] with which a metric compares features, and their ``origin``, from `rows`.

    For squared distances the origin is the mean of the rows: an offset that x and k share would
    leave little but rounding of ‖x‖² + ‖k‖² − 2⟨x, k⟩.
    """
    if metric == "cosine":
        return {"keys": normalize(rows, dim=1), "origin": torch.zeros_like(rows[0])}
    origin = rows.mean(0)
    return {"keys": rows - origin, "origin": origin}
