"""The configurations of a recipe over the values of its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featbank import errors
from stage2.results.leaderboard import Row


@dataclass(frozen=True)
class Grid:
    """The configurations of a recipe over the values of some of its settings.

    Attributes
    ----------
    recipe
        Its name.
    settings, values
        The settings, and the values of each, in order.
    best
        The row of the best configuration by the values of the settings; combinations that were not
        tried are absent.
    tried
        Number of configurations in all.
    """

    recipe: str
    settings: tuple[str, ...]
    values: tuple[list[Any], ...]
    best: dict[tuple[Any, ...], Row]
    tried: int


def grids(rows: Sequence[Row], count: int, by: Sequence[str] = ()) -> list[Grid]:
    """One grid over `count` settings for each recipe that varies as many.

    Parameters
    ----------
    rows
        Rows of the leaderboard, best first, one per configuration.
    count
        Number of settings.
    by
        The first of them; the others are those with most values.

    Returns
    -------
    The largest grid first; none where no recipe varies the settings.

    Raises
    ------
    ConfigError
        For a setting that no recipe varies, one that is named twice, and too many.
    """
    if len(by) > count or len(set(by)) < len(by):
        raise errors.ConfigError(
            f"Give {'one setting' if count == 1 else f'{count} different settings'}, "
            f"got {', '.join(by)}."
        )
    recipes: dict[str, list[Row]] = {}
    for row in rows:
        recipes.setdefault(row["name"], []).append(row)
    varying = {name: varied(rows) for name, rows in recipes.items()}
    known = dict.fromkeys(name for values in varying.values() for name in values)
    for name in by:
        if name not in known:
            remedy = errors.closest(name, known) if known else "None does."
            raise errors.ConfigError(f"No recipe varies {name!r}. {remedy}")
    made = []
    for recipe, tried in recipes.items():
        values = varying[recipe]
        settings = tuple(dict.fromkeys([*by, *values]))[:count]
        if len(settings) == count and all(name in values for name in settings):
            best = best_of_each(tried, settings)
            made.append(
                Grid(recipe, settings, tuple(values[name] for name in settings), best, len(tried))
            )
    return sorted(made, key=lambda grid: -math.prod(map(len, grid.values)))


def varied(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The settings with more than one value among the rows, and their values in order; those with
    most values first. Rows without a setting do not count."""
    values = {
        name: sorted({r["parameters"][name] for r in rows if name in r["parameters"]}, key=_order)
        for name in dict.fromkeys(name for row in rows for name in row["parameters"])
    }
    several = [(name, distinct) for name, distinct in values.items() if len(distinct) > 1]
    return dict(sorted(several, key=lambda item: -len(item[1])))


def best_of_each(rows: Sequence[Row], names: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """The first of the ranked `rows` for every combination of the values of settings `names`."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if all(name in row["parameters"] for name in names):
            best.setdefault(tuple(row["parameters"][name] for name in names), row)
    return best


def _order(value: Any) -> tuple[int, float, str]:
    """None first, then numbers by size, then texts."""
    if isinstance(value, (int, float)):
        return 1, value, ""
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))
