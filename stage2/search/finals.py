"""The second round of a sweep on folds: the best configuration of every recipe, on all rows.

A calibration is fitted after the folds, so that a recipe with one and without are equals to them:
the best of each is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from stage2.methods.recipe import Recipe
from stage2.results.leaderboard import is_ranked
from stage2.results.results import Results

NO_SEARCH = (
    "A search chooses by val while it runs, folds rank everything at its end. Leave out one of "
    "the two."
)
"""The problem of a search on folds."""


def likely_finals(recipes: Sequence[Recipe]) -> list[Recipe]:
    """As many runs as the second round has, as far as that is known before the first: of each
    recipe one configuration, with all its seeds."""
    first: dict[tuple[str, str], str] = {}
    for recipe in recipes:
        first.setdefault(_kind(recipe), recipe.id)
    return [recipe for recipe in recipes if first[_kind(recipe)] == recipe.id]


def winners(by_folds: Results, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Those of `recipes`, all seeds, whose configuration is the best of its recipe in a results
    file that is ranked by folds."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for row in by_folds.board.first_rows():
        if is_ranked(row):
            kind = row["name"], row["parameters"].get("calibration", "none")
            kinds.setdefault(kind, []).append(row["recipe"])
    best = {id_ for ids in kinds.values() for id_ in by_folds.ranking.best(ids)}
    return [recipe for recipe in recipes if recipe.id in best]


def _kind(recipe: Recipe) -> tuple[str, str]:
    """Name and calibration of a recipe."""
    return recipe.name, recipe.settings["calibration"]
