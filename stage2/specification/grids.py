"""Grids of a specification: from values with their lines to recipes, every error noted."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.settings import Setting
from stage2.features.experts import averaged
from stage2.features.requirements import check_bank
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe, check_runs, expand
from stage2.methods.recipe_settings import ENSEMBLE, HEAD, TRAINING, VIEW, Takes, settings_of
from stage2.specification.ranges import Range

MOST_TOLD = 20
"""Problems that are listed; one more ends the reading, as thousands would take long."""

CHOOSING = {s.name: s for s in (VIEW, HEAD, *TRAINING) if s.choices or s is VIEW}
"""Settings that decide which others a recipe takes."""

_WRONG = object()
"""In the place of a value that is wrong."""


class Problems:
    """What is wrong in a file, each message once, with its line; 0 for the command line."""

    def __init__(self, name: str) -> None:
        self._name, self._found = name, dict[tuple[int, str], None]()

    def add(self, line: int, message: object) -> None:
        """Note a problem; raise a `ConfigError` with all of them where they are too many."""
        self._found[line, str(message)] = None
        if len(self) > MOST_TOLD:
            self.check()

    def __len__(self) -> int:
        return len(self._found)

    def check(self) -> None:
        """Raise a `ConfigError` with all that was noted, in the order of lines."""
        ordered = sorted(self._found, key=lambda found: found[0])
        told = [f"{self._name}:{line}: {text}" if line else text for line, text in ordered]
        if len(told) == 1:
            raise errors.ConfigError(told[0])
        if told:
            several = f"more than {MOST_TOLD}" if len(told) > MOST_TOLD else len(told)
            raise errors.SeveralErrors(f"{self._name}: {several} errors.", told[:MOST_TOLD])


@dataclass(frozen=True)
class Values:
    """What a setting is to try.

    Attributes
    ----------
    items, lines
        The values, and the line of each.
    line
        That of the setting.
    kind
        ``list``; ``range``, which an integer setting rounds; ``random``, taken together with the
        other random ones of the recipe; ``text`` of a command line, still to be read.
    span
        The range that they are values of.
    """

    items: tuple[Any, ...]
    lines: tuple[int, ...]
    line: int
    kind: str = "list"
    span: Range | None = None


@dataclass(frozen=True)
class Entry:
    """A preset over a grid.

    Attributes
    ----------
    name
        The preset.
    line
        Where it is named.
    grid
        Values by setting.
    shared
        The settings of the grid that other recipes have as well, and this need not take.
    """

    name: str
    line: int
    grid: Mapping[str, Values]
    shared: frozenset[str] = field(default_factory=frozenset)


def recipes_of(
    entries: Sequence[Entry], seeds: Sequence[int], problems: Problems, bank: Bank | None = None
) -> list[Recipe]:
    """Every combination of every entry, for every seed; what cannot be is noted.

    With a bank, views are those it has, and recipes for which it lacks something are noted too.
    """
    try:
        check_runs(
            _size(entry.grid) * (1 if "seed" in entry.grid else len(seeds)) for entry in entries
        )
    except errors.ConfigError as error:
        problems.add(0, error)
        return []
    found: dict[Recipe, None] = {}
    taken, known, asked = set[str](), set[str](), dict[str, int]()
    for entry in entries:
        grid = _Grid(entry, seeds, problems, bank)
        found |= dict.fromkeys(grid.recipes())
        taken |= grid.taken
        known |= grid.known
        asked |= {key: entry.grid[key].line for key in entry.shared}
    for key in asked.keys() - taken:
        if known and not (bank is None and key == ENSEMBLE.name):
            hint = errors.closest(key, sorted(known))
            problems.add(asked[key], f"None of the recipes takes a setting {key!r}. {hint}")
    return list(found)


class _Grid:
    """An entry on its way to recipes."""

    def __init__(
        self, entry: Entry, seeds: Sequence[int], problems: Problems, bank: Bank | None
    ) -> None:
        self.taken, self.known = set[str](), set[str]()
        self._entry, self._seeds, self._problems, self._bank = entry, seeds, problems, bank
        self._owner, self._told = f"recipe {entry.name!r}", set[str]()

    def recipes(self) -> list[Recipe]:
        """The recipes; problems are noted."""
        entry = self._entry
        if entry.name not in PRESETS:
            hint = errors.closest(entry.name, PRESETS)
            self._problems.add(entry.line, f"Unknown recipe {entry.name!r}. {hint}")
            return []
        grid = dict(with_views(entry, self._bank).grid) if self._bank else dict(entry.grid)
        if problem := _uneven(grid):
            self._problems.add(entry.line, f"{self._owner.capitalize()} has {problem}")
            return []
        found: dict[Recipe, dict[str, int]] = {}
        for choice in _combinations(grid):
            lines = {key: line for key, (_, line) in choice.items()}
            for recipe in self._combination(choice):
                found.setdefault(recipe, lines)
        self._unused()
        if self._bank:
            self._on_bank(self._bank, found)
        return list(found)

    def _combination(self, choice: Mapping[str, tuple[Any, int]]) -> list[Recipe]:
        """A combination for every seed; none where something is wrong with it."""
        parts = {
            key: value
            for key, (value, line) in choice.items()
            if key in CHOOSING and self._read(CHOOSING[key], key, value, line) is not _WRONG
        }
        wrong = {key for key in choice if key in CHOOSING} - parts.keys()
        takes = settings_of(self._entry.name, parts)
        self.known |= takes.aliases.keys()
        self.taken |= (choice.keys() & takes.aliases.keys()) | wrong
        chosen = self._chosen(choice, takes)
        if wrong or any(value is _WRONG for value in chosen.values()):
            return []
        try:
            return expand(
                {self._entry.name: {k: [v] for k, v in chosen.items()}}, seeds=self._seeds
            )
        except errors.FeatbankError as error:
            self._tell(error, {key: line for key, (_, line) in choice.items()})
            return []

    def _chosen(self, choice: Mapping[str, tuple[Any, int]], takes: Takes) -> dict[str, Any]:
        """The values of a combination that its parts take; `_WRONG` where one is wrong."""
        return {
            key: self._read(takes.settings[takes.aliases[key]], key, value, line)
            for key, (value, line) in choice.items()
            if key in takes.aliases
        }

    def _read(self, setting: Setting, key: str, value: Any, line: int) -> Any:
        """A value in its setting's type; `_WRONG`, and a problem noted, where it is wrong."""
        values = self._entry.grid.get(key)
        kind = values.kind if values else "list"
        try:
            if kind == "text" and isinstance(value, str):
                return setting.parse(value, self._owner)
            rounded = kind in ("range", "random") and setting.type is int
            return setting.check(round(value) if rounded else value, self._owner)
        except errors.ConfigError as error:
            if kind in ("list", "text") or key not in self._told:  # a range is told once
                self._problems.add(line, error)
            self._told.add(key)
            return _WRONG

    def _unused(self) -> None:
        """Note settings that no combination of the entry takes."""
        for key in self._entry.grid:
            if key in self.taken or key in self._entry.shared:
                continue
            if self._bank is None and key == ENSEMBLE.name:
                continue  # a bank of experts may make an average of the view
            full = sorted(name for name in self.known if name.endswith(f".{key}"))
            wrong, fix = f"takes no setting {key!r}", errors.closest(key, sorted(self.known))
            if full:
                quoted = " or ".join(f'"{name}"' for name in full)
                wrong, fix = f"has more than one {key!r}", f"Write {quoted}, in quotes."
            line = self._entry.grid[key].line
            self._problems.add(line, f"{self._owner.capitalize()} {wrong}. {fix}")

    def _on_bank(self, bank: Bank, found: Mapping[Recipe, dict[str, int]]) -> None:
        """Note what the bank lacks."""
        configurations = {recipe.id: recipe for recipe in found}.values()
        try:
            check_bank(bank, configurations)
        except errors.FeatbankError:
            for recipe in configurations:
                try:
                    check_bank(bank, [recipe])
                except errors.FeatbankError as error:
                    self._tell(error, found[recipe])

    def _tell(self, error: Exception, lines: Mapping[str, int]) -> None:
        """Note an error of a combination at the first setting that it names, else at the recipe."""
        words = re.findall(r"[\w.]+", str(error))
        named = [lines[key] for key in dict.fromkeys(words) if key in lines]
        self._problems.add(named[0] if named else self._entry.line, error)


