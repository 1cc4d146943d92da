"""A specification: what a sweep compares, on which banks, and how it searches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from featbank import errors
from featbank.bank import Bank
from stage2.features.experts import resolved
from stage2.features.requirements import check_bank
from stage2.methods.recipe import Recipe
from stage2.search import Search
from stage2.specification.entries import Entry, entries_to_check
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
    entries: tuple[Entry, ...] = field(repr=False, default=())

    def on(self, bank: Bank) -> list[Recipe]:
        """The recipes with their views on a bank; where Optuna chooses them, some of them.

        Raises
        ------
        ConfigError
            With everything that the bank lacks.
        """
        problems = Problems(self.name)
        recipes = self.check(problems, bank)
        problems.check()
        return recipes

    def space(self, bank: Bank) -> Space:
        """The space that Optuna searches on a bank, checked as `on` does."""
        self.on(bank)
        return Space.on(bank, self._entries_on(bank), self.seeds)

    def check(self, problems: Problems, bank: Bank | None = None) -> list[Recipe]:
        """Expand the entries, on a bank where there is one, and note every problem."""
        entries = self._entries_on(bank) if bank else self.entries
        return recipes_of(entries_to_check(entries, self.search), self.seeds, problems, bank)

    def left_out(self, bank: Bank) -> dict[str, str]:
        """Recipes that nobody asked for and a bank does not allow, each with the reason."""
        reasons = {}
        for entry in self.entries:
            if entry.optional:
                try:
                    check_bank(bank, resolved(bank, [Recipe(entry.name)]))
                except errors.FeatbankError as error:
                    reasons[entry.name] = str(error)
        return reasons

    def _entries_on(self, bank: Bank) -> list[Entry]:
        left_out = self.left_out(bank)
        return [entry for entry in self.entries if entry.name not in left_out]
