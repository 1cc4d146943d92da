"""Temperature and vector scaling against SciPy, and what recipes make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from featbank import errors
from stage2 import sweep
from stage2.engine import evaluation
from stage2.engine.calibration import FOLDS, Calibration, calibrate, default_ridge, val_folds
from stage2.engine.loop import run_group
from stage2.engine.temperature import fit_streamed, fit_temperature
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import Problem, groups_of, run

ROWS, C, K = 300, 3, 5


def _logits() -> tuple[Tensor, Tensor]:
    """Over- and under-confident logits [N, C, K] and labels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(K, (ROWS,), generator=generator)
    z = torch.randn(ROWS, C, K, generator=generator) + 2 * torch.eye(K)[y][:, None]
    return z * torch.tensor([5.0, 1.0, 0.1])[:, None], y


def test_a_temperature_is_the_one_of_a_scalar_search() -> None:
    """Reference: scipy.optimize.minimize_scalar over T, torch's cross_entropy in float64."""
    z, y = _logits()
    found = calibrate("temperature", z.clone(), y)
    assert found.shift is None
    for c in range(C):
        own = z[:, c].double()
        best = minimize_scalar(
            lambda t, own=own: float(cross_entropy(own / np.exp(t), y)),
            bounds=(-5, 5),
            method="bounded",
            options={"xatol": 1e-8},
        )
        assert_close(1 / found.scale[c, 0], np.exp(best.x), 1e-4, f"T of configuration {c}")
    calibrated = found(z.clone())
    assert torch.equal(calibrated.argmax(2), z.argmax(2)), "a temperature moves no prediction"


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1])
def test_vector_scaling_is_the_minimum_scipy_finds(ridge: float) -> None:
    """Reference: scipy.optimize.minimize(method='BFGS') over log(a·T) and b, by autograd in
    float64, T from the scalar search's objective."""
    z, y = _logits()
    found = calibrate("vector", z, y, ridge=torch.full((C,), ridge))
    temperature = calibrate("temperature", z, y).scale.double()
    assert found.shift is not None
    for c in range(C):
        own = z[:, c].double()

        def objective(v: np.ndarray, own: Tensor = own, c: int = c) -> tuple[float, np.ndarray]:
            p = torch.tensor(v, requires_grad=True)
            scale = temperature[c] * p[:K].exp()
            value = cross_entropy(own * scale + p[K:], y) + ridge * p.square().sum()
            value.backward()
            assert p.grad is not None
            return float(value.detach()), p.grad.numpy()

        best = minimize(objective, np.zeros(2 * K), jac=True, method="BFGS", options={"gtol": 1e-8})
        scale = temperature[c].numpy() * np.exp(best.x[:K])
        assert_relative(found.scale[c], scale, 1e-3, f"a of configuration {c}")
        shift = found.shift[c] - found.shift[c].mean()
        assert_relative(shift, best.x[K:] - best.x[K:].mean(), 1e-3, f"b of configuration {c}")


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_a_class_without_val_rows_stays_at_the_temperature(ridge: float) -> None:
    """Reference: a = 1/T and b = 0 of the same rows; its rows elsewhere are not driven to 0 %."""
    z, y = _logits()
    seen = (y != 1) & (y != 4)
    found = calibrate("vector", z[seen], y[seen], ridge=torch.full((C,), ridge))
    temperature = calibrate("temperature", z[seen], y[seen]).scale
    assert found.shift is not None
    for k in (1, 4):
        assert torch.equal(found.scale[:, k], temperature[:, 0])
        assert torch.equal(found.shift[:, k], torch.zeros(C))
    calibrated = found(z.clone()).argmax(2)
    for k in (1, 4):
        assert bool(((calibrated == k) & (y == k)[:, None]).any(0).all()), f"class {k} is lost"


