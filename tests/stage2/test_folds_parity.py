"""A fold trains as a sweep on a bank cut to it does, whatever the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import write_bank
from stage2 import Recipe, sweep
from stage2.engine import loop
from stage2.engine.pooled import PooledEvaluation
from stage2.engine.tile import TileRun
from stage2.features.folds import deal
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import OPTIMISERS
from stage2.methods.presets import PRESETS
from stage2.methods.samplers import SAMPLERS
from tests.stage2.cases import LOSS_CASES
from tests.stage2.synthetic import Problem, problem

FOLDS = 3
SHORT = {"epochs": 2, "batch_size": 16}
HARD = (40, 23, 11, 6, 4, 2, 1, 0)
"""With classes smaller than the folds, of one row, and without any."""

Trained = dict[Recipe, list[dict[str, torch.Tensor]]]
"""Parameters of each recipe on each fold."""


def written(
    made: Problem,
    path: Path,
    rows: np.ndarray | None = None,
    *,
    start: bool = True,
    tokens: int = 0,
) -> Path:
    """A bank of the problem, or of some of its train rows, whose backbone never saw them; each row
    cut into so many `tokens`."""
    rows = np.arange(len(made.y["train"])) if rows is None else rows
    features: dict[str, dict[str, np.ndarray]] = {}
    for (split, view), all_rows in made.x.items():
        x = all_rows[rows] if split == "train" else all_rows
        features.setdefault(split, {})[view] = x.reshape(1, len(x), tokens, -1) if tokens else x
    labels = {split: y[rows] if split == "train" else y for split, y in made.y.items()}
    write_bank(
        path,
        features,
        labels,
        class_names=[f"class {k}" for k in range(len(made.w0))],
        classifier={"instance": (made.w0, made.b0)} if start and not tokens else None,
        seen=dict.fromkeys(labels, False),
        text=None if tokens else {"instance": (made.text[None], 20.0)},
    )
    return path


@pytest.fixture
def trained_on_folds(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The parameters that each fold trains, as they are measured."""
    kept: Trained = {}

    class Keeping(PooledEvaluation):
        def end_fold(self, run: TileRun) -> None:
            for c, recipe in enumerate(run.tile.recipes):
                kept.setdefault(recipe, []).append(
                    {
                        f"{view}.{name}": values[c].clone()
                        for view, model in enumerate(run.models)
                        for name, values in model.parameters_at("last").items()
                    }
                )
            super().end_fold(run)

    monkeypatch.setattr(loop, "PooledEvaluation", Keeping)
    return kept


def assert_folds_are_cut_banks(
    recipes: Sequence[Recipe], made: Problem, folder: Path, kept: Trained, **options: Any
) -> None:
    """Compare the parameters of every fold with those of a sweep on the bank cut to it, exactly
    unless `within` is given."""
    within = options.pop("within", 0.0)
    shape = {name: options.pop(name) for name in ("start", "tokens") if name in options}
    sweep(written(made, folder / "whole.h5", **shape), recipes, folds=FOLDS, **options)
    folds = deal(made.y["train"], FOLDS)
    for fold in range(FOLDS):
        cut = written(made, folder / f"{fold}.h5", folds.trained(fold), **shape)
        for outcome in sweep(cut, recipes, **options).outcomes:
            several = len(outcome.recipe.views) > 1
            found = kept[outcome.recipe][fold]
            expected = {
                name: values
                for name, values in outcome.parameters.items()
                if not name.startswith("calibration.")
            }
            assert len(found) == len(expected) > 0
            for (name, values), got in zip(expected.items(), found.values(), strict=True):
                off = (got.float() - values.float()).abs().max()
                assert torch.equal(got, values) or off < within, (
                    f"{name} of {outcome.recipe.id} on fold {fold}, {several=}, off by {off:.3g}"
                )


def _usual(names: Sequence[str]) -> Iterator[Recipe]:
    """Presets at their own settings, shortened."""
    for name in names:
        recipe = Recipe(name)
        if recipe.settings["train_on"] == "train" and not HEADS[recipe.head].takes_tokens:
            yield Recipe(name, **{k: v for k, v in SHORT.items() if k in recipe.settings})


