"""Where Optuna looks: the presets of a specification, over ranges and choices of their settings.

A range is one dimension, between its ends and on its scale; a list is a choice; what several
recipes, or several parts of one, have in common is a dimension of each. Settings that choose a part
(``head``, ``loss``, …) are chosen first, and decide which of the others there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from featbank.bank import Bank
from featbank.settings import Setting
from stage2.methods.recipe import Recipe, expand
from stage2.methods.recipe_settings import settings_of
from stage2.search.methods import Sampling, Search
from stage2.specification.grids import CHOOSING, Entry, Values, with_views


class Trial(Protocol):
    """What is asked of a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True)
class Space:
    """Entries of a specification, and what their dimensions begin with.

    Attributes
    ----------
    entries
        By name: the preset, and ``preset 2`` where it stands there a second time.
    seeds
        Seeds every trial is trained with.
    """

    entries: dict[str, Entry]
    seeds: tuple[int, ...]

    @staticmethod
    def on(bank: Bank, entries: Sequence[Entry], seeds: Sequence[int]) -> Space:
        """The space of entries that were checked, with their views on a bank."""
        named, count = {}, Counter[str]()
        for entry in entries:
            count[entry.name] += 1
            number = count[entry.name]
            named[entry.name if number == 1 else f"{entry.name} {number}"] = with_views(entry, bank)
        return Space(named, tuple(seeds))

    def recipes(self, trial: Trial) -> list[Recipe]:
        """The configuration of a trial, a recipe for each seed.

        Dimensions are called by their setting, after the entry and a colon where there are several.
        """
        name, before = next(iter(self.entries)), ""
        if len(self.entries) > 1:
            name = trial.suggest_categorical("recipe", list(self.entries))
            before = f"{name}:"
        entry = self.entries[name]
        grid = entry.grid
        parts = {
            key: _suggested(trial, before + key, grid[key], CHOOSING[key])
            for key in CHOOSING
            if key in grid
        }
        takes = settings_of(entry.name, parts)
        chosen = {
            key: parts[key]
            if key in parts
            else _suggested(trial, before + key, values, takes.settings[takes.aliases[key]])
            for key, values in grid.items()
            if key in takes.aliases
        }
        return expand({entry.name: {k: [v] for k, v in chosen.items()}}, seeds=self.seeds)


def tried(entries: Sequence[Entry], search: Search | None) -> list[Entry]:
    """What of `entries` is gone through to check them: all, or for a search that chooses by itself
    every combination of parts, and of the other settings one at a time."""
    if not isinstance(search, Sampling):
        return list(entries)
    found = []
    for entry in entries:
        free = [key for key in entry.grid if key not in CHOOSING]
        for varied in free or [""]:
            grid = {
                key: _in_full(values) if key in CHOOSING or key == varied else _first(values)
                for key, values in entry.grid.items()
            }
            found.append(replace(entry, grid=grid))
    return found


def seed_problem(entries: Sequence[Entry]) -> tuple[int, str] | None:
    """Line and sentence where a seed is among what Optuna would choose."""
    for entry in entries:
        if "seed" in entry.grid:
            return entry.grid["seed"].line, (
                "A search does not choose seeds. Write seeds = [0, 1, 2] above the recipes."
            )
    return None


def _suggested(trial: Trial, name: str, values: Values, setting: Setting) -> Any:
    """A value of one dimension; ranges give six digits, as in a grid."""
    span = values.span
    if span is None:
        some = list(dict.fromkeys(values.items))
        return some[0] if len(some) == 1 else trial.suggest_categorical(name, some)
    log = span.scale == "log"
    if setting.type is int:
        low, high = round(span.low), round(span.high)
        return low if low == high else trial.suggest_int(name, low, high, log=log)
    value = float(f"{trial.suggest_float(name, span.low, span.high, log=log):.6g}")
    return min(max(value, span.low), span.high)


def _in_full(values: Values) -> Values:
    """What a setting is to try; of a range its ends."""
    if values.span is None:
        return values
    ends = values.span.low, values.span.high
    return replace(values, items=ends, lines=(values.line,) * 2, kind="range")


def _first(values: Values) -> Values:
    values = _in_full(values)
    return replace(values, items=values.items[:1], lines=values.lines[:1])