def test_a_class_with_few_val_rows_stays_at_the_temperature() -> None:
    """Reference: the calibration of the other classes alone."""
    z, y = _logits()
    few = torch.cat([torch.nonzero(y != 2).flatten(), torch.nonzero(y == 2).flatten()[:4]])
    found = calibrate("vector", z[few], y[few], ridge=torch.full((C,), 0.01), least=5)
    temperature = calibrate("temperature", z[few], y[few]).scale
    assert found.shift is not None
    assert_close(found.scale[:, 2], temperature[:, 0], 0, "scale of the rare class")
    assert_close(found.shift[:, 2], torch.zeros(C), 0, "shift of the rare class")
    assert (found.shift[:, [0, 1, 3, 4]] != 0).all(), "other classes have a shift"
    none = calibrate("vector", z[few], y[few], least=1000)
    assert_close(none.scale, temperature.expand(C, K), 0, "no class has enough rows")


def test_configurations_have_a_ridge_of_their_own() -> None:
    """Reference: each alone."""
    z, y = _logits()
    ridges = torch.tensor([0.0, 1e-2, 1.0])
    together = calibrate("vector", z, y, ridge=ridges)
    for c in range(C):
        alone = calibrate("vector", z[:, c : c + 1], y, ridge=ridges[c : c + 1])
        assert_relative(together.scale[c], alone.scale[0], 1e-4, f"a of configuration {c}")


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_val_that_can_be_separated_ends(kind: str) -> None:
    """Reference: finite numbers, although the optimum lies at infinity."""
    y = torch.arange(K).repeat(3)
    z = torch.eye(K)[y][:, None] * 0.5
    found = calibrate(kind, z, y)
    assert bool(found.scale.isfinite().all())
    assert float(cross_entropy(found(z.clone())[:, 0], y)) < 1e-2


@pytest.mark.parametrize("head", ["linear", "lws", "cosine", "tau_norm", "ncm"])
def test_any_head_can_be_calibrated(head: str, small: Problem) -> None:
    """Reference: the recipe without; a temperature leaves accuracy as it is."""
    settings = {"epochs": 2, "batch_size": 32} if head in ("linear", "lws", "cosine") else {}
    name = "ce" if settings else head
    plain = Recipe(name, head=head, **settings)
    scaled = Recipe(name, head=head, calibration="temperature", **settings)
    vector = Recipe(name, head=head, calibration="vector", **settings)
    outcomes = run([plain, scaled, vector], small)
    for key, uncalibrated in outcomes[plain].evaluations.items():
        with_temperature = outcomes[scaled].evaluations[key].metrics
        assert_close(with_temperature["top1"], uncalibrated.metrics["top1"], 1e-6, f"at {key}")
    assert {"calibration.scale", "calibration.shift"} <= set(outcomes[vector].parameters)


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_val_is_measured_by_calibrations_fitted_to_other_rows(kind: str, small: Problem) -> None:
    """Reference: a calibration of every fold of val, fitted by hand to the rows of the others."""
    recipe = Recipe("ce", calibration=kind, epochs=2, batch_size=32)
    (outcome,) = run([recipe], small).values()
    p = outcome.parameters
    z = torch.from_numpy(small.x["val", "instance"]) @ p["weight"].T + p["bias"]
    y = torch.from_numpy(small.y["val"])
    folds, scaled = val_folds(y), z[:, None].clone()
    for fold in range(FOLDS):
        others, own = folds != fold, folds == fold
        ridge = torch.tensor([default_ridge(int(others.sum()), len(y[others].unique()))])
        calibration = calibrate(kind, z[others, None], y[others], ridge=ridge, least=4)
        scaled[own] = calibration(scaled[own])
    nll = outcome.evaluations["val", "last"].metrics["nll"]
    assert_close(nll, cross_entropy(scaled[:, 0], y), 1e-5, "NLL on val")
    in_sample = cross_entropy(calibrate(kind, z[:, None], y)(z[:, None].clone())[:, 0], y)
    assert nll > in_sample, "NLL on rows that it was fitted to is lower"


