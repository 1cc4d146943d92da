"""Batched L-BFGS against SciPy and against problems whose minimum is known."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from stage2.methods.lbfgs import Minimum, Objective, minimise
from tests.stage2.compare import assert_close

C, P = 5, 12


def _quadratics() -> tuple[Tensor, Tensor]:
    """Matrices A [C, P, P], positive definite of conditions 10…10⁵, and minima [C, P]."""
    generator = torch.Generator().manual_seed(0)
    minima = torch.randn(C, P, generator=generator, dtype=torch.float64)
    matrices = []
    for c in range(C):
        basis, _ = torch.linalg.qr(torch.randn(P, P, generator=generator, dtype=torch.float64))
        matrices.append(basis @ torch.diag(torch.logspace(0, c + 1, P).double()) @ basis.T)
    return torch.stack(matrices), minima


def _run(
    function: object, start: Tensor, tolerance: float = 1e-8, iterations: int = 500
) -> Minimum:
    tolerances = torch.full((len(start),), tolerance, dtype=torch.float64)
    return minimise(
        function,  # type: ignore[arg-type]
        start,
        tolerance=tolerances,
        max_iterations=iterations,
        history=10,
    )


def _rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x[:, 0], x[:, 1]
    value = 100 * (b - a**2) ** 2 + (1 - a) ** 2
    return value, torch.stack([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)], 1)


def test_quadratics_of_any_condition_end_at_their_minima() -> None:
    """Reference: the minima the problems were made with."""
    matrices, minima = _quadratics()

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.einsum("cpq,cq->cp", matrices, x - minima)
        return ((x - minima) * slope).sum(1) / 2, slope

    found = _run(function, torch.zeros(C, P, dtype=torch.float64), iterations=2000)
    assert_close(found.point, minima, 1e-7, "minima")
    for values, norms in zip(found.values, found.norms, strict=True):
        assert norms[-1] <= 1e-8, f"got a gradient of {norms[-1]}"
        assert np.all(np.diff(values) <= 1e-12), "the objective rose"


def test_rosenbrock_as_scipy_finds_it() -> None:
    """Reference: scipy.optimize.minimize(method='L-BFGS-B'), and the minimum (1, 1)."""
    starts = [(-1.2, 1.0), (3.0, 4.0), (0.0, -2.0)]
    found = _run(_rosenbrock, torch.tensor(starts, dtype=torch.float64))
    assert_close(found.point, np.ones((3, 2)), 1e-7, "Rosenbrock's minimum")
    for c, start in enumerate(starts):
        scipy = scipy_minimize(
            lambda v: tuple(t[0].numpy() for t in _rosenbrock(torch.tensor(v)[None])),
            np.array(start),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": 1e-8, "ftol": 0},
        )
        took = len(found.values[c]) - 1
        assert took <= 2 * scipy.nit + 10, f"got {took} iterations, SciPy {scipy.nit}"


def test_a_problem_does_not_notice_its_company() -> None:
    """Reference: the same problem alone; others end earlier, later, or are not finite."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = _rosenbrock(x)
        wild = x[:, 0] > 50
        return value.where(~wild, torch.nan), slope.where(~wild[:, None], torch.nan)

    starts = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [60.0, 0.0], [3.0, 4.0]]).double()
    together = _run(function, starts)
    for c in (0, 1, 3):
        alone = _run(function, starts[c : c + 1])
        assert_close(together.point[c], alone.point[0], 1e-12, f"problem {c}")
        assert together.values[c] == alone.values[0], f"problem {c} took another way"
    assert torch.equal(together.point[2], starts[2]), "a problem that is not finite stays"
    assert len(together.values[2]) == 1


def test_it_gives_up_after_max_iterations() -> None:
    """Reference: the bound; the curves have the start and one entry per iteration."""
    found = _run(_rosenbrock, torch.tensor([[-1.2, 1.0]]).double(), iterations=3)
    assert len(found.values[0]) == len(found.norms[0]) == 4
    assert found.norms[0][-1] > 1e-8


def test_a_direction_in_which_nothing_falls_ends_it() -> None:
    """Reference: a gradient of the wrong sign; the point stays, and the search ends."""
    start = torch.tensor([[1.0, 2.0]]).double()
    found = _run(lambda x: (x.square().sum(1), -2 * x), start)
    assert torch.equal(found.point, start), f"got {found.point}"


def test_problems_that_have_ended_cost_nothing() -> None:
    """Reference: all of them evaluated to the end of the last; the same points and curves."""
    matrices, minima = _quadratics()
    evaluated: list[int] = []

    def of(problems: Tensor) -> Objective:
        def function(x: Tensor) -> tuple[Tensor, Tensor]:
            evaluated.append(len(x))
            slope = torch.einsum("cpq,cq->cp", matrices[problems], x - minima[problems])
            return ((x - minima[problems]) * slope).sum(1) / 2, slope

        return function

    start, everyone = torch.zeros(C, P, dtype=torch.float64), torch.arange(C)
    whole = _run(of(everyone), start)
    passes, evaluated[:] = sum(evaluated), []
    apart = minimise(
        of(everyone),
        start,
        tolerance=torch.full((C,), 1e-8, dtype=torch.float64),
        max_iterations=500,
        history=10,
        subset=of,
    )
    assert_close(apart.point, whole.point, 1e-9, "points")
    assert list(map(len, apart.values)) == list(map(len, whole.values))
    assert sum(evaluated) < 0.75 * passes, f"got {sum(evaluated)} evaluations, {passes} without"


def test_a_metric_near_the_inverse_hessian_saves_iterations() -> None:
    """Reference: the minima, and the iterations without it; values rounded to float32."""
    matrices, minima = _quadratics()
    scale = torch.diagonal(matrices, dim1=1, dim2=2)
    inverse = torch.linalg.inv(matrices + 0.1 * torch.diag_embed(scale))

    def exact(x: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.einsum("cpq,cq->cp", matrices, x - minima)
        return 1 + ((x - minima) * slope).sum(1) / 2, slope

    def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = exact(x)
        return value.float().double(), slope

    plain = _run(exact, torch.zeros(C, P, dtype=torch.float64), 1e-6)
    led = minimise(
        rounded,
        torch.zeros(C, P, dtype=torch.float64),
        tolerance=torch.full((C,), 1e-6, dtype=torch.float64),
        max_iterations=500,
        history=10,
        metric=lambda g, _: torch.einsum("cpq,cq->cp", inverse, g),
        noise=1e-6,
    )
    assert_close(led.point, minima, 1e-5, "minima")
    assert max(norms[-1] for norms in led.norms) <= 1e-6
    assert max(map(len, led.values)) < max(map(len, plain.values)) / 2
