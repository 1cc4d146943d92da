"""The result of a recipe, as executors return it: plain data and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from stage2.engine.metrics import Evaluation
from stage2.methods.heads import Parameters
from stage2.methods.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """The result of one recipe.

    Attributes
    ----------
    recipe
        The recipe.
    status
        ``done``; ``diverged`` where the loss became infinite or NaN; ``stopped`` where halving
        ended it, after as many epochs as its curves have.
    evaluations
        By split and epoch (``last``, ``selected``); none where it diverged, only that of val at the
        last epoch where it was stopped.
    selected_epoch
        Best epoch on val, counted from 0; None without val or without epochs.
    curves
        ``loss`` and, with val, ``val_macro``, one number per epoch; for L-BFGS ``loss`` (weight
        decay included) and ``gradient_norm``, one per iteration and one before the first.
    parameters
        The head's parameters at the end, named ``view.name`` where there are several views; those
        of a calibration are ``calibration.scale`` and ``calibration.shift``. They are on the CPU,
        and take features as they were scaled in training; exported heads take those of the bank.
    selected
        The same at the selected epoch; empty without one.
    traces
        Arrays over the epochs: ``beta`` [epochs, K] where β moves, NaN for classes without.
    seconds
        The recipe's share of its group's time.
    """

    recipe: Recipe
    status: str
    evaluations: dict[tuple[str, str], Evaluation]
    selected_epoch: int | None
    curves: dict[str, list[float]]
    parameters: Parameters
    selected: Parameters = field(default_factory=dict)
    traces: dict[str, np.ndarray] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)


class Outcomes(Sequence[Outcome]):
    """The outcomes of a group, computed when they are first read.

    A group that is measured needs no device any more, but statistics of its measurements: whoever
    takes the outcomes may let them be computed while the next group trains.

    Parameters
    ----------
    compute
        Computes them, and holds neither features nor tensors of a GPU.
    """

    def __init__(self, compute: Callable[[], list[Outcome]]) -> None:
        self._compute: Callable[[], list[Outcome]] | None = compute
        self._known: list[Outcome] = []

    def _all(self) -> list[Outcome]:
        if self._compute is not None:
            self._known, self._compute = self._compute(), None
        return self._known

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return self._all()[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._all(),)
