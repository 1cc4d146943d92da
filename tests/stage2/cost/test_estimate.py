"""The time estimate of a sweep: exact where runs cost what its model says, near where they run."""

from __future__ import annotations

import time

import pytest

from featbank import Bank
from stage2.cost import sample as module
from stage2.cost.estimate import duration, estimate
from stage2.engine.evaluation import evaluation_bytes
from stage2.engine.model import ViewData
from stage2.engine.plan import FusedGroup, Shape, Tile, group_bytes
from stage2.engine.rows import BLOCK_BYTES
from stage2.features.budgets import view_bytes
from stage2.features.loading import class_counts
from stage2.features.planning import plan_bank
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe, expand
from stage2.search import Halving
from stage2.search.rounds import by_first_seed, others_left, shares
from stage2.sweep import sweep
from tests.stage2.synthetic import COUNTS, Problem

ENDS, STEP, WATCH = 0.5, 0.01, 0.2


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Runs cost what the docstring of the module says; (epochs, steps) of each are noted."""
    runs = []

    def run(_: object, part: FusedGroup, views: list[ViewData], epochs: int, steps: int) -> float:
        runs.append((epochs, steps))
        configs = len(part.recipes)
        return configs * (ENDS + epochs * (steps * STEP + WATCH))

    monkeypatch.setattr(module.Sample, "_run", run)
    monkeypatch.setattr(module.Sample, "loading", lambda *_: 0.0)
    return runs


def test_the_model_is_found(bank: Bank, modelled: list[tuple[int, int]]) -> None:
    """Reference: a + E·(S·t + w) for each of 3 configurations with 2 seeds; evaluation for one that
    is not trained. Few of the 1,000 steps are run, for two groups of one cost only once."""
    grid = {
        "crt": {"lr": [0.1, 0.2, 0.3], "epochs": [20], "steps_per_epoch": [1000]},
        "tau_norm": {},
    }
    groups = plan_bank(bank, expand(grid, seeds=[0, 1]))
    found = estimate(bank, groups, workers=1)
    expected = 2 * 3 * (ENDS + 20 * (1000 * STEP + WATCH)) + ENDS
    assert found.seconds == pytest.approx(expected, rel=1e-6), f"got {found}, expected {expected}"
    assert found.measured == 1
    assert max(steps for _, steps in modelled) <= 100, f"got {modelled}"
    assert len(modelled) == 5, f"got {modelled}"


def test_halving_takes_its_share(bank: Bank, modelled: list[tuple[int, int]]) -> None:
    """Reference: of 9 configurations by hand: 9 for epochs 1, 3 for 2 and 3, 1 from there to 9; one
    of 9 with each of two more seeds; all of what is not trained in steps."""
    rates = [0.1 * i for i in range(1, 10)]
    grid = {"crt": {"lr": rates, "epochs": [9], "steps_per_epoch": [10]}, "tau_norm": {}}
    first, others = by_first_seed(expand(grid, seeds=[0, 1, 2]))
    groups, later = plan_bank(bank, first), plan_bank(bank, others)
    parts = shares(Halving(), groups, later)
    found = estimate(bank, [*groups, *later], workers=1, shares=parts)
    each = ENDS + 9 * (10 * STEP + WATCH)
    expected = each * (9 + 3 * 2 + 1 * 6) / 9 + 2 * each + ENDS
    assert found.seconds == pytest.approx(expected, rel=1e-6), f"got {found}, expected {expected}"
    assert others_left(Halving(), groups, others) == 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_short_training(bank: Bank, modelled: list[tuple[int, int]], epochs: int) -> None:
    """Reference: the model; a learning rate is planned for no more epochs than the recipe has."""
    groups = plan_bank(bank, [Recipe("crt", epochs=epochs, steps_per_epoch=1)])
    found = estimate(bank, groups, workers=1)
    assert found.seconds == pytest.approx(ENDS + epochs * (STEP + WATCH))
    assert max(run[0] for run in modelled) == epochs


def test_what_is_not_measured_is_scaled(bank: Bank, modelled: list[tuple[int, int]]) -> None:
    """Reference: without a budget the largest unit alone is run; 3 others of its shape cost as
    much."""
    grid = {"crt": {"batch_size": [16, 17, 18, 19], "epochs": [50], "steps_per_epoch": [10]}}
    groups = plan_bank(bank, expand(grid))
    found = estimate(bank, groups, workers=1, budget=0)
    one = ENDS + 50 * (10 * STEP + WATCH)
    assert found.measured == pytest.approx(19 / (16 + 17 + 18 + 19), rel=0.3)
    assert found.seconds == pytest.approx(4 * one, rel=0.2), f"got {found}, expected {4 * one}"
    assert str(found).endswith("within a factor of 3 if nothing else runs")


def test_tiles_share_threads(bank: Bank, modelled: list[tuple[int, int]]) -> None:
    """Reference: two kinds side by side on two threads take half as long as on one."""
    recipes = [Recipe("crt"), Recipe("crt", head="cosine")]
    alone = estimate(bank, plan_bank(bank, recipes), workers=1).seconds
    both = estimate(bank, plan_bank(bank, recipes, workers=2), workers=2).seconds
    assert both == pytest.approx(alone / 2)


def test_a_sample_has_every_class(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the bank's classes; twice as many rows as classes, and every kind of recipe runs
    on them."""
    monkeypatch.setattr(module, "SAMPLE_BYTES", 0)
    grid: dict[str, dict[str, list]] = {
        name: {"epochs": [3]} for name in ("crt", "ldam", "glag", "mislas", "tde", "mlp", "sla")
    }
    grid |= {name: {} for name in ("knn", "lda", "ridge", "ncm", "logit_adjust")}
    grid["ce"] = {"optimiser": ["lbfgs"]}
    recipes = expand(grid)
    found = estimate(bank, plan_bank(bank, recipes), workers=1, budget=100)
    assert found.measured == 1
    assert found.seconds > 0
    sample = module.Sample(bank, "cpu", 1)
    labels = sample._memory_rows("train", "instance").labels
    assert len(labels) <= 2 * len(COUNTS)
    assert set(labels[: len(COUNTS)].tolist()) == set(range(len(COUNTS)))


