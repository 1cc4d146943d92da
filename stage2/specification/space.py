"""The space Optuna searches: the entries of a specification, over ranges and choices of settings.

A range is one dimension, between its ends and on its scale; a list is a choice; what several
recipes, or several parts of one, have in common is a dimension of each. Settings that choose a part
(``head``, ``loss``, …) are chosen first, and decide which others there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from featbank.bank import Bank
from featbank.settings import Setting
from stage2.features.experts import expert_weights, weighted
from stage2.methods.recipe import Recipe, expand
from stage2.methods.recipe_settings import settings_of
from stage2.specification.entries import CHOOSING, Entry, Values


class Trial(Protocol):
    """The methods of an Optuna trial that a space calls."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True)
class Space:
    """Entries of a specification, on a bank.

    Attributes
    ----------
    entries
        By name: the preset, and ``preset 2`` where it stands there a second time.
    seeds
        Seeds every trial is trained with.
    weights
        ε of the expert of each view of the bank.
    """

    entries: dict[str, Entry]
    seeds: tuple[int, ...]
    weights: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def on(bank: Bank, entries: Sequence[Entry], seeds: Sequence[int]) -> Space:
        """Build the space of entries that were checked, with their views on a bank."""
        named, count = {}, Counter[str]()
        for entry in entries:
            count[entry.name] += 1
            number = count[entry.name]
            named[entry.name if number == 1 else f"{entry.name} {number}"] = entry.with_views(bank)
        return Space(named, tuple(seeds), expert_weights(bank))

    def recipes(self, trial: Trial) -> list[Recipe]:
        """The configuration of a trial, a recipe for each seed.

        Dimensions are named by their setting, after the entry and a colon where there are several.
        """
        name, prefix = next(iter(self.entries)), ""
        if len(self.entries) > 1:
            name = trial.suggest_categorical("recipe", list(self.entries))
            prefix = f"{name}:"
        entry = self.entries[name]
        parts = {
            key: _suggested(trial, prefix + key, entry.grid[key], setting)
            for key, setting in CHOOSING.items()
            if key in entry.grid
        }
        takes = settings_of(entry.name, parts)
        chosen = {
            key: parts[key]
            if key in parts
            else _suggested(trial, prefix + key, values, takes.settings[takes.aliases[key]])
            for key, values in entry.grid.items()
            if key in takes.aliases
        }
        grid = {entry.name: {key: [v] for key, v in chosen.items()}}
        return [weighted(recipe, self.weights) for recipe in expand(grid, seeds=self.seeds)]


def _suggested(trial: Trial, name: str, values: Values, setting: Setting) -> Any:
    """A value of one dimension; ranges give six digits, as in a grid."""
    span = values.span
    if span is None:
        choices = list(dict.fromkeys(values.items))
        return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)
    log = span.scale == "log"
    if setting.type is int:
        low, high = round(span.low), round(span.high)
        return low if low == high else trial.suggest_int(name, low, high, log=log)
    return span.rounded(trial.suggest_float(name, span.low, span.high, log=log))
