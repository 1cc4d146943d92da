"""Requirements of recipes on a bank, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.bank.expressions import parts_of
from featbank.bank.split import ways_to_val
from featbank.memory import size_text
from stage2.engine.plan import default_memory
from stage2.features.budgets import view_budget, view_bytes
from stage2.features.experts import averages
from stage2.features.folds import FOLDS, fold_counts, fold_name, folds_of
from stage2.features.loading import class_counts, facts_of
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import UNIT


def check_bank(bank: Bank, recipes: Iterable[Recipe], folds: int | None = None) -> None:
    """Raise if a bank lacks what a recipe needs: rows of a split, a view, samples of a class.

    With a number of `folds`, the rows that each of them trains on must be enough as well.
    """
    if not bank.evaluated:
        raise errors.ConfigError(
            f"{bank.path} has neither val nor test rows: nothing to compare on. Import one."
        )
    if not bank.train_counts.any():
        raise errors.DataError(f"{bank.path} has no training rows. Nothing can be trained on it.")
    counts_of = cache(lambda split: (class_counts(bank, split), facts_of(bank, split)))
    of_folds = fold_counts(bank, folds) if folds else []
    for recipe in recipes:
        _check_rows(bank, recipe)
        _check_calibration(bank, recipe)
        counts, facts = counts_of(recipe.settings["train_on"])
        for view in recipe.views:
            _check_view(bank, recipe, view)
            check_recipe(recipe, counts, bank.dim_of(view), facts)
        _check_generator_val(bank, recipe, counts, facts)
        if folds:
            _check_folds(bank, recipe, of_folds)


def selection_problem(bank: Bank, select_on: str | None, folds: int | None = None) -> str | None:
    """The problem of ranking by a split on a bank, if one is named; None where it can.

    With a number of `folds` the rows that they hold out may rank as well.
    """
    splits = [*bank.evaluated, *([fold_name(folds)] if folds else [])]
    if select_on in (None, *splits):
        return None
    return f"{bank.path} cannot select on {select_on!r}. Choose from: {', '.join(splits)}."


def folds_problem(bank: Bank, folds: int, *, screen: bool = False) -> str | None:
    """The problem of ranking by folds of a bank's training rows; None where it can.

    A bank whose train rows stage 1 has seen allows no more than a `screen`.
    """
    if problem := FOLDS.problem(folds, "the sweep"):
        return problem
    rows = bank.rows("train") if "train" in bank.splits else 0
    seen = int(bank.seen("train").sum()) if rows else 0
    if seen and not screen:
        return (
            f"{bank.path}: stage 1 has seen {seen} of the {rows} train rows: folds of them do not "
            "show how heads do on new rows. Hold a val out (`featbank train --val-per-class`, "
            "`featbank split --val-from-test`), import with --seen none if stage 1 never saw them, "
            "or take only their order, without figures, with --screen."
        )
    try:
        folds_of(bank, folds)
    except errors.ConfigError as error:
        return str(error)
    return None


def check_recipe(
    recipe: Recipe, counts: np.ndarray, dim: int, facts: ClassFacts = ROWS_ALONE
) -> None:
    """Raise if a recipe cannot learn from training counts [K] and features of D = `dim`."""
    head = HEADS[recipe.head]
    head.check(recipe.part("head"), dim)
    head.require(counts)
    if recipe.trained:
        LOSSES[recipe.settings["loss"]](counts, recipe.part("loss"), facts=facts)
    _check_generator(recipe)


def check_in_memory(
    bank: Bank,
    views: Sequence[str],
    device: str,
    memory: int | None,
    split: str,
    *,
    folded: bool = False,
) -> None:
    """Raise if training features that a generator needs in memory would be streamed."""
    share = (memory or default_memory(device)) // len(views)
    for view in views:
        budget = view_budget(bank, view, device=device, memory=share, train_on=split, folded=folded)
        if budget[split] is not None:
            raise errors.ConfigError(
                f"Generators need the features of {split} in memory, "
                f"{size_text(view_bytes(bank, split, view))} of {view!r} do not fit the budget. "
                "Raise --memory, or leave them out."
            )


def _check_folds(bank: Bank, recipe: Recipe, folds: Sequence[np.ndarray]) -> None:
    """Raise if a recipe cannot be trained on one of the folds, given by their counts [K]."""
    split = recipe.settings["train_on"]
    if split != "train":
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} learns from {split}, which may hold copies of the train rows "
            "that folds hold out. Leave the recipe out, or sweep it without --folds."
        )
    facts = facts_of(bank, split)
    for number, counts in enumerate(folds, 1):
        try:
            check_recipe(recipe, counts, bank.dim_of(recipe.views[0]), facts)
            _check_generator_val(bank, recipe, counts, facts)
        except errors.FeatbankError as error:
            raise type(error)(f"On fold {number} of {len(folds)}: {error}") from None


def _check_view(bank: Bank, recipe: Recipe, view: str) -> None:
    """Raise if a bank lacks a view of a recipe, or the view has not what its head takes: rows or
    tokens, and text."""
    for part in parts_of(view):
        if part.view not in bank.views:
            raise errors.ConfigError(
                f"Recipe {recipe.name!r} needs the view {part.view!r}, {bank.path} has: "
                f"{', '.join(bank.views)}. {_choice(bank)}"
            )
    bank.check_view(view)
    tokens, attends = bank.tokens(view), HEADS[recipe.head].takes_tokens
    if tokens is not None and not attends:
        heads = ", ".join(name for name, head in HEADS.items() if head.takes_tokens)
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} takes rows of features, {view!r} of {bank.path} has {tokens} "
            f"tokens a row. Pool them with --set view={view}:mean, or take a head for tokens: "
            f"{heads}."
        )
    if attends and tokens == 1:
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} attends over tokens, {bank.path} has one a row in "
            f"{recipe.settings['view']!r}. Take a view of tokens, or several views: "
            "--set 'view=a|b'."
        )
    if attends and recipe.settings.get("feature_scale") in ("standardise", UNIT):
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} takes tokens, whose scale is common to all: not "
            f"feature_scale={recipe.settings['feature_scale']}. Leave feature_scale out."
        )
    if attends and recipe.generator:
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} generates rows of features, its head {recipe.head!r} takes "
            "tokens. Leave the generator out, or take a head for rows."
        )
    _check_text(bank, recipe, view)


def _check_text(bank: Bank, recipe: Recipe, view: str) -> None:
    """Raise if a recipe uses text and a view has none."""
    if recipe.on_text and bank.text(view) is None:
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} uses text embeddings of the classes, {bank.path} has none for "
            f"the view {view!r}. Add them with `featbank amend {bank.path} --text text.npy -o "
            "OUT`, or leave the recipe out."
        )


def _choice(bank: Bank) -> str:
    """The options that choose one of a bank's views, or the average over its experts'."""
    average = [f"--set view={name} for the average over experts" for name in averages(bank)]
    return f"Choose with {', or '.join([*average[:1], f'--set view={bank.views[0]}'])}."


def _check_generator(recipe: Recipe) -> None:
    """Raise if a generator moves features to a space that W₀ does not fit."""
    generator = recipe.generator
    if not (generator and recipe.needs_classifier):
        return
    own = recipe.part("generator")
    if generator.moves_features(own):
        stays = (
            f"--set {setting.name}={choice}, or "
            for setting in generator.settings
            for choice in setting.choices
            if not generator.moves_features({**own, setting.name: choice})
        )
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} needs the stage-1 classifier, which does not fit the "
            f"features that generator {recipe.settings['generator']!r} makes. "
            f"Use {next(stays, '')}a head that begins fresh."
        )


def _check_rows(bank: Bank, recipe: Recipe) -> None:
    """Raise if a bank has no rows of the split that a recipe learns from."""
    split = recipe.settings["train_on"]
    if split not in bank.splits or not bank.rows(split):
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} learns from {split}, {bank.path} has no rows of it. "
            "Extract or import that split, or leave the recipe out."
        )


def _check_calibration(bank: Bank, recipe: Recipe) -> None:
    """Raise if a calibration has no val to be fitted to, or one that stage 1 has seen."""
    calibration = recipe.settings["calibration"]
    if calibration == "none":
        return
    if "val" not in bank.evaluated:
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} fits its {calibration} calibration to val, {bank.path} has no "
            f"val. {ways_to_val(bank)}"
        )
    if seen := int(bank.seen("val").sum()):
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} fits its {calibration} calibration to val, but stage 1 has "
            f"seen {seen} of its {bank.rows('val')} rows and is too sure of them. Train with a val "
            "of its own (`featbank train --val-per-class` or `--val-fraction`), take val from test "
            "(`featbank split --val-from-test`), or say --seen none where val is held out, if "
            "stage 1 never saw these rows."
        )


def _check_generator_val(bank: Bank, recipe: Recipe, counts: np.ndarray, facts: ClassFacts) -> None:
    """Raise if a bank lacks the rows of val that a generator needs; `counts` [K] of training."""
    generator = recipe.generator
    need = generator.needs_val(recipe.part("generator"), counts, facts) if generator else None
    if need is None:
        return
    remedy = f"{need.effect} with --set {need.without}"
    who = f"Recipe {recipe.name!r} {need.why}"
    if "val" not in bank.evaluated:
        raise errors.ConfigError(
            f"{who}, {bank.path} has no val. {remedy}, or get one. {ways_to_val(bank)}"
        )
    if need.classes.any() and not class_counts(bank, "val")[need.classes].any():
        raise errors.ConfigError(
            f"{who}, {bank.path} has no val row of the {need.classes.sum()} classes that this "
            f"concerns. {remedy}, or import a val that has some."
        )