def test_folds_of_val_spread_every_class() -> None:
    """Reference: counting; fold sizes and the rows of a class differ by one at most."""
    y = torch.tensor([0] * 7 + [3] * 5 + [1, 2, 4, 5, 6] * 1)[torch.randperm(17)]
    folds = val_folds(y)
    for k in range(7):
        counts = torch.bincount(folds[y == k], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1, f"class {k}: got {counts}"
    sizes = torch.bincount(folds, minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1, f"got {sizes}"


def test_folds_of_val_keep_groups_whole(small: Problem) -> None:
    """Reference: a calibration fitted by hand to the groups of the other folds; a row per group, or
    none, are folds of rows. The rows of a val of one group are not calibrated."""
    y = torch.from_numpy(small.y["val"])
    groups = np.arange(len(y)) // 3
    recipe = Recipe("ce", calibration="temperature", epochs=2, batch_size=32)
    (group,) = groups_of([recipe], small)
    measured = {}
    for name, of_val in (("rows", None), ("groups", groups), ("one", np.zeros_like(groups))):
        view = replace(small.view(), val_groups=of_val)
        (outcome,) = run_group(group, view)
        measured[name] = outcome.evaluations["val", "last"].metrics["nll"]
    p = outcome.parameters
    z = (torch.from_numpy(small.x["val", "instance"]) @ p["weight"].T + p["bias"])[:, None]
    folds = val_folds(y, groups)
    assert folds.unique().tolist() == list(range(FOLDS))
    assert all(len(folds[torch.from_numpy(groups == g)].unique()) == 1 for g in range(groups[-1]))
    for name, of_row in (("groups", folds), ("rows", val_folds(y))):
        scaled = z.clone()
        for fold in range(FOLDS):
            calibration = calibrate("temperature", z[of_row != fold], y[of_row != fold])
            scaled[of_row == fold] = calibration(scaled[of_row == fold])
        assert_close(measured[name], cross_entropy(scaled[:, 0], y), 1e-5, f"NLL by {name}")
    assert measured["groups"] != measured["rows"]
    assert_close(measured["one"], cross_entropy(z[:, 0], y), 1e-5, "NLL of one group")


def test_nll_at_its_temperature_weighs_classes_alike(small: Problem) -> None:
    """Reference: scipy.optimize.minimize_scalar of the mean over classes of their mean NLL."""
    recipe = Recipe("ce", epochs=2, batch_size=32)
    (outcome,) = run([recipe], small).values()
    p = outcome.parameters
    z = torch.from_numpy(small.x["val", "instance"]) @ p["weight"].T + p["bias"]
    y = torch.from_numpy(small.y["val"])

    def balanced(log_t: float) -> float:
        losses = cross_entropy(z.double() / np.exp(log_t), y, reduction="none")
        return float(np.mean([losses[y == k].mean() for k in y.unique()]))

    best = minimize_scalar(balanced, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8})
    metrics = outcome.evaluations["val", "last"].metrics
    assert_close(metrics["nll_t"], best.fun, 1e-5, "NLL,T")
    assert_relative(metrics["fitted_temperature"], np.exp(best.x), 1e-3, "T")
    losses = outcome.evaluations["val", "last"].details["losses"]
    expected = cross_entropy(z.double() / np.exp(best.x), y, reduction="none").numpy()
    np.testing.assert_allclose(losses, expected, rtol=1e-2, atol=1e-3)
    on_test = outcome.evaluations["test", "last"]
    assert on_test.metrics["nll_t"] is None, "nothing is fitted to test"
    assert "losses" not in on_test.details


def test_rows_of_untrained_classes_have_no_loss(small: Problem) -> None:
    """Reference: the same head on a val without such rows."""

    def without(split: str) -> Problem:
        kept = small.y[split] != 2
        x = {place: x[kept] if place[0] == split else x for place, x in small.x.items()}
        return replace(small, x=x, y={**small.y, split: small.y[split][kept]})

    small = without("train")
    learned = small.y["val"] != 2
    whole, cut = (
        next(iter(run([Recipe("ce", epochs=2, batch_size=32)], problem).values()))
        .evaluations["val", "last"]
        .details["losses"]
        for problem in (small, without("val"))
    )
    assert np.isnan(whole[~learned]).all()
    assert np.array_equal(whole[learned], cut)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3])
