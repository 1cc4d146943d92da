"""Features in the unit that published settings were made for.

Weights of a linear head on k·x that are 1/k times as large give the same logits, but a step of SGD
moves these logits by k² as much: a learning rate is in units of the features. Those of the presets
were made for features of a certain norm, and on others the order of the methods depends on the
scale of the features as much as on the methods. Recipes can therefore be trained on

    x̂ = (x − μ) ⊙ s,   Ŵ₀ = W₀/s,   b̂₀ = b₀ + W₀μ,

which leaves the logits W₀x + b₀ as they are. Everything that a recipe does happens to x̂. An
exported head takes x: the map to x̂ is in its weights where it is affine, else its first step.

- ``auto``: μ = 0, s = `PUBLISHED_NORM`/r with r the root mean square norm of the training features.
- ``standardise``: μ and σ are the mean and standard deviation of each dimension over the training
  features, s = c/σ with c such that the root mean square norm of x̂ is `PUBLISHED_NORM`. A dimension
  that does not vary in training has the root mean square of the others' σ, and does not count
  towards the norm.
- ``unit``: x̂ = c·x/‖x‖ with c = `PUBLISHED_NORM`; a row of zeros stays one. No W₀ for x has its
  logits on x̂, so a probe of x̂ takes its place. Recipes on text are trained so, with the W₀ of text.
- A number s: μ = 0 and this s, where a bank records one.
- ``none``: x̂ = x.

A recipe that does not set ``feature_scale`` is trained with what the bank records as its default
(`featbank.bank.Bank.default_scale`); else with ``auto`` on features that stage 1 was not trained
on, whose norm a bank records (`featbank.bank.Bank.norm`), and with ``none`` on all others: these
have the scale that stage 1 gave them together with W₀.

Scale and shift are those of ``train``, all copies, whatever split a recipe is trained on; a fold in
memory has those of its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from featbank.bank import Bank
from featbank.bank.rows import sum_of_squares
from stage2.engine.model import ViewData
from stage2.engine.rows import MemoryRows
from stage2.methods.recipe_settings import PUBLISHED_NORM, UNIT

CONSTANT = 1e-6
"""A dimension does not vary if σ is at most this share of its root mean square: float32 rounds to
about a tenth of it."""


@dataclass(frozen=True)
class Scaling:
    """The map x̂ = (x − shift) ⊙ factor of the features of a view.

    Attributes
    ----------
    factor
        [1] or [D] float32, > 0.
    shift
        [D] float32, or None for 0.
    unit
        Whether x is x/‖x‖ here; then there is no shift.
    """

    factor: Tensor
    shift: Tensor | None = None
    unit: bool = False

    def apply_(self, x: Tensor) -> Tensor:
        """Scale features [n, D] float32 in place; return them."""
        if self.unit:
            x.div_(x.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(x.dtype).tiny))
        if self.shift is not None:
            x.sub_(self.shift.to(x.device))
        return x.mul_(self.factor.to(x.device))

    def to(self, device: torch.device) -> Scaling:
        """The scaling on a device."""
        shift = None if self.shift is None else self.shift.to(device)
        return Scaling(self.factor.to(device), shift, self.unit)

    def classifier(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier [K, D], [K] of scaled features that has the logits of W x + b, or with
        ``unit`` of W x/‖x‖ + b."""
        if self.shift is not None:
            bias = bias + (weight.double() @ self.shift.to(weight.device).double()).float()
        return weight / self.factor.to(weight.device), bias

    def undone(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier of features as they were, or with ``unit`` of x/‖x‖, that has the logits
        of W x̂ + b."""
        weight = weight * self.factor.to(weight.device)
        if self.shift is not None:
            bias = bias - (weight.double() @ self.shift.to(weight.device).double()).float()
        return weight, bias


def default_scale(bank: Bank, view: str) -> str:
    """The ``feature_scale`` of recipes that set none, on a view of a bank: one of its choices, or
    the text of a number."""
    return bank.default_scale(view) or ("none" if bank.norm(view) is None else "auto")


def scaling_of(bank: Bank, view: str, choice: str | None) -> Scaling | None:
    """The scaling of a view under a recipe's ``feature_scale``; None where features stay as they
    are.

    It takes a pass over the training features, but for ``auto`` where the bank records their norm.
    """
    choice, norm = choice or default_scale(bank, view), bank.norm(view)
    if choice == "auto" and norm is not None:
        return scaled_to(norm)
    return measured(choice, _train(bank, view))


def measured(choice: str, blocks: Iterable[np.ndarray], tokens: int = 1) -> Scaling | None:
    """The scaling that a ``feature_scale``, or a number, gives training features, blocks [n, D] of
    rows of so many `tokens`."""
    if choice == "none":
        return None
    if choice == "auto":
        rows, squares = 0, 0.0
        for x in blocks:
            rows, squares = rows + len(x) * tokens, squares + sum_of_squares(x)
        return scaled_to(math.sqrt(squares / max(1, rows)))
    if choice == UNIT:
        return Scaling(torch.tensor([PUBLISHED_NORM]), unit=True)
    if choice == "standardise":
        return _standardised(blocks)
    return Scaling(torch.tensor([float(choice)], dtype=torch.float32))


def scaled(data: ViewData, scaling: Scaling) -> ViewData:
    """A view in memory, scaled; float32 features are copied."""
    splits = {"": data.train, **data.evaluated}
    made = {}
    for name, rows in splits.items():
        assert isinstance(rows, MemoryRows)
        x = rows.x if rows.packed else rows.x.clone()
        made[name] = scaled_rows(x, rows.labels, rows.copies, scaling)
    start = data.weight0, data.bias0
    if data.weight0 is not None and data.bias0 is not None and not scaling.unit:
        start = scaling.classifier(data.weight0, data.bias0)
    return replace(data, train=made.pop(""), evaluated=made, weight0=start[0], bias0=start[1])


def scaled_rows(x: Tensor, labels: Tensor, copies: int, scaling: Scaling | None) -> MemoryRows:
    """Rows of features `x` in memory, scaled; float32 ones in place."""
    scale = scaling.to(x.device).apply_ if scaling else None
    if scale is None or x.dtype == torch.float16:
        return MemoryRows(x, labels, copies=copies, scale=scale)
    return MemoryRows(scale(x), labels, copies=copies)


def scaled_to(norm: float) -> Scaling:
    """Scale features of a root mean square `norm` to `PUBLISHED_NORM`; features of 0 stay 0."""
    factor = PUBLISHED_NORM / norm if norm else 1.0
    return Scaling(torch.tensor([factor], dtype=torch.float32))


def _standardised(blocks: Iterable[np.ndarray]) -> Scaling:
    # Sums of x − x₀, with x₀ the first row: their squares cancel little.
    rows, first, total, squares = 0, np.zeros(1), np.zeros(1), np.zeros(1)
    for block in blocks:
        x = block.astype(np.float64)
        first = first if rows or not len(x) else x[0].copy()
        x -= first
        rows, total, squares = rows + len(x), total + x.sum(0), squares + (x * x).sum(0)
    rows = max(1, rows)
    mean = first + total / rows
    variance = np.maximum(squares / rows - (total / rows) ** 2, 0)
    varies = variance > CONSTANT**2 * (variance + mean**2)
    typical = variance[varies].mean() if varies.any() else 1.0
    deviation = np.sqrt(np.where(varies, variance, typical))
    factor = PUBLISHED_NORM / (deviation * math.sqrt(max(1, varies.sum())))
    scale, shift = (torch.from_numpy(values.astype(np.float32)) for values in (factor, mean))
    return Scaling(scale, shift)


def _train(bank: Bank, view: str) -> Iterator[np.ndarray]:
    for copy in range(bank.copies("train", view)):
        for _, block in bank.blocks("train", view, copy=copy):
            yield block
