"""The arrays that an exported head takes, and how its views are made of them.

A view such as ``2*a|b:mean`` (`featbank.bank.expressions`) is put together inside the head, with
the factors that the bank of its training gave: a head takes what is stored, an array for each part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featbank.bank import Bank
from featbank.bank.composed import Composition
from featbank.bank.expressions import GEM_LEAST, GEM_POWER, TOKENS, is_composed

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.amax(1),
    "gem": lambda x: x.clamp(min=GEM_LEAST).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER),
    TOKENS: lambda x: x.flatten(1),
}
"""Poolings of tokens [B, T, D] to rows, those of `featbank.bank.expressions`."""


@dataclass(frozen=True)
class Input:
    """An array that a head takes.

    Attributes
    ----------
    view
        The view of the bank that it is.
    shape
        [D] of each row, or [T, D] of tokens.
    pool
        One of `POOLS` for tokens; None for rows.
    factor
        What it is multiplied by.
    """

    view: str
    shape: tuple[int, ...]
    pool: str | None = None
    factor: float = 1.0

    @property
    def width(self) -> int:
        """Numbers of a row after pooling."""
        return math.prod(self.shape) if self.pool == TOKENS else self.shape[-1]

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether it can be rows of this shape; tokens that are pooled may be any number."""
        free = self.pool not in (None, TOKENS)
        return len(shape) == len(self.shape) and (*shape,)[free:] == self.shape[free:]

    @property
    def axes(self) -> str:
        """Its shape in words: ``[N, T = 50, D = 64]``."""
        *tokens, dim = self.shape
        return f"[N, {''.join(f'T = {t}, ' for t in tokens)}D = {dim}]"

    @property
    def document(self) -> dict[str, Any]:
        """Its fields as JSON."""
        return {**vars(self), "shape": list(self.shape)}


class Inputs(nn.Module):
    """The first step of a head: the arrays of `parts`, one after another, to a tensor [B, D] for
    each view."""

    def __init__(self, parts: Sequence[Sequence[Input]]) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, arrays: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        left = iter([arrays] if isinstance(arrays, Tensor) else arrays)
        views = tuple(
            torch.cat([_made(part, next(left)) for part in parts], 1) for parts in self.parts
        )
        return views if len(views) > 1 else views[0]


def _made(part: Input, x: Tensor) -> Tensor:
    x = POOLS[part.pool](x) if part.pool else x
    return x if part.factor == 1 else x * part.factor


def inputs_of(bank: Bank, views: Sequence[str]) -> list[list[Input]]:
    """The arrays of each view; none where all are rows of one width as they are stored."""
    plain = not any(map(is_composed, views)) and len(set(map(bank.dim_of, views))) == 1
    return [] if plain else [_inputs(bank, view) for view in views]


def _inputs(bank: Bank, view: str) -> list[Input]:
    if not is_composed(view):
        return [Input(view, (bank.dim_of(view),))]
    made = Composition(bank, view)
    return [
        Input(part.view, bank.shape("train", part.view)[2:], part.pool, float(factor))
        for part, factor in zip(made.parts, made.factors, strict=True)
    ]


def read_inputs(document: Any, views: int) -> list[list[Input]]:
    """The inputs of a head file.

    Raises
    ------
    ValueError
        For anything that is none.
    """
    if not isinstance(document, list) or len(document) != views:
        raise ValueError(f"its inputs are not those of {views} views")
    return [[_read(part) for part in parts] for parts in document]


def _read(document: Any) -> Input:
    if not isinstance(document, dict) or document.keys() != {"view", "shape", "pool", "factor"}:
        raise ValueError("its inputs have other fields")
    shape, pool, factor = document["shape"], document["pool"], document["factor"]
    sizes = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    pools = {1: (None, TOKENS), 2: tuple(POOLS)}
    if not sizes or pool not in pools.get(len(shape), ()):
        raise ValueError(f"an input has the shape {shape} and the pooling {pool!r}")
    if not isinstance(document["view"], str) or not isinstance(factor, float):
        raise ValueError("an input has no view or no factor")
    if not 0 < factor < math.inf:
        raise ValueError(f"an input has the factor {factor}")
    return Input(document["view"], tuple(shape), pool, factor)
