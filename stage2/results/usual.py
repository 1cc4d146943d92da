"""Stored settings as this version of featbank understands them: what a recipe takes, what is usual.

A sweep stores thousands of configurations of a few kinds: what follows from the names of their
parts is computed once for each kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from featbank import errors
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import CALIBRATION, HEAD, PARTS, VIEW, Takes, settings_of
from stage2.results.ensembles import ENSEMBLE

_CHOOSING = tuple(setting.name for setting in (HEAD, *PARTS, VIEW, CALIBRATION))
"""The settings that decide which others there are."""


def takes_of(name: str, parameters: Mapping[str, Any]) -> Takes | None:
    """The settings that a stored recipe takes; None where it was stored by a version that knew
    other names."""
    return _takes(name, _chosen(parameters))


def own_settings(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which a configuration differs from its preset, and from the defaults of parts
    that replace those of the preset."""
    usual = _usual(name, _chosen(parameters))
    return {k: v for k, v in parameters.items() if usual.get(k) != v}


def _chosen(parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, parameters[key]) for key in _CHOOSING if key in parameters)


@lru_cache(1024)
def _takes(name: str, chosen: tuple[tuple[str, Any], ...]) -> Takes | None:
    try:
        return settings_of(name, dict(chosen))
    except errors.ConfigError:
        return None


@lru_cache(1024)
def _usual(name: str, chosen: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    if (takes := _takes(name, chosen)) is None:
        return {}
    defaults = {key: setting.default for key, setting in takes.settings.items()}
    return {**defaults, **Recipe(name).parameters}


def classifiers_of(rows: Iterable[Mapping[str, Any]], views: Iterable[str]) -> set[tuple[str, str]]:
    """The stage-1 classifiers that configurations, or members of an ensemble, start from: of the
    bank's `views`, each with ``linear`` as it is in the bank or ``cosine``.

    Numbers do not decide which that is: a recipe is built once for all that differ in these alone.
    """
    kinds: dict[tuple[Any, ...], tuple[str, Mapping[str, Any]]] = {}
    before = None
    for row in rows:
        name, parameters = row["name"], row["parameters"]
        if parameters is before:  # the other epoch of a configuration
            continue
        before = parameters
        texts = (0 if type(value) in (int, float) else value for value in parameters.values())
        kinds.setdefault((name, *parameters, *texts), (name, parameters))
    found: set[tuple[str, str]] = set()
    for name, parameters in kinds.values():
        kind, starts = _classifiers(name, parameters)
        found |= {(view, kind) for view in (views if starts is None else starts)}
    return found


def _classifiers(name: str, parameters: Mapping[str, Any]) -> tuple[str, Collection[str] | None]:
    """The kind of classifier that a configuration starts from, and of which views; None where that
    is not known."""
    if name == ENSEMBLE:
        views = str(parameters.get("view")).split("+")
        return "linear", views if parameters.get("stage1") else ()
    try:
        recipe = Recipe(name, **parameters)
    except errors.ConfigError:  # stored by a version that knew other names
        return "linear", None
    kind = "linear" if recipe.cosine_scale is None else "cosine"
    return kind, recipe.views if recipe.needs_classifier and not recipe.starts_from_text else ()
