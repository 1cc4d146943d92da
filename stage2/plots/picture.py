"""The input of every kind of plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stage2.plots.figure import WIDTH
from stage2.results.choice import Choice, choose
from stage2.results.configurations import Configuration
from stage2.results.leaderboard import Row
from stage2.results.results import Results

Having = Callable[[Configuration, Row], bool]


@dataclass(frozen=True)
class Picture:
    """Results and options that a figure is drawn from; see `stage2.plots.plot`.

    Attributes
    ----------
    results
        Those of one bank, on the split that is drawn.
    recipes
        The recipes or configurations asked for; all for none.
    width
        Inches.
    metric, by
        Options of the kinds that take them.
    """

    results: Results
    recipes: tuple[str, ...] = ()
    width: float = WIDTH
    metric: str | None = None
    by: tuple[str, ...] = ()

    def choose(self, most: int, **options: Any) -> Choice:
        """The best configuration of each recipe, at most so many (`stage2.results.choice`)."""
        return choose(self.results, recipes=self.recipes, most=most, **options)

    def every(self) -> Choice:
        """All configurations of the recipes."""
        return choose(self.results, recipes=self.recipes, best=False)
