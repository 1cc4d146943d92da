"""The input of every kind of plot: of results, or of a bank alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from featbank import errors
from featbank.bank import Bank
from stage2.plots.figure import WIDTH
from stage2.results.choice import Choice, choose, choose_on
from stage2.results.classes import metric_named
from stage2.results.results import Results


@dataclass(frozen=True)
class Picture:
    """Results and options that a figure is drawn from; see `stage2.plots.plot`.

    Attributes
    ----------
    results
        Those of one bank, on the split that is drawn; of several banks the first.
    recipes
        The recipes or configurations asked for; all for none.
    width
        Inches.
    metric, by
        Options of the kinds that take them.
    banks
        Results of every bank that is drawn, of the same classes; by default of the one.
    """

    results: Results
    recipes: tuple[str, ...] = ()
    width: float = WIDTH
    metric: str | None = None
    by: tuple[str, ...] = ()
    banks: Sequence[Results] = ()

    @property
    def metric_key(self) -> str | None:
        """The key of the metric that is asked for, by this or by what a class group is called."""
        return self.metric and metric_named(self.metric, self.results.groups)

    def choose(self, most: int, **options: Any) -> Choice:
        """The best configuration of each recipe, at most so many; of several banks that of each
        bank (`stage2.results.choice`)."""
        banks = self.banks or [self.results]
        return choose_on(banks, recipes=self.recipes, most=most, **options)

    def every(self) -> Choice:
        """All configurations of the recipes on the first bank."""
        return choose(self.results, recipes=self.recipes, best=False)


class TakesOptions(Protocol):
    """A kind of plot, by the names of the options that it takes."""

    @property
    def options(self) -> tuple[str, ...]:
        """Their names, as arguments."""


Kind = TypeVar("Kind", bound=TakesOptions)


def kind_of(kinds: Mapping[str, Kind], name: str, given: Mapping[str, object]) -> Kind:
    """The kind of a name, of the same `kinds`, that takes the options that are `given` a value.

    Raises
    ------
    ConfigError
        For an unknown kind, and an option that it does not take.
    """
    if name not in kinds:
        raise errors.ConfigError(f"Unknown plot {name!r}. {errors.closest(name, list(kinds))}")
    for option, value in given.items():
        if value and option not in kinds[name].options:
            takes = ", ".join(other for other in kinds if option in kinds[other].options)
            raise errors.ConfigError(
                f"The plot {name!r} takes no {option.replace('_', '-')}. It is for: {takes}."
            )
    return kinds[name]


def counts_of(choice: Choice) -> np.ndarray:
    """Training counts [K] by which a figure orders classes.

    Raises
    ------
    ConfigError
        Where the banks that are drawn have other counts.
    """
    first, *others = dict.fromkeys(each.results for each in choice.shown) or [choice.results]
    for other in others:
        if not np.array_equal(other.counts, first.counts):
            raise errors.ConfigError(
                f"Classes stand by training count, and {first.name} and {other.name} have other "
                "counts. Draw one bank at a time with --bank."
            )
    return first.counts


@dataclass(frozen=True)
class BankPicture:
    """A bank and options that a figure is drawn from; see `stage2.plots.plot_bank`.

    Attributes
    ----------
    bank
        The bank, open.
    recipes, overrides
        The recipes asked for, and the values of their settings, ``["lr=0.1", "crt:lr=0.1,0.2"]``.
    view
        The view asked for; None for the default of the kind.
    head
        The file of an exported head, if one is asked for.
    width
        Inches.
    """

    bank: Bank
    recipes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    view: str | None = None
    head: str | os.PathLike[str] | None = None
    width: float = WIDTH
