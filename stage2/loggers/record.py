"""The record of a finished run that loggers take, and the protocol they follow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from featbank import errors
from stage2.engine.outcome import Outcome
from stage2.results.leaderboard import Leaderboard


@dataclass(frozen=True)
class Record:
    """A finished run, one configuration with one seed.

    Attributes
    ----------
    name
        The configuration's id and the seed, ``crt-1a2b3c4d-seed0``.
    group
        The configuration's id, which its seeds share.
    recipe, seed, status
        Recipe, seed and status of the run: ``done``, ``diverged`` or ``stopped``.
    settings
        Every setting but the seed: numbers, truth values, texts and None.
    curves
        Value by step, counted from 1, of each curve; finite ones only.
    metrics
        Final metrics by ``split/epoch/metric``, such as ``test/selected/macro``.
    facts
        ``bank``, the fingerprint; ``seconds``; ``selected_epoch``, from 0, None without one.
    """

    name: str
    group: str
    recipe: str
    seed: int
    status: str
    settings: dict[str, Any]
    curves: dict[str, dict[int, float]]
    metrics: dict[str, float]
    facts: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """Recipe, seed and settings."""
        return {"recipe": self.recipe, "seed": self.seed, **self.settings}

    @classmethod
    def of(cls, fingerprint: str, outcome: Outcome) -> Record:
        """The record of an outcome on a bank."""
        recipe = outcome.recipe
        return cls(
            name=f"{recipe.id}-seed{recipe.seed}",
            group=recipe.id,
            recipe=recipe.name,
            seed=recipe.seed,
            status=outcome.status,
            settings=dict(recipe.parameters),
            curves={
                name: {step: v for step, v in enumerate(values, 1) if math.isfinite(v)}
                for name, values in outcome.curves.items()
            },
            metrics={
                f"{split}/{epoch}/{name}": value
                for (split, epoch), evaluation in outcome.evaluations.items()
                for name, value in evaluation.metrics.items()
                if value is not None
            },
            facts={
                "bank": fingerprint,
                "seconds": outcome.seconds,
                "selected_epoch": outcome.selected_epoch,
            },
        )


class Logger(Protocol):
    """Follows a sweep. Results are in the results file before a logger receives them."""

    def log(self, records: Sequence[Record]) -> None:
        """Log the runs of a group that is finished and stored, in the thread that stored it."""

    def end(self, bank: str, board: Leaderboard) -> None:
        """Log the leaderboard of a bank, given by its fingerprint, at the end of a sweep; a search
        is several sweeps."""


class Loggers:
    """The loggers of a sweep: one that fails causes a warning and is not called again."""

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self._left = list(loggers)

    def log(self, fingerprint: str, outcomes: Sequence[Outcome]) -> None:
        """Pass a stored group to all loggers."""
        if self._left:
            records = [Record.of(fingerprint, outcome) for outcome in outcomes]
            self._call("log", records)

    def end(self, fingerprint: str, board: Leaderboard) -> None:
        """Pass the leaderboard to all loggers at the end of the sweep."""
        self._call("end", fingerprint, board)

    def _call(self, method: str, *values: Any) -> None:
        for logger in list(self._left):
            try:
                getattr(logger, method)(*values)
            except Exception as error:
                self._left.remove(logger)
                warnings.warn(
                    f"{type(logger).__name__} failed and logs no more: {errors.first_line(error)}. "
                    "Results are stored all the same."
                )