def with_views(entry: Entry, bank: Bank) -> Entry:
    """An entry, its views resolved on a bank: an average of views has settings of its own."""
    preset = PRESETS[entry.name].settings.get("view", VIEW.default)
    views = entry.grid.get("view", Values((preset,), (entry.line,), entry.line))
    meant = (averaged(bank, v) if isinstance(v, str) else v for v in views.items)
    return replace(entry, grid={**entry.grid, "view": replace(views, items=tuple(meant))})


def _combinations(grid: Mapping[str, Values]) -> Iterator[dict[str, tuple[Any, int]]]:
    """Every combination, (value, line) by setting; random values are taken together."""
    pairs = {key: list(zip(v.items, v.lines, strict=True)) for key, v in grid.items()}
    drawn = [key for key, values in grid.items() if values.kind == "random"]
    crossed = [key for key in grid if key not in drawn]
    for chosen in itertools.product(*(pairs[key] for key in crossed)):
        for draw in _together(pairs[key] for key in drawn):
            yield dict(zip((*crossed, *drawn), (*chosen, *draw), strict=True))


def _together(drawn: Iterable[list]) -> list[tuple]:
    return list(zip(*drawn, strict=True)) or [()]


def _uneven(grid: Mapping[str, Values]) -> str | None:
    """What stands against going through a grid: random values that cannot be taken together."""
    draws = {key: len(values.items) for key, values in grid.items() if values.kind == "random"}
    if len(set(draws.values())) > 1:
        told = ", ".join(f"{count} of {key}" for key, count in draws.items())
        return f"{told}: random values are taken together. Draw as many of each."
    return None


def _size(grid: Mapping[str, Values]) -> int:
    """Combinations of a grid."""
    sizes = [len(values.items) for values in grid.values() if values.kind != "random"]
    draws = [len(values.items) for values in grid.values() if values.kind == "random"]
    return math.prod(sizes) * max(draws, default=1)
