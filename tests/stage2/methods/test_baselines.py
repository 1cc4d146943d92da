"""Trained baselines: what the contracts of heads and losses do not say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import ive, log_softmax, softmax
from sklearn.isotonic import isotonic_regression

from featbank import errors
from stage2.engine.cloud import Cloud
from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.generators import GENERATORS, Features
from stage2.methods.heads import HEADS
from stage2.methods.heads.etf import ETF
from stage2.methods.heads.samn import SAMN
from stage2.methods.heads.vmf import log_partition
from stage2.methods.lbfgs import minimise
from stage2.methods.losses import LOSSES
from stage2.methods.priors import implied_prior
from stage2.methods.recipe import Recipe
from stage2.objective import AutogradLoss
from tests.stage2 import reference
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import problem, run

SMALL = problem((40, 22, 9, 5, 2), dim=8, val=4, test=6)


@pytest.mark.parametrize("dim", [1, 2, 3, 9, 64, 257])
def test_the_partition_of_a_concentration(dim: int) -> None:
    """Reference: SciPy's scaled Bessel functions, and a difference of them for the slope."""
    kappa = torch.tensor([1.0, 3.0, 16.0, 90.0], dtype=torch.float64)
    value, slope = log_partition(kappa, dim)

    def scipy(at: np.ndarray) -> np.ndarray:
        order = dim / 2 - 1
        leading = float(torch.lgamma(torch.tensor(dim / 2, dtype=torch.float64)))
        return np.log(ive(order, at)) + at - order * np.log(at / 2) + leading

    at, step = kappa.numpy(), 1e-5
    known = np.isfinite(scipy(at))
    assert known.any()
    assert_close(value[known], torch.from_numpy(scipy(at)[known]), 1e-10, "log partition")
    expected = (scipy(at + step) - scipy(at - step)) / (2 * step)
    assert_close(slope[known], torch.from_numpy(expected[known]), 1e-6, "its slope")


def test_the_partition_far_out() -> None:
    """Reference: limits; A_D(κ) → κ/D as κ/D → 0, and 1 − (D−1)/(2κ) where κ ≫ D."""
    value, slope = log_partition(torch.tensor([1.0, 1e4]), 4096)
    assert value.isfinite().all()
    assert float(slope[0]) == pytest.approx(1 / 4096, rel=1e-6)
    assert float(log_partition(torch.tensor([1e6]), 9)[1]) == pytest.approx(1 - 4e-6, rel=1e-9)
    assert float(log_partition(torch.tensor([0.0]), 9)[0]) == pytest.approx(0, abs=1e-12)


def test_noise_is_that_of_seed_and_epoch() -> None:
    """Reference: half normal numbers; the same draws for an epoch whatever came before."""
    cloud, amplitude = Cloud(3, torch.device("cpu")), torch.tensor([[0.0, 1.0, 2.0]])
    cloud.begin_epoch(1)
    first = cloud.lower(torch.zeros(20_000, 1, 3), amplitude)
    cloud.lower(torch.zeros(7, 1, 3), amplitude)
    cloud.begin_epoch(1)
    assert torch.equal(cloud.lower(torch.zeros(20_000, 1, 3), amplitude), first)
    cloud.begin_epoch(2)
    assert not torch.equal(cloud.lower(torch.zeros(20_000, 1, 3), amplitude), first)
    assert float(first[..., 0].abs().max()) == 0
    assert -first[..., 1].min() == pytest.approx(1)  # cut at three standard deviations
    assert -first[..., 1].mean() == pytest.approx(np.sqrt(2 / np.pi) / 3, rel=0.02)
    assert float(first[..., 2].mean() / first[..., 1].mean()) == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("generator", ["none", "mixup"])
def test_clouded_training(generator: str) -> None:
    """Reference: a recipe alone and beside others; without noise the same loss by the family."""
    settings = {"head.scale": 10.0, "init": "fresh", "generator": generator, "epochs": 3}
    recipes = [Recipe("gcl", cloud=cloud, **settings) for cloud in (0.0, 0.5)]
    recipes.append(Recipe("gcl", cloud=0.5, margin=0.3, **settings))
    together = run(recipes, SMALL)
    for recipe in recipes:
        alone = run([recipe], SMALL)[recipe]
        got = together[recipe].parameters["weight"]
        assert_close(got, alone.parameters["weight"], 1e-5, f"{recipe.settings['cloud']}")
    first, second = (together[r].parameters["weight"] for r in recipes[:2])
    assert not torch.allclose(first, second, atol=1e-3)