def _losses() -> Iterator[Recipe]:
    for loss in LOSSES:
        for case in LOSS_CASES.get(loss, [{}])[:2]:
            short = {**case, **({"defer": 1} if case.get("defer") else {})}
            head = LOSSES[loss].head or "linear"
            if LOSSES[loss].needs_cosine:
                head = "cosine"
                del short["scale"]  # that of the head
            named = {f"loss.{name}": value for name, value in short.items()}
            yield Recipe("ce", head=head, loss=loss, **SHORT, **named)


REGISTRIES: dict[str, Callable[[], Sequence[Recipe]]] = {
    "presets": lambda: list(_usual([name for name, each in PRESETS.items() if not each.variant])),
    "losses": lambda: list(_losses()),
    "samplers": lambda: [Recipe("ce", sampler=name, **SHORT) for name in SAMPLERS],
    "generators": lambda: [Recipe("ce", generator=name, **SHORT) for name in GENERATORS],
    "optimisers": lambda: [
        Recipe("ce", optimiser=name, **(SHORT if name != "lbfgs" else {})) for name in OPTIMISERS
    ],
}


def test_the_recipes_have_every_head() -> None:
    """Reference: the registry; heads for tokens have a test of their own."""
    rows = {name for name, head in HEADS.items() if not head.takes_tokens}
    assert {recipe.head for recipe in REGISTRIES["presets"]()} >= rows


@pytest.mark.parametrize("registry", REGISTRIES)
def test_a_fold_is_a_bank_cut_to_it(
    registry: str, small: Problem, tmp_path: Path, trained_on_folds: Trained
) -> None:
    """Reference: sweeps on banks of the rows that each fold trains on, bit for bit."""
    assert_folds_are_cut_banks(REGISTRIES[registry](), small, tmp_path, trained_on_folds)


def test_heads_that_start_from_text_on_folds(
    small: Problem, tmp_path: Path, trained_on_folds: Trained
) -> None:
    """Reference: the same; text is for the rows of one length, which folds have once scaled."""
    recipes = [Recipe(name, init="text", **SHORT) for name in ("crt", "cosine")]
    recipes += [Recipe(name, **SHORT) for name in ("wise_ft", "clap")]
    recipes += [Recipe(name) for name in ("zero_shot", "tip_adapter", "gda_text", "gla")]
    assert_folds_are_cut_banks(recipes, small, tmp_path, trained_on_folds)


def test_heads_that_pool_tokens_on_folds(
    small: Problem, tmp_path: Path, trained_on_folds: Trained
) -> None:
    """Reference: the same; rows of two tokens, and their mean under a head for rows."""
    recipes = [Recipe(name, **SHORT) for name in ("pooled", "attentive", "alf")]
    recipes += [Recipe("crt", view="instance:mean", **SHORT)]
    assert_folds_are_cut_banks(recipes, small, tmp_path, trained_on_folds, tokens=2)


@pytest.mark.parametrize("counts", [HARD, HARD[:-1]], ids=["absent", "present"])
def test_the_same_with_classes_of_few_rows_one_and_none(
    counts: tuple[int, ...], tmp_path: Path, trained_on_folds: Trained
) -> None:
    """Reference: as above, without a classifier: probes are those of the rows trained on, and
    so is the scale of the features, whose last bits depend on the order of summation. One of the
    recipes has a batch stream that only all rows share with the others."""
    made = problem(counts, val=0)
    recipes = [
        *_usual(["crt", "lws", "mislas", "ncm", "lda", "knn", "tau_norm"]),
        *(Recipe(n, **SHORT, empty_classes="ignore") for n in ("balanced_softmax", "ldam")),
        Recipe("ce", **SHORT, steps_per_epoch=len(made.y["train"]) // 16),
        Recipe("ce", **SHORT),
        *(_usual(["logit_adjust"]) if counts[-1] else []),
    ]
    recipes += [Recipe("ce", **SHORT, feature_scale=how) for how in ("none", "standardise")]
    star = {"head": "disalign", "z0": "cosine", "init": "released"}
    recipes += [Recipe("ce", **SHORT, **star, feature_scale=how) for how in ("auto", "standardise")]
    assert_folds_are_cut_banks(recipes, made, tmp_path, trained_on_folds, start=False, within=1e-5)
