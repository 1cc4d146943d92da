"""Problems at the edge: empty and one-sample classes, K = 2, D = 1, B > N, no val [METHODS §4]."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from featbank import errors
from stage2.engine.kernel import KERNELS, LossRows
from stage2.engine.loop import run_group
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES, has_formula
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import group_stream, groups_of, problem, run

NEED_COUNTS = {name for name, loss in LOSSES.items() if loss.uses_counts}
"""Losses that need log n or 1/n, METHODS §4."""

_ODD = {"tde": {"heads": 1}}
"""Settings for an odd D."""

HOLES = np.array([40.0, 0, 12, 5, 0])


@pytest.mark.parametrize("loss", LOSSES)
def test_an_empty_class_is_named_where_its_log_is_needed(loss: str) -> None:
    """Reference: METHODS §4; the other losses do not care."""
    if loss not in NEED_COUNTS:
        LOSSES[loss](HOLES)
        return
    with pytest.raises(errors.EmptyClass, match=r"2 have none: 1, 4\..*empty_classes=ignore"):
        LOSSES[loss](HOLES)


@pytest.mark.parametrize("loss", [loss for loss in LOSS_CASES if loss in NEED_COUNTS])
def test_ignored_classes_leave_the_loss_of_the_others(loss: str) -> None:
    """Reference: float64 loss of the problem without these classes.

    Where the loss shifts logits the empty class leaves the softmax too; weighting losses give it no
    weight, so there the reference keeps its logit at the very bottom.
    """
    settings = {**LOSS_CASES[loss][0], "empty_classes": "ignore"}
    row = LOSSES[loss](HOLES, settings)
    for name in ("scale", "shift", "margin", "weight", "smoothing"):
        values = getattr(row, name)
        assert values is None or np.isfinite(values).all(), f"{name}: got {values}"
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if row.shift is None:
        z[:, [1, 4]] = -1e4
    y = torch.tensor([0, 2, 3] * 4)
    small, lower = z[:, [0, 2, 3]].clone().requires_grad_(), torch.tensor([0, 1, 2] * 4)
    present = torch.from_numpy(HOLES[HOLES > 0])
    expected = reference.loss(loss, small, lower, settings, present)
    (slope,) = torch.autograd.grad(expected, small)
    rows = LossRows.stack([row], 5, dtype=torch.float64)
    got, gradient = KERNELS[LOSSES[loss].kernel](z[:, None].clone(), y, rows)
    assert_relative(got[0], expected, 1e-10, f"loss of {loss}")
    assert_relative(gradient[:, 0, [0, 2, 3]], slope, 1e-10, f"gradient of {loss}")
    assert_close(gradient[:, 0, [1, 4]], np.zeros((12, 2)), 1e-12, "gradient of empty classes")


@pytest.mark.parametrize("loss", [loss for loss in LOSS_CASES if loss in NEED_COUNTS])
def test_training_with_ignored_classes_is_finite(loss: str) -> None:
    """Reference: nothing may be infinite or NaN; parameters, curves, metrics."""
    made = problem((40, 0, 12, 5, 0))
    recipe = Recipe(loss, empty_classes="ignore", epochs=4, batch_size=16)
    (outcome,) = run([recipe], made).values()
    assert outcome.status == "done", f"got {outcome.status}"
    for name, value in outcome.parameters.items():
        assert bool(value.isfinite().all()), f"{name}: got {value}"
    assert all(map(math.isfinite, outcome.curves["loss"])), f"got {outcome.curves}"
    for key, evaluation in outcome.evaluations.items():
        nll = evaluation.metrics["nll"]
        assert nll is not None, f"{key}: nll is missing"
        assert math.isfinite(nll), f"{key}: got {nll}"


@pytest.mark.parametrize("counts", [(30, 30, 30), (1, 1, 1, 1), (9, 5, 1, 1)])
def test_every_recipe_trains_with_equal_counts_and_single_samples(counts: tuple[int, ...]) -> None:
    """Reference: all results are finite, METHODS §4, and las smooths by ε_1 if all n are equal."""
    made = problem(counts, dim=3)
    recipes = [
        Recipe(name, epochs=2, batch_size=8, **_ODD.get(name, {}))
        if Recipe(name).trained
        else Recipe(name)
        for name in PRESETS
    ]
    for recipe, outcome in run(recipes, made).items():
        assert outcome.status == "done", f"{recipe}: got {outcome.status}"
        finite = {
            k: bool(v.isfinite().all())
            for k, v in outcome.parameters.items()
            if v.is_floating_point()
        }
        assert all(finite.values()), f"{recipe}: got {finite}"
    if len(set(counts)) == 1:
        for shape in ("concave", "linear", "convex", "exponential"):
            settings = {"smooth_head": 0.37, "smooth_tail": 0.1, "smooth_shape": shape}
            got = LOSSES["las"](np.array(counts, float), settings).smoothing
            assert_close(got, np.full(len(counts), 0.37), 1e-15, f"ε of {shape}")


def test_two_classes_and_one_feature() -> None:
    """Reference: float64 loop with K = 2 and D = 1, every trained preset."""
    made = problem((25, 4), dim=1, spread=0.5)
    recipes = [
        Recipe(name, epochs=3, batch_size=8, lr=0.02, **_ODD.get(name, {}))
        for name, preset in PRESETS.items()
        if not preset.variant and Recipe(name).trained and not Recipe(name).generator
        if has_formula(Recipe(name))
    ]
    for group in groups_of(recipes, made):
        view = made.view(group.stream.views[0])
        stream = group_stream(group.stream, view.train.labels)
        for outcome in run_group(group, view):
            recipe = outcome.recipe
            head = HEADS[recipe.head].init([recipe.part("head")], view.context)
            start = {name: value[0] for name, value in head.items()}
            s = {**recipe.settings, **recipe.part("loss")}
            data = made.double(group.stream.views[0])
            for name, value in reference.train(recipe.head, s, start, stream, **data).items():
                assert_close(outcome.parameters[name], value, 1e-4, f"{name} of {recipe}")


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    """Reference: the same recipe at B = N, whose batches are the whole data in some order."""
    made = problem((20, 6, 4))
    large, whole = (Recipe("ce", batch_size=b, epochs=5) for b in (1000, 30))
    outcomes = run([large, whole], made)
    for name, value in outcomes[whole].parameters.items():
        assert_close(outcomes[large].parameters[name], value, 1e-6, name)
    assert len(outcomes[large].curves["loss"]) == 5


def test_without_val_only_the_last_epoch_is_measured() -> None:
    """Reference: METHODS §5; never the best epoch on test."""
    made = problem(val=0)
    for outcome in run([Recipe("ce", epochs=3), Recipe("ncm")], made).values():
        assert set(outcome.evaluations) == {("test", "last")}, f"got {set(outcome.evaluations)}"
        assert outcome.selected_epoch is None
        assert "val_macro" not in outcome.curves


def test_the_selected_epoch_is_the_first_best_on_val() -> None:
    """Reference: the same recipe stopped after each epoch; a constant rate makes that the same run.

    The selected parameters must be those of the epoch, on val and on test.
    """
    made, inside = problem(spread=2.0), 0
    for seed in range(4):
        shape = {"schedule": "constant", "batch_size": 16, "lr": 0.02, "seed": seed}
        full, *ends = (
            outcome
            for epochs in (8, *range(1, 9))
            for outcome in run([Recipe("ce", epochs=epochs, **shape)], made).values()
        )
        macro = [o.evaluations["val", "last"].metrics["macro"] for o in ends]
        assert_close(full.curves["val_macro"], macro, 1e-9, "val macro by epoch")
        best = int(np.argmax(macro))
        assert full.selected_epoch == best, f"got {full.selected_epoch}, expected {best} of {macro}"
        inside += 0 < best < 7
        for split in ("val", "test"):
            for name in ("top1", "macro", "few", "nll", "ece"):
                got = full.evaluations[split, "selected"].metrics[name]
                expected = ends[best].evaluations[split, "last"].metrics[name]
                assert_close(got, expected, 1e-6, f"{name} on {split} at the selected epoch")
    assert inside, "no seed selects an epoch inside: this test compares too little"


def test_a_group_with_no_class_is_none() -> None:
    """Reference: METHODS §8; no class of this problem has more than 100 rows."""
    (outcome,) = run([Recipe("ce", epochs=1)], problem()).values()
    metrics = outcome.evaluations["test", "last"].metrics
    assert metrics["many"] is None, f"got {metrics['many']}"
    assert metrics["medium"] is not None
    assert metrics["few"] is not None
