"""Importance of the settings of a recipe: the share of variance that each explains alone.

n configurations fall into k groups by the value of a setting, neighbouring values together where
there are many. With SS_b and SS_w the sums of squares between and within groups::

    ε² = (SS_b − (k − 1) SS_w / (n − k)) / (SS_b + SS_w)

is what a one-way analysis of variance explains, without what k groups explain by chance
[Kelley 1935]. It is the main effect of functional ANOVA, from the tried configurations themselves:
settings that matter only together have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stage2.results.grids import varied
from stage2.results.leaderboard import Row

LEAST = 8
"""Configurations of a recipe from which on importances are computed."""

MOST_GROUPS = 8
"""Groups of the values of a setting."""


def importances(rows: Sequence[Row]) -> dict[str, Any]:
    """Importance of every setting that varies for the figure that ranks, by recipe.

    Parameters
    ----------
    rows
        Rows of the leaderboard at the epoch that ranks, one for each configuration.

    Returns
    -------
    By recipe ``configurations``, their number, and ``settings``, [name, ε²] in percent, largest
    first; without recipes of fewer than `LEAST` configurations with a figure.
    """
    recipes: dict[str, list[Row]] = {}
    for row in rows:
        if row["selection"] is not None:
            recipes.setdefault(row["name"], []).append(row)
    return {
        name: {"configurations": len(own), "settings": _of_settings(own)}
        for name, own in recipes.items()
        if len(own) >= LEAST and varied(own)
    }


def _of_settings(rows: Sequence[Row]) -> list[list[Any]]:
    """The importances within one recipe."""
    figures = np.array([row["selection"] for row in rows])
    found = []
    for name, values in varied(rows).items():
        of = {value: place for place, value in enumerate(values)}
        places = np.array([of.get(row["parameters"].get(name), -1) for row in rows])
        share = explained(places, figures)
        found += [[name, round(100 * share, 1)]] if share is not None else []
    return sorted(found, key=lambda each: -each[1])


def explained(places: np.ndarray, figures: np.ndarray) -> float | None:
    """ε² of figures [n] by the places [n] of a setting's values in their order, at least 0.

    None where no group would have two members.
    """
    groups = _groups(places)
    rows, n = np.bincount(groups), len(figures)
    if n <= len(rows):
        return None
    means = np.bincount(groups, figures) / rows
    within = ((figures - means[groups]) ** 2).sum()
    between = (rows * (means - figures.mean()) ** 2).sum()
    if within + between == 0:
        return 0.0
    by_chance = (len(rows) - 1) * within / (n - len(rows))
    return max(0.0, float((between - by_chance) / (between + within)))


def _groups(places: np.ndarray) -> np.ndarray:
    """At most `MOST_GROUPS` groups [n] of places [n], as equal in size as their order allows."""
    distinct, groups, rows = np.unique(places, return_inverse=True, return_counts=True)
    if len(distinct) > MOST_GROUPS:
        middles = np.cumsum(rows) - rows / 2
        groups = (MOST_GROUPS * middles / len(places)).astype(int)[groups]
    return np.unique(groups, return_inverse=True)[1]
