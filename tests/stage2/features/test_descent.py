"""Probes of large banks: a bounded number of passes, and an honest word on how far off they end."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stage2.features import descent
from stage2.features.loading import load_view
from stage2.features.probe import DECAY, fit_cosine, fit_linear, linear_probe
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, problem


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bank counts as large."""
    monkeypatch.setattr(descent, "LARGE", 1)


def _problem() -> Problem:
    return problem((300, 120, 50, 20, 8), dim=16, spread=1.5)


def _objective(made: Problem, weight: Tensor, bias: Tensor) -> tuple[float, float]:
    """The probe's objective in float64, and the least one that SciPy finds."""
    data = made.double()
    centred = data["x"] - data["x"].mean(0)
    x = centred / math.sqrt(centred.square().sum(1).mean())
    scale = float(centred.norm(dim=1).square().mean().sqrt())
    shape = weight.shape

    def value(w: Tensor, b: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(x @ w.t() + b, data["y"])
        return loss + DECAY / 2 * w.square().sum()

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        p = torch.from_numpy(point).requires_grad_()
        result = value(p[: shape.numel()].view(shape), p[shape.numel() :])
        (slope,) = torch.autograd.grad(result, p)
        return float(result.detach()), slope.numpy()

    options = {"gtol": 1e-10, "ftol": 0, "maxiter": 5000, "maxfun": 10**5, "maxcor": 50}
    start = np.zeros(shape.numel() + shape[0])
    best = minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options).fun
    w, b = weight.double() * scale, bias.double() + weight.double() @ data["x"].mean(0)
    return float(value(w, b)), best


@pytest.mark.usefixtures("large")
def test_it_ends_at_the_same_optimum() -> None:
    """Reference: SciPy's L-BFGS-B on the objective by autograd in float64."""
    made = _problem()
    (weight, bias), fit = fit_linear(made.view())
    got, best = _objective(made, weight, bias)
    assert fit.gradient <= fit.tolerance == 1e-6
    assert abs(got - best) < 1e-6, f"got {got}, SciPy {best}"
    assert fit.excess is not None
    assert fit.excess < 1e-4


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("iterations", [1, 4, 16])
def test_stopped_short_it_says_by_how_much(
    iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the objective in float64 less the least one that SciPy finds; the line."""
    monkeypatch.setattr(descent, "LEAST", iterations)
    monkeypatch.setattr(descent, "MOST", iterations)
    made = _problem()
    (weight, bias), fit = fit_linear(made.view())
    got, best = _objective(made, weight, bias)
    assert fit.excess is not None
    assert best < got <= best + fit.excess + 1e-6, f"got {got - best}, said {fit.excess}"
    assert iterations < fit.passes <= 2 * iterations + 3
    assert fit.gradient > fit.tolerance
    line = str(fit)
    assert line.startswith(f"{fit.passes} passes in ")
    assert "(aim 1e-06), loss at most" in line, line


@pytest.mark.usefixtures("large")
def test_copies_and_empty_classes(tmp_path: Path) -> None:
    """Reference: the float64 probe of the same rows, and a class that is never the most likely."""
    made = problem((60, 0, 20, 9), dim=5)
    with made.bank(tmp_path / "b.h5") as bank:
        data = load_view(bank, "instance")
    weight, bias = linear_probe(data)
    z = torch.from_numpy(made.x["train", "instance"]) @ weight.t() + bias
    assert not (z.argmax(1) == 1).any()
    assert z.isfinite().all()


@pytest.mark.usefixtures("large")
def test_a_cosine_probe_of_a_large_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the same in float64."""
    data = _problem().view()
    (single, _), fit = fit_cosine(data, 9.0)
    monkeypatch.setattr(descent, "LARGE", 1 << 60)
    (double, _), _ = fit_cosine(data, 9.0)
    assert fit.gradient <= fit.tolerance
    assert fit.excess is None
    assert_close(single, double, 2e-2, "weight")


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("iterations", [4, 16])
def test_a_cosine_probe_is_bounded_too(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the linear probe's bound of iterations; the objective in float64, of this probe
    and of one with ten iterations less."""
    data = _problem().view()

    def objective(most: int) -> tuple[float, descent.Fit]:
        monkeypatch.setattr(descent, "LEAST", most)
        monkeypatch.setattr(descent, "MOST", most)
        (weight, _), fit = fit_cosine(data, 9.0)
        z = normalize(data.train.x.double(), dim=1) @ weight.double().t()
        return float(cross_entropy(z, data.train.labels)), fit

    got, fit = objective(iterations)
    earlier, _ = objective(max(0, iterations - descent.RECENT))
    assert fit.fell == pytest.approx(earlier - got, abs=2e-6)
    assert fit.gradient > fit.tolerance
    assert iterations < fit.passes <= 2 * iterations + 10
    assert str(fit).endswith(f", loss fell by {fit.fell:.1g} over the last 10 iterations")


def test_the_allowance() -> None:
    """Reference: by hand, for ImageNet-LT, iNaturalist, and CIFAR-100-LT with D = 64."""
    assert descent.allowed(115_846, 2048, 1000) == 50
    assert descent.allowed(437_513, 2048, 8142) == 20
    assert descent.allowed(10_847, 64, 100) == 1000
    assert descent.is_large(115_846, 2048, 1000)
    assert not descent.is_large(10_847, 512, 100)
