"""The progress of a sweep within its groups: epoch, loss, and the best on val so far."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank.cli.progress import Display
from featbank.wording import number

if TYPE_CHECKING:
    from stage2.engine.watching import Moment
    from stage2.loggers import Record
    from stage2.results.leaderboard import Leaderboard

SECONDS_BETWEEN_LOOKS = 0.5
"""A look reads curves from the device, and waits for them on a GPU."""


class Watch:
    """Shows the moments of a sweep on a display; a logger of its outcomes as well."""

    def __init__(self, display: Display) -> None:
        self._display, self._last = display, -math.inf
        self._val, self._best = -math.inf, ""

    def __call__(self, moment: Moment) -> None:
        """Show the end of an epoch of a group."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LOOKS:
            return
        self._last = now
        look = moment.look()
        if look.val is not None:
            self._take(look.val, look.recipe.name, look.recipe.parameters)
        epoch = f"epoch {moment.epoch}/{moment.epochs} of {number(moment.recipes, 'run')}"
        parts = [epoch, f"loss {look.loss:.3f}", *([self._best] if self._best else [])]
        self._display.within(moment.share * moment.recipes, " · ".join(parts))

    def log(self, records: Sequence[Record]) -> None:
        """Keep the best of a group that is stored."""
        for record in records:
            figures = [record.metrics.get(f"val/{epoch}/macro") for epoch in ("last", "selected")]
            if known := [figure for figure in figures if figure is not None]:
                self._take(max(known), record.recipe, record.settings)

    def end(self, bank: str, board: Leaderboard) -> None:
        """Do nothing: the table follows."""

    def _take(self, val: float, name: str, parameters: Mapping[str, Any]) -> None:
        """Keep a configuration if it is the best on val so far."""
        if not val > self._val:
            return
        from stage2.results.leaderboard import differences

        row: Any = {"name": name, "parameters": dict(parameters), "status": "done"}
        self._val, self._best = val, f"best val {val:.1f} %: {name} {differences(row)}".rstrip()
