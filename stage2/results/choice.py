"""The configurations of a picture, their labels, and the settings that they vary."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from featbank import errors
from featbank.wording import listed
from stage2.engine.details import DETAILS
from stage2.engine.metrics import Metric
from stage2.results.banks import between
from stage2.results.configurations import Configuration, matching
from stage2.results.leaderboard import Row, setting_text, why_unranked
from stage2.results.measured import Measured, measured
from stage2.results.protocol import joined_line
from stage2.results.results import Results

Having = Callable[[Results, Configuration, Row], bool]

LONGEST = 60
"""Characters of the settings in a label."""


@dataclass(frozen=True)
class Shown:
    """A configuration of a picture, its row of the leaderboard at the epoch that ranks, its label,
    and the results of its bank.

    The label is the recipe, with the settings that distinguish it from others of that recipe, and
    with the bank's name where a picture shows several.
    """

    configuration: Configuration
    row: Row
    label: str
    results: Results

    @property
    def epoch(self) -> str:
        """The epoch that ranks, ``last`` or ``selected``."""
        return self.row["epoch"]


@dataclass(frozen=True)
class Choice:
    """The configurations of a picture.

    Attributes
    ----------
    results
        The results they were chosen from; of several banks those of the first.
    shown
        Best first; of several banks by recipe, and of a recipe in the order of the banks.
    """

    results: Results
    shown: list[Shown]

    @property
    def split(self) -> str:
        """The split that is shown."""
        return self.results.split

    @property
    def rows(self) -> list[Row]:
        """Rows of the leaderboard."""
        return [each.row for each in self.shown]

    @property
    def banks(self) -> list[Results]:
        """The results of each bank that is shown."""
        return list(dict.fromkeys(each.results for each in self.shown)) or [self.results]

    @property
    def metrics(self) -> dict[str, Metric]:
        """`METRICS` with the names of class groups."""
        return self.results.board.terms.metrics

    @property
    def thresholds(self) -> str:
        """The class groups and their rules, for people; those of each bank where these differ."""
        by_bank = {bank.name: bank.board.terms.thresholds for bank in self.banks}
        if len({*by_bank.values()}) == 1:
            return next(iter(by_bank.values()))
        return "; ".join(f"{name}: {text}" for name, text in by_bank.items())

    def protocol(self, rows: Sequence[Row] | None = None) -> str:
        """Split, epoch, bank, selection, configurations tried and seeds; of `rows`, or of all."""
        return f"{self.split}, {self.epoch(rows)} · {self.conditions(rows)}"

    def epoch(self, rows: Sequence[Row] | None = None) -> str:
        """The epoch of `rows`, or of all."""
        epochs = {row["epoch"] for row in rows or self.rows}
        return f"{max(epochs)} epoch" + (" where there is one" if len(epochs) > 1 else "")

    def conditions(self, rows: Sequence[Row] | None = None) -> str:
        """Bank, selection, configurations tried and seeds; of `rows`, or of all.

        Of several banks what differs stands after the name of each.
        """
        banks = self.banks
        if len(banks) == 1:
            return self.results.board.terms.line(rows or self.rows)
        asked = {id(row) for row in rows or self.rows}
        parts = {
            bank.name: bank.board.terms.parts(
                [e.row for e in self.shown if e.results is bank and id(e.row) in asked]
            )
            for bank in banks
        }
        return joined_line(parts, between(banks))


def choose(
    results: Results,
    *,
    recipes: Sequence[str] = (),
    best: bool = True,
    most: int | None = None,
    having: Callable[[Configuration, Row], bool] | None = None,
) -> Choice:
    """Choose configurations of a results file, the best first.

    Parameters
    ----------
    results
        The results.
    recipes
        Names of recipes and beginnings of configurations' ids; by default every recipe.
    best
        Take only the best configuration of a recipe; the beginning of an id always means all.
    most
        How many there is room for; of more the best are taken, with a warning.
    having
        Whether a configuration, given with its row, qualifies.

    Raises
    ------
    ConfigError
        For an unknown recipe, and where nothing that is asked for has a rank. An empty `shown`
        means that nothing qualified; the caller reports it.
    """
    board = results.board
    every = [board.ranked(rows) for rows in board.configurations()]
    asked = _asked(results, every, recipes, best)
    rows = [row for row in asked if board.has_place(row)]
    if not rows:
        raise errors.ConfigError(
            f"Every configuration asked for in {results.path} "
            f"{why_unranked(asked, board.select_on)}"
        )
    if having is not None:
        rows = [row for row in rows if having(results.configurations[row["recipe"]], row)]
    if most and rows[most:]:
        which = f"the best on {board.select_on}" if board.select_on else "the first by name"
        warn_left_out([row["recipe"] for row in rows], most, which)
        rows = rows[:most]
    named = zip(rows, labels(rows), strict=True)
    shown = [
        Shown(results.configurations[row["recipe"]], row, label, results) for row, label in named
    ]
    return Choice(results, shown)


def choose_on(
    banks: Sequence[Results],
    *,
    recipes: Sequence[str] = (),
    most: int | None = None,
    having: Having | None = None,
) -> Choice:
    """Choose configurations of several banks: of each recipe that of every bank, side by side.

    Each bank's own val chooses. A recipe that some banks lack is shown of the others.

    Parameters
    ----------
    banks
        One or more, of the same classes (`stage2.results.banks.banks_of`).
    recipes
        As of `choose`.
    most
        How many configurations there is room for in all; the recipes are the best of the first
        bank.
    having
        Whether a configuration of a bank, given with its row, qualifies.

    Raises
    ------
    ConfigError
        As of `choose`, and for a recipe that no bank has.
    """

    def of(bank: Results, names: Sequence[str], room: int | None) -> Choice:
        qualifies = partial(having, bank) if having else None
        return choose(bank, recipes=names, most=room, having=qualifies)

    if len(banks) == 1:
        return of(banks[0], recipes, most)
    room = max(1, most // len(banks)) if most else None
    wanted = {bank: [name for name in recipes if _has(bank, name)] for bank in banks}
    if lacking := [name for name in recipes if all(name not in w for w in wanted.values())]:
        of(banks[0], lacking, None)  # raises
    choices: list[Choice] = []
    for bank in banks:
        names = wanted[bank]
        if not recipes and choices:
            names = [name for name in _names(choices) if _has(bank, name)]
        if names or not (recipes or choices):
            choices.append(of(bank, names, room))
        else:
            warnings.warn(f"{bank.name} has none of the recipes that are drawn. It is left out.")
    order = {name: place for place, name in enumerate(_names(choices))}
    shown = [
        replace(each, label=f"{each.label} · {each.results.name}")
        for choice in choices
        for each in choice.shown
    ]
    shown.sort(key=lambda each: order[each.configuration.name])
    return Choice(banks[0], shown)


def _names(choices: Sequence[Choice]) -> list[str]:
    """The recipes that are shown, in order."""
    return [*dict.fromkeys(each.configuration.name for choice in choices for each in choice.shown)]


def _has(results: Results, wanted: str) -> bool:
    """Whether a bank has a recipe of a name, or a configuration whose id begins so."""
    return any(
        each.name == wanted or id_.startswith(wanted)
        for id_, each in results.configurations.items()
    )


def measured_all(choice: Choice, detail: str) -> list[Measured]:
    """Read the arrays of each configuration of a choice, all of which have a `detail`.

    Raises
    ------
    ConfigError
        Where one lacks it.
    """
    results = choice.results
    arrays = [measured(each.results, each.configuration, each.epoch) for each in choice.shown]
    if any(detail not in each.details for each in arrays):
        kept = "They are kept on test, of the selected epoch where there is one. "
        raise errors.ConfigError(
            f"{results.path} has no {DETAILS[detail].label} on {choice.split} at the "
            f"{choice.epoch()}. {kept if DETAILS[detail].counts_rows else ''}"
            "Where an older version wrote it: sweep again with --force."
        )
    return arrays


def warn_left_out(ids: Sequence[str], most: int, which: str = "the best on val") -> None:
    """Warn that only the first of these configurations are drawn, and `which` they are."""
    warnings.warn(
        f"{most} of {len(ids)} configurations {'is' if most == 1 else 'are'} drawn, {which}. "
        f"Left out: {listed(ids[most:], 4)}. Choose with --recipe."
    )


def labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each configuration, given by its ``name`` and ``parameters``."""
    same: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        same.setdefault(row["name"], []).append(row["parameters"])
    texts = {recipe: iter(differing(among)) for recipe, among in same.items()}
    return [f"{row['name']} {next(texts[row['name']])}".strip() for row in rows]


def differing(among: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of each configuration that are not the same among all of them, as texts."""
    names = [
        name
        for name in dict.fromkeys(name for settings in among for name in settings)
        if len({setting_text(name, settings.get(name)) for settings in among}) > 1
    ]
    texts = [
        [f"{name}={setting_text(name, own[name])}" for name in names if own.get(name) is not None]
        for own in among
    ]
    return [textwrap.shorten(" ".join(each), LONGEST, placeholder=" …") for each in texts]


def _asked(results: Results, rows: Sequence[Row], recipes: Sequence[str], best: bool) -> list[Row]:
    """The rows that are asked for, in the order of `rows`."""
    names = {row["recipe"]: row["name"] for row in rows}
    asked: set[str] = set()
    for wanted in recipes or dict.fromkeys(names.values()):
        ids = matching(wanted, names, f"{results.path} has no configuration {wanted!r}.")
        asked |= {*(results.ranking.best(ids) if best and wanted in names.values() else ids)}
    return [row for row in rows if row["recipe"] in asked]