def test_full_batch_training(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: a + iterations·t by hand, with t for the sample's rows and a for evaluation."""

    def run(_: object, part: FusedGroup, views: list[ViewData], epochs: int, steps: int) -> float:
        (recipe,) = part.recipes
        return ENDS + recipe.settings["max_iterations"] * len(views[0].train.labels) * 1e-3

    monkeypatch.setattr(module.Sample, "_run", run)
    monkeypatch.setattr(module.Sample, "loading", lambda *_: 0.0)
    found = estimate(bank, plan_bank(bank, [Recipe("ce", optimiser="lbfgs")]), workers=1)
    expected = ENDS + module.ITERATIONS * sum(COUNTS) * 1e-3
    assert found.seconds == pytest.approx(expected), f"got {found}, expected {expected}"


def test_memory(bank: Bank, small: Problem) -> None:
    """Reference: bytes of the views that a group holds, and the planner's own count."""
    recipes = [Recipe("crt"), Recipe("crt", view="instance+balanced"), Recipe("lws", seed=1)]
    groups = plan_bank(bank, recipes)
    found = estimate(bank, groups, workers=1, budget=0)
    shape = Shape.of(class_counts(bank, "train"), bank.dim)
    view = sum(view_bytes(bank, s, "instance") for s in bank.splits)
    z0 = 4 * bank.rows("train") * bank.num_classes  # of lws, and two blocks on their way
    assert found.features == max(2 * view, view + 3 * z0)
    rows = {split: bank.rows(split) for split in bank.evaluated}
    at_evaluation = [evaluation_bytes(tile, rows, 6, "cpu") for g in groups for tile in g.tiles]
    trained = max(group_bytes(group, shape) for group in groups)
    assert trained < found.group <= trained + sum(at_evaluation)
    assert shape == small.shape


def test_a_real_sweep_takes_about_as_long(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: seconds of a processor, within a factor of four in one of three trials."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # of the estimate, too
    grid = {
        "crt": {"lr": [0.1, 0.2], "epochs": [60], "batch_size": [16]},
        "mislas": {"epochs": [60], "batch_size": [32]},
    }
    recipes = expand(grid)
    sweep(bank, recipes[:1])
    ratios = []
    for _ in range(3):
        found = estimate(bank, plan_bank(bank, recipes), workers=1)
        begun = time.perf_counter()
        sweep(bank, recipes, workers=1)
        ratios.append(found.seconds / (time.perf_counter() - begun))
        if 0.25 < ratios[-1] < 4:
            return
    raise AssertionError(f"estimated {ratios} times what it took")


def test_times_are_told_in_words() -> None:
    """Reference: by hand."""
    times = {0.2: "1 s", 41.4: "41 s", 200: "3 min", 5000: "83 min", 9000: "2.5 h"}
    assert {seconds: duration(seconds) for seconds in times} == times


def test_what_closed_forms_and_evaluation_take() -> None:
    """Reference: by hand: rows in float64 with weights and a Gram matrix, or an eigendecomposition;
    five matrices [K, D], and four of the rows where these are fewer than the features; logits of
    val of as many configurations as are held, and of blocks."""
    dim, classes, rows = 64, 10, 5000
    lda = HEADS["lda"].once(Recipe("lda").part("head"), dim, classes, rows)
    assert lda == 8 * (8192 * dim + dim**2 + 5 * dim * classes)
    balanced = {**Recipe("ridge").part("head"), "class_weight": "balanced"}
    assert HEADS["ridge"].once(balanced, dim, classes, rows) - lda == 8 * 8192 * dim
    few = HEADS["lda"].once(Recipe("lda").part("head"), 20_000, classes, 500)
    assert few == 8 * (4 * 500 * 20_000 + 500**2 + 5 * 20_000 * classes)
    assert HEADS["linear"].once({}, dim, classes, rows) == 0
    tile = Tile(tuple(Recipe("ce", lr=lr) for lr in (0.1, 0.2, 0.3)))
    rows = {"val": 1000, "test": 3000}
    block = BLOCK_BYTES // (4 * 3 * classes)
    expected = 3 * 4 * 1000 * classes + 4 * 4 * 3 * classes * min(block, 3000)
    assert evaluation_bytes(tile, rows, classes, "cpu") == expected
    many = {"val": 10**8}  # of one configuration alone
    assert evaluation_bytes(tile, many, classes, "cpu") >= 4 * 10**8 * classes