def test_a_temperature_is_found_from_any_start(size: float) -> None:
    """Reference: the definition of a minimum, of logits that are flat, tiny, plain and saturated;
    one classifier of which is not finite."""
    z, y = _logits()
    z *= size
    z[0, 1, 0] = torch.nan
    scale, nll, losses = fit_temperature(z, y)
    assert torch.stack([scale[1], nll[1]]).isnan().all(), "what is not finite has no temperature"
    for c in (0, 2):
        near = [
            float(cross_entropy(z[:, c].double() * scale[c] * factor, y))
            for factor in (0.97, 1.0, 1.03)
        ]
        assert near[1] <= min(near) + 1e-9, f"got {near}"
        assert_close(nll[c], near[1], 1e-5, "NLL")
        assert_relative(losses[c].double().mean(), nll[c], 1e-3, "the mean of the losses")


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_temperature_of_blocks_is_that_of_all_rows(size: float) -> None:
    """Reference: `fit_temperature` to all rows, one classifier of which is not finite; the first
    block alone has no weight."""
    z, y = _logits()
    z *= size
    z[100, 1, 0] = torch.nan
    weight = torch.rand(ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight[:7] = 0
    weight /= weight.sum()

    def blocks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(z.split(7), y.split(7), weight.split(7), strict=True)

    expected, found = fit_temperature(z, y, weight), fit_streamed(blocks)
    torch.testing.assert_close(found.scale, expected.scale, rtol=1e-5, atol=0, equal_nan=True)
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-6, atol=0, equal_nan=True)
    assert found.losses.shape == (C, 0)


def test_the_stored_parameters_give_the_measured_results(small: Problem) -> None:
    """Reference: logits from the outcome's own parameters, by hand."""
    recipe = Recipe("ce", calibration="vector", epochs=2, batch_size=32)
    (outcome,) = run([recipe], small).values()
    p = outcome.parameters
    x, y = small.x["test", "instance"], torch.from_numpy(small.y["test"])
    z = torch.from_numpy(x) @ p["weight"].T + p["bias"]
    z = z * p["calibration.scale"] + p["calibration.shift"]
    nll = outcome.evaluations["test", "last"].metrics["nll"]
    assert_close(nll, cross_entropy(z, y), 1e-5, "test NLL")


def test_configurations_in_parts_are_as_together(
    small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: all at once; a small bound holds the logits of one configuration at a time."""
    recipes = [
        Recipe("ce", lr=lr, calibration="temperature", epochs=2, batch_size=32)
        for lr in (0.01, 0.1, 0.3)
    ]
    together = run(recipes, small)
    monkeypatch.setattr(evaluation, "HELD_BYTES", 1)
    for recipe, outcome in run(recipes, small).items():
        expected = together[recipe].parameters["calibration.scale"]
        assert_close(outcome.parameters["calibration.scale"], expected, 1e-6, f"{recipe}")


def test_without_val_it_says_what_to_do(without_val: Problem, tmp_path: object) -> None:
    """Reference: the house's error form, before anything is trained."""
    with (
        without_val.bank(tmp_path / "bank.h5") as bank,  # type: ignore[operator]
        pytest.raises(errors.ConfigError, match=r"fits its temperature calibration to val.*split"),
    ):
        sweep(bank, [Recipe("crt", calibration="temperature")])


def test_a_calibration_is_applied_in_place() -> None:
    """Reference: a·z + b."""
    z = torch.ones(2, 1, 3)
    out = Calibration(torch.tensor([[2.0]]), torch.tensor([[0.0, 1.0, 2.0]]))(z)
    assert out is z
    assert_close(z[1, 0], [2.0, 3.0, 4.0], 0, "a·z + b")
