"""A specification: what a sweep compares, on which banks, and how it searches."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from featbank import errors
from featbank.bank import Bank
from stage2.features.experts import averaged, resolved
from stage2.features.requirements import check_bank
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import VIEW
from stage2.search import Sampling, Search
from stage2.specification.entries import ZERO_SHOT, Entry, entries_to_check, zero_shot_on
from stage2.specification.grids import recipes_of
from stage2.specification.problems import Problems
from stage2.specification.space import Space


@dataclass(frozen=True)
class Specification:
    """A sweep, as a file or options describe it.

    Attributes
    ----------
    name
        The file as it was named; empty where there is none.
    description
        The comment it opens with.
    banks
        The banks to sweep.
    recipes
        Every combination and seed; on a bank, use `on`.
    seeds
        The seeds.
    select_on
        Split that ranks, or None.
    output
        Results file, or None.
    search
        How it searches, or None where it trains everything.
    folds
        The number of folds that rank, or None.
    entries
        The presets with their grids.
    """

    name: str
    description: str
    banks: tuple[Path, ...]
    recipes: tuple[Recipe, ...] = field(repr=False)
    seeds: tuple[int, ...]
    select_on: str | None
    output: Path | None
    search: Search | None = None
    folds: int | None = None
    entries: tuple[Entry, ...] = field(repr=False, default=())
    _checked: dict[str, list[Recipe]] = field(repr=False, compare=False, default_factory=dict)

    def on(self, bank: Bank) -> list[Recipe]:
        """The recipes with their views on a bank, on one that has text `zero_shot` as well; where
        Optuna chooses them, some of them.

        Raises
        ------
        ConfigError
            With everything that the bank lacks.
        """
        if bank.fingerprint not in self._checked:
            problems = Problems(self.name)
            self.check(problems, bank)
            problems.check()
        return list(self._checked[bank.fingerprint])

    def space(self, bank: Bank) -> Space:
        """The space that Optuna searches on a bank, checked as `on` does."""
        self.on(bank)
        return Space.on(bank, self._entries_on(bank), self.seeds)

    def check(self, problems: Problems, bank: Bank | None = None) -> list[Recipe]:
        """Expand the entries, on a bank where there is one, and note every problem."""
        entries = entries_to_check(self._entries_on(bank) if bank else self.entries, self.search)
        recipes = recipes_of(entries, self.seeds, problems, bank, self.folds)
        if bank and not len(problems):
            self._checked[bank.fingerprint] = recipes
        return recipes

    def left_out(self, bank: Bank) -> dict[str, str]:
        """Recipes that nobody asked for and a bank does not allow, each with the reason."""
        reasons = {}
        for entry in self.entries:
            if entry.optional:
                try:
                    check_bank(bank, resolved(bank, [Recipe(entry.name)]), self.folds)
                except errors.FeatbankError as error:
                    reasons[entry.name] = str(error)
        return reasons

    def _entries_on(self, bank: Bank) -> list[Entry]:
        left_out = self.left_out(bank)
        entries = [entry for entry in self.entries if entry.name not in left_out]
        named = any(entry.name == ZERO_SHOT for entry in entries)
        if named or isinstance(self.search, Sampling):
            return entries
        views = [averaged(bank, VIEW.default), *bank.views]
        with_text = (v for v in views if all(map(partial(_has_text, bank), v.split("+"))))
        return [*entries, *map(zero_shot_on, islice(with_text, 1))]


def _has_text(bank: Bank, view: str) -> bool:
    return view in bank.views and bank.text(view) is not None