def test_clouded_prior() -> None:
    """Reference: free logits at the optimum under 400 fixed draws of the noise; the implied prior
    leaves a quarter of the error, in log odds, of one that forgets the noise."""
    counts = np.array([240.0, 60.0, 12.0])
    likelihood = np.array([[6, 1, 2], [3, 3, 1], [2, 4, 3], [1, 4, 6]]) / 12
    recipe = Recipe("gcl", margin=0.0, generator="none", **{"loss.gamma": 0.0, "head.scale": 10.0})
    row = LOSSES["gcl"](counts, recipe.part("loss"))
    rows = LossRows.stack([row], 3, dtype=torch.float64)
    joint = torch.from_numpy(likelihood / 3)  # class-balanced batches
    x, y = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (4, 3)), indexing="ij"))
    draws = torch.randn(400, 1, 3, generator=torch.Generator().manual_seed(0)).double().abs() / 3
    assert row.cloud is not None
    lowered = draws * torch.from_numpy(row.cloud)

    def evaluate(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = (point.view(4, 3)[x][:, None] - lowered[:, None]).view(-1, 1, 3)
        weight = joint[x, y].repeat(400) / 400
        value, slope = KERNELS["clouded"](z, y.repeat(400), rows, row_weight=weight)
        table = torch.zeros(4, 3, dtype=torch.float64).index_add_(0, x.repeat(400), slope[:, 0])
        return value, table.view(1, -1)

    z = minimise(
        evaluate, torch.zeros(1, 12, dtype=torch.float64),
        tolerance=torch.full((1,), 1e-8, dtype=torch.float64), max_iterations=300, history=10,
    ).point.view(4, 3)  # fmt: skip
    prior = implied_prior(recipe, counts)
    assert "noise on the logits" in prior.caveats

    def error(shares: np.ndarray) -> float:
        joint = likelihood * shares
        gap = log_softmax(z.numpy(), 1) - np.log(joint / joint.sum(1, keepdims=True))
        return float(np.abs(gap - gap.mean(1, keepdims=True)).mean())

    assert error(prior.shares) < error(np.ones(3) / 3) / 4


def test_clouds_in_stage_1() -> None:
    """Reference: the loss without noise, which epochs do not change; the draws of each training."""
    z, y = 5 * torch.randn(30, 3, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3

    def values(cloud: float) -> list[float]:
        loss = AutogradLoss(
            "gcl", {"scale": 5.0, "cloud": cloud}, class_counts=[50, 9, 2], epochs=9,
            classifier="cosine",
        )  # fmt: skip
        logits = z.clone().requires_grad_()
        total = [loss(logits, y, epoch) for epoch in range(9)]
        torch.stack(total).sum().backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())
        return [value.item() for value in total]

    noisy, quiet = values(1.0), values(0.0)
    assert noisy == values(1.0)
    assert len({*noisy}) == 9
    assert len({*quiet}) == 1
    assert np.mean(noisy) != pytest.approx(quiet[0], rel=1e-3)


def test_dot_regression_takes_its_head() -> None:
    """Reference: the one line, with its remedy."""
    line = (
        "Loss 'dot_regression' of recipe 'ce' pulls .* for head 'etf', not 'linear'. Take head=etf"
    )
    with pytest.raises(errors.ConfigError, match=line):
        Recipe("ce", loss="dot_regression")
    assert Recipe("etf", loss="dot_regression").settings["loss.scale"] == 16


def test_dot_regression_does_not_know_the_scale() -> None:
    """Reference: the same training at another s, whose logits are s times those."""
    recipes = [Recipe("dot_regression", epochs=4, **{"head.scale": s}) for s in (1.0, 8.0)]
    first, second = (run([recipe], SMALL)[recipe].parameters for recipe in recipes)
    for name in ("projection", "offset"):
        assert_close(first[name], second[name], 1e-5, name)


def test_the_simplex() -> None:
    """Reference: unit rows with the cosine −1/(K−1), of which the logits are the products."""
    context, settings = SMALL.view().context, {"scale": 3.0, "seed": 0}
    head = ETF()
    parameters = head.init([settings], context)
    form = head.form({n: v[0] for n, v in parameters.items()}, settings, context)
    rows = form.tensors["weight"] / 3
    assert_close(rows @ rows.T, 1.25 * torch.eye(5) - 0.25, 1e-6, "products")


def test_rows_keep_the_order_of_the_counts() -> None:
    """Reference: scikit-learn's isotonic regression; norms never rise with n after training."""
    context, head = SMALL.view().context, SAMN()
    parameters = head.init([{"init": "fresh", "seed": s} for s in (0, 1)], context)
    generator = torch.Generator().manual_seed(0)
    for name in ("norm", "lift"):
        parameters[name] += torch.randn(2, 5, generator=generator)
    before = {name: parameters[name].clone() for name in ("norm", "lift")}
    head.settle(parameters, context)
    order = np.argsort(context.counts, kind="stable")
    for name, values in before.items():
        for c in range(2):
            expected = isotonic_regression(values[c].numpy()[order])
            np.testing.assert_allclose(parameters[name][c].numpy()[order], expected, atol=1e-6)
            by_hand = reference.isotonic(values[c].double(), torch.from_numpy(context.counts))
            assert_close(parameters[name][c], by_hand, 1e-6, name)
    recipe = Recipe("samn", lr=0.02, epochs=5)
    trained = run([recipe], SMALL)[recipe].parameters
    stack = {name: value[None] for name, value in trained.items()}
    norms = HEADS["samn"].weight_norm(stack, context)
    assert norms is not None
    assert (np.diff(norms[0].numpy()[order]) <= 1e-6).all()
    assert len(norms.unique()) > 1


def test_fused_rows() -> None:
    """Reference: every channel is that of the row or of its partner, ⌊ρD⌋ of them the partner's,
    the same for all rows of a batch; partners are drawn alike from all rows, labels stay."""
    rows = torch.arange(30)
    x = rows[:, None].float().expand(-1, 8).contiguous()
    features = Features(x, rows % 3, 1, np.array([10.0, 10.0, 10.0]))
    draws = torch.randint(30, (50, 16), generator=torch.Generator().manual_seed(0))
    made = (
        GENERATORS["h2t"]
        .prepare({"rho": 0.3}, features)
        .make(draws, 0, torch.Generator().manual_seed(1))
    )
    fused = made.x[made.rows].view(50, 16, 8)
    own = fused == draws[:, :, None]
    assert torch.equal(made.y, (draws % 3).flatten())
    always = own.all(1).sum(1)  # channels of a batch that are the rows' own throughout
    assert bool((always == 8 - 2).all()), f"got {always}"
    partners = fused[~own].unique(return_counts=True)[1]
    assert len(partners) == 30
    whole = GENERATORS["h2t"].prepare({"rho": 0.0}, features)
    assert torch.equal(whole.make(draws, 0, torch.Generator()).x, x[draws.flatten()])


def test_fused_training() -> None:
    """Reference: a recipe alone and beside another of the same stream."""
    recipes = [Recipe("h2t", view="instance", epochs=2, lr=lr) for lr in (0.02, 0.1)]
    together = run(recipes, SMALL)
    alone = run(recipes[:1], SMALL)[recipes[0]]
    got = together[recipes[0]].parameters["weight"]
    assert_close(got, alone.parameters["weight"], 1e-5, "weights")
    assert implied_prior(recipes[0], SMALL.counts).shares == pytest.approx(np.full(5, 0.2))


def test_lade_estimates_density_ratios() -> None:
    """Reference: Bayes' rule. At the optimum of the whole loss on rows of exact shares, softmax(z)
    is a posterior under equal priors to 2 %, and as close without the regulariser."""
    counts = np.array([240, 60, 12])
    likelihood = np.array([[6, 1, 2], [3, 3, 1], [2, 4, 3], [1, 4, 6]]) / 12
    x, y = np.nonzero(likelihood)
    share = torch.from_numpy((likelihood * counts / counts.sum())[x, y])
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for alpha in (0.0, 0.1):
        recipe = Recipe("lade", **{"loss.alpha": alpha})
        rows = LossRows.stack([LOSSES["lade"](counts, recipe.part("loss"))], 3, dtype=torch.float64)

        def evaluate(
            point: torch.Tensor, rows: LossRows = rows
        ) -> tuple[torch.Tensor, torch.Tensor]:
            z = point.view(4, 3)[x][:, None].clone()
            value, slope = KERNELS["lade"](z, y, rows, row_weight=share)
            table = torch.zeros(4, 3, dtype=torch.float64).index_add_(0, x, slope[:, 0])
            return value, table.view(1, -1)

        z = minimise(
            evaluate, torch.zeros(1, 12, dtype=torch.float64),
            tolerance=torch.full((1,), 1e-9, dtype=torch.float64), max_iterations=500, history=10,
        ).point.view(4, 3)  # fmt: skip
        prior = implied_prior(recipe, counts)
        assert prior.shares == pytest.approx(np.ones(3) / 3)
        assert bool(prior.caveats) == (alpha > 0)
        posterior = likelihood / likelihood.sum(1, keepdims=True)
        assert np.abs(softmax(z.numpy(), 1) - posterior).max() < (0.02 if alpha else 1e-5)
