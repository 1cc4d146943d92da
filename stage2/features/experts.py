"""Views of several experts [SLA §4.2, RIDE]: the views that a recipe stands for, and a short name.

A bank of E experts has the views ``expert0/NAME`` … of the statistics NAME, and no view ``NAME``. A
recipe on ``NAME`` is then one on all experts: a head on the features of each, outputs averaged. The
average is weighted by the experts' ε where the bank records them [SLA eq. 19].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from featbank.bank import Bank
from featbank.settings import shortened
from stage2.methods.recipe import Recipe

_EXPERT = re.compile(r"expert(\d+)/(.+)")


def averaged(bank: Bank, view: str) -> str:
    """The views of a bank that a recipe's setting `view` stands for.

    Where the bank has no view ``NAME``, it is replaced by those of its experts, joined by ``+``.
    A name that has neither is kept.
    """
    return "+".join(name for part in view.split("+") for name in _views_of(bank, part))


def resolved(bank: Bank, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Recipes with their views on a bank spelled out, and the weights of experts, without
    duplicates."""
    weights = expert_weights(bank)
    recipes_on_bank: dict[Recipe, None] = {}
    for recipe in recipes:
        view = averaged(bank, recipe.settings["view"])
        same = view == recipe.settings["view"]
        spelled_out = recipe if same else Recipe(recipe.name, **{**recipe.settings, "view": view})
        recipes_on_bank[weighted(spelled_out, weights)] = None
    return list(recipes_on_bank)


def expert_weights(bank: Bank) -> dict[str, float]:
    """ε of the expert of each view of a bank [SLA eq. 19]."""
    return {view: bank.expert_weight(view) for view in bank.views}


def unrecorded(bank: Bank, recipes: Iterable[Recipe]) -> str | None:
    """A warning where experts that stage 1 weighed are averaged alike: versions before schema 4
    recorded their weights in the provenance alone."""
    stage1 = bank.provenance.get("stage1")
    settings = stage1.get("settings") if isinstance(stage1, Mapping) else None
    told = settings.get("expert_weights") if isinstance(settings, Mapping) else None
    if not isinstance(told, str) or len(set(told.split("+"))) < 2:
        return None
    if any(weight != 1 for weight in expert_weights(bank).values()):
        return None
    alike = (r for r in recipes if len(r.views) > 1 and "view_weights" not in r.settings)
    if next(alike, None) is None:
        return None
    return (
        f"{bank.path} was extracted by an older version, so experts are averaged alike; stage 1 "
        f"weighed them by {shortened(told)}. Extract it again, or set view_weights."
    )


def weighted(recipe: Recipe, weights: Mapping[str, float]) -> Recipe:
    """A recipe on several views that says their weights, where these differ and it sets none."""
    of_views = [weights.get(view, 1.0) for view in recipe.views]
    if "view_weights" in recipe.settings or len(set(of_views)) < 2:
        return recipe
    text = "+".join(f"{weight:g}" for weight in of_views)
    return Recipe(recipe.name, **{**recipe.settings, "view_weights": text})


def averages(bank: Bank) -> list[str]:
    """Statistics of which a bank has views of experts only: their names stand for an average,
    ``instance`` first."""
    statistics = {match[2] for view in bank.views if (match := _EXPERT.fullmatch(view))}
    return sorted(statistics - set(bank.views), key=lambda name: (name != "instance", name))


def short_name(view: str) -> str:
    """A name for tables, ``expert0+1+2/instance`` for three joined views of one statistics."""
    parts = []
    for statistics, views in groupby(view.split("+"), _statistics):
        if statistics:
            numbers = "+".join(_EXPERT.sub(r"\1", name) for name in views)
            parts.append(f"expert{numbers}/{statistics}")
        else:
            parts += views
    return "+".join(parts)


def _views_of(bank: Bank, name: str) -> list[str]:
    if name not in averages(bank):
        return [name]
    return [view for view in bank.views if _statistics(view) == name]


def _statistics(view: str) -> str:
    """``instance`` of ``expert0/instance``; empty for a view of no expert."""
    match = _EXPERT.fullmatch(view)
    return match[2] if match else ""
