"""From entries to recipes: every combination checked, every problem noted with its origin."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.settings import Setting
from stage2.features.experts import resolved
from stage2.features.requirements import check_bank
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe, check_runs, seed_count, with_seeds
from stage2.methods.recipe_settings import ENSEMBLE, VIEW_WEIGHTS, settings_of
from stage2.specification.entries import CHOOSING, Entry, Values
from stage2.specification.problems import Origin, Problems

_WRONG = object()
"""In the place of a value that is wrong."""

Choice = Mapping[str, tuple[Any, Origin]]
"""A combination: value and origin by setting."""


def recipes_of(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    problems: Problems,
    bank: Bank | None = None,
    folds: int | None = None,
) -> list[Recipe]:
    """Expand entries: every combination of each, for every seed.

    With a bank, views are those it has, and recipes for which it, or one of n `folds` of it, lacks
    something are noted too.
    """
    try:
        check_runs(_size(entry.grid) * seed_count(entry.grid, seeds) for entry in entries)
    except errors.ConfigError as error:
        problems.add(Origin(), error)
        return []
    expansion = _Expansion(seeds, problems, bank, folds)
    recipes = dict.fromkeys(itertools.chain.from_iterable(map(expansion.recipes, entries)))
    shared = {
        key: entry.grid[key].origin
        for entry in entries
        for key in entry.shared
        if entry.grid[key].kind != "default"
    }
    for key, origin in shared.items():
        if expansion.known and key not in expansion.taken and not expansion.may_average(key):
            hint = errors.closest(key, sorted(expansion.known))
            problems.add(origin, f"None of the recipes takes a setting {key!r}. {hint}")
    return list(recipes)


class _Expansion:
    """Entries on their way to recipes.

    Attributes
    ----------
    taken, known
        Settings that some combination was given and takes, and all that any takes.
    """

    def __init__(
        self, seeds: Sequence[int], problems: Problems, bank: Bank | None, folds: int | None
    ) -> None:
        self.taken, self.known = set[str](), set[str]()
        self._seeds, self._problems, self._bank, self._folds = seeds, problems, bank, folds
        self._reported = set[tuple[Origin, str, str, str]]()

    def may_average(self, key: str) -> bool:
        """Whether a setting belongs to the average that a bank of experts makes of a view."""
        return self._bank is None and key in (ENSEMBLE.name, VIEW_WEIGHTS.name)

    def recipes(self, entry: Entry) -> list[Recipe]:
        """The recipes of an entry; problems are noted."""
        if entry.name not in PRESETS:
            hint = errors.closest(entry.name, PRESETS)
            self._problems.add(entry.origin, f"Unknown recipe {entry.name!r}. {hint}")
            return []
        if self._bank:
            entry = entry.with_views(self._bank)
        draws = {k: len(v.items) for k, v in entry.grid.items() if v.kind == "random"}
        if len(set(draws.values())) > 1:
            counts = ", ".join(f"{count} of {key}" for key, count in draws.items())
            self._problems.add(
                entry.origin,
                f"Recipe {entry.name!r} has {counts}: random values are drawn together. "
                "Draw as many of each.",
            )
            return []
        taken, known = set[str](), set[str]()
        origins: dict[Recipe, dict[str, Origin]] = {}
        for choice in _combinations(entry.grid):
            for recipe in self._combination(entry, choice, taken, known):
                origins.setdefault(recipe, {key: origin for key, (_, origin) in choice.items()})
        self._note_unused(entry, taken, known)
        self.taken |= taken
        self.known |= known
        if self._bank:
            self._check_bank(self._bank, entry, origins)
        return list(origins)

    def _combination(
        self, entry: Entry, choice: Choice, taken: set[str], known: set[str]
    ) -> list[Recipe]:
        """A combination with every seed; none where something is wrong with it."""
        parts = {
            key: value
            for key, setting in CHOOSING.items()
            if key in choice and (value := self._read(entry, key, choice, setting)) is not _WRONG
        }
        wrong = {key for key in choice if key in CHOOSING} - parts.keys()
        takes = settings_of(entry.name, parts)
        known.update(takes.aliases)
        taken.update(wrong, choice.keys() & takes.aliases.keys())
        values = {
            key: self._read(entry, key, choice, takes.settings[takes.aliases[key]])
            for key in choice
            if key in takes.aliases
        }
        if wrong or any(value is _WRONG for value in values.values()):
            return []
        try:
            recipes = with_seeds(entry.name, values, takes, self._seeds)
            return resolved(self._bank, recipes) if self._bank else recipes
        except errors.FeatbankError as error:
            self._note(error, entry, {key: origin for key, (_, origin) in choice.items()})
            return []

    def _read(self, entry: Entry, key: str, choice: Choice, setting: Setting) -> Any:
        """A value in its setting's type; `_WRONG`, and a problem noted, where it is wrong."""
        value, origin = choice[key]
        kind = entry.grid[key].kind
        owner = f"recipe {entry.name!r}"
        try:
            if kind == "text" and isinstance(value, str):
                return setting.parse(value, owner)
            rounded = kind in ("range", "random") and setting.type is int
            return setting.check(round(value) if rounded else value, owner)
        except errors.ConfigError as error:
            # Once for a range, and once for a value that several recipes share.
            recipe = "" if key in entry.shared else entry.name
            reported = origin, recipe, key, "" if kind in ("range", "random") else repr(value)
            if reported not in self._reported:
                self._problems.add(origin, error)
            self._reported.add(reported)
            return _WRONG

    def _note_unused(self, entry: Entry, taken: set[str], known: set[str]) -> None:
        """Note an entry's own settings that no combination of it takes."""
        for key in entry.grid:
            if key in taken or key in entry.shared or self.may_average(key):
                continue
            wrong, fix = f"takes no setting {key!r}", errors.closest(key, sorted(known))
            if full := sorted(name for name in known if name.endswith(f".{key}")):
                wrong, fix = f"has more than one {key!r}", f"Write {' or '.join(full)}."
            self._problems.add(entry.grid[key].origin, f"Recipe {entry.name!r} {wrong}. {fix}")

    def _check_bank(
        self, bank: Bank, entry: Entry, origins: Mapping[Recipe, Mapping[str, Origin]]
    ) -> None:
        """Note what the bank lacks; seeds need nothing of it."""
        configurations = {recipe.id: recipe for recipe in origins}.values()
        try:
            check_bank(bank, configurations, self._folds)
        except errors.FeatbankError:
            for recipe in configurations:
                try:
                    check_bank(bank, [recipe], self._folds)
                except errors.FeatbankError as error:
                    self._note(error, entry, origins[recipe])

    def _note(self, error: Exception, entry: Entry, origins: Mapping[str, Origin]) -> None:
        """Note an error of a combination at the first setting that it names, else at the recipe."""
        words = re.findall(r"[\w.]+", str(error))
        named = [origins[word] for word in words if word in origins]
        self._problems.add(named[0] if named else entry.origin, error)


def _combinations(grid: Mapping[str, Values]) -> Iterator[Choice]:
    """Every combination; random values are drawn together."""
    crossed = [key for key, values in grid.items() if values.kind != "random"]
    drawn = [key for key, values in grid.items() if values.kind == "random"]
    draws = list(zip(*(grid[key].pairs for key in drawn), strict=True)) or [()]
    for chosen in itertools.product(*(grid[key].pairs for key in crossed)):
        for draw in draws:
            yield dict(zip((*crossed, *drawn), (*chosen, *draw), strict=True))


def _size(grid: Mapping[str, Values]) -> int:
    """Combinations of a grid."""
    sizes = [len(values.items) for values in grid.values() if values.kind != "random"]
    draws = [len(values.items) for values in grid.values() if values.kind == "random"]
    return math.prod(sizes) * max(draws, default=1)
