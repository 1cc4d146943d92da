"""Tests, intervals and choices by source group, against loops and simulations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from featbank import Bank, errors, write_bank
from featbank.bank.source_groups import source_units
from stage2.ensemble.building import _folds, build_ensemble
from stage2.features.folds import folds_of
from stage2.features.loading import load_view
from stage2.methods.recipe import Recipe, expand
from stage2.results import content
from stage2.results.compare import compare
from stage2.results.optimism import optimism
from stage2.results.results import Results
from stage2.results.selection import Correctness
from stage2.results.significance import interval, paired_test, resampled, sign_test
from stage2.results.store import Store, packed
from stage2.results.tables import metric_columns
from stage2.results.tested import decoded_rows
from stage2.sweep import sweep
from tests.stage2.compare import assert_close


def correlated(
    random: np.random.Generator, groups: int, size: int, shared: float
) -> tuple[np.ndarray, np.ndarray]:
    """Correct rows of two equally good heads [2, N], and their source groups [N]: in a share of the
    groups one head has all rows as the other has them, or none."""
    of = np.repeat(np.arange(groups), size)
    skill = random.random((2, groups))[:, of]
    own = random.random((2, len(of)))
    decided = random.random((2, len(of))) < shared
    return np.where(decided, skill < 0.6, own < 0.6), of


def test_the_test_flips_whole_groups() -> None:
    """Reference: all 2^G flips, one by one; a row per group is the test of rows."""
    random = np.random.default_rng(0)
    for _ in range(20):
        groups = random.integers(0, 7, 40)
        groups = np.unique(groups, return_inverse=True)[1]
        differences = random.integers(-2, 3, 40)
        sums = [differences[groups == g].sum() for g in range(groups.max() + 1)]
        flips = itertools.product((-1, 1), repeat=len(sums))
        reached = [abs(np.dot(signs, sums)) >= abs(sum(sums)) for signs in flips]
        assert_close(paired_test(differences, groups), np.mean(reached), 1e-12, f"{sums}")
    differences = random.integers(-3, 4, 300)
    assert paired_test(differences, np.arange(300)) == sign_test(differences)
    assert paired_test(differences, None) == sign_test(differences)


def test_many_large_groups_have_the_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the exact distribution; (ΣD_g)²/ΣD_g² under χ² with one degree of freedom."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), 20)
    differences = random.integers(-1, 2, len(groups)) + (random.random(len(groups)) < 0.03)
    exact = paired_test(differences, groups)
    monkeypatch.setattr("stage2.results.significance._EXACT", 0)
    normal = paired_test(differences, groups)
    assert_close(normal, exact, 0.02, "p")
    sums = np.bincount(groups, differences)
    chi = stats.chi2.sf(sums.sum() ** 2 / (sums**2).sum(), 1)
    assert_close(normal, chi, 1e-12, "χ²")


def test_correlated_rows_of_equal_heads() -> None:
    """Reference: two heads of one skill, 30 groups of 25 rows. By group the test rejects in 5 % of
    1,000 samples, with three standard errors of them; by row far more often."""
    random = np.random.default_rng(2)
    by_group = by_row = covered = 0
    samples = 1000
    for _ in range(samples):
        (a, b), groups = correlated(random, 30, 25, 0.5)
        differences = b.astype(np.int64) - a
        by_group += paired_test(differences, groups) < 0.05
        by_row += sign_test(differences) < 0.05
        labels = groups % 3
        drawn = resampled(differences, labels, np.full((1, 3), 1 / 3), 200, random, groups=groups)
        low, high = interval(drawn)[:, 0]
        covered += low <= 0 <= high
    assert 0.02 < by_group / samples < 0.07, f"by group {by_group / samples}"
    assert by_row / samples > 0.3, f"by row {by_row / samples}"
    assert 0.89 < covered / samples < 0.97, f"covered {covered / samples}"


@pytest.mark.parametrize("mixed", [True, False])
def test_the_bootstrap_draws_whole_groups(mixed: bool) -> None:
    """References: u_g by a loop, mean and variance G/(G − 1) Σu_g² of each stratum by hand."""
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(24), random.integers(1, 9, 24))
    labels = random.integers(0, 3, len(groups)) if mixed else groups % 3
    values = random.integers(-2, 3, len(groups)) + groups % 2
    weights = np.array([[1 / 3, 1 / 3, 1 / 3], [0.7, 0.3, 0.0]])
    mean = np.zeros(2)
    influence = np.zeros((2, 24))
    for k in range(3):
        of_class = values[labels == k]
        mean += weights[:, k] * of_class.mean()
        for g in range(24):
            gap = values[(labels == k) & (groups == g)] - of_class.mean()
            influence[:, g] += weights[:, k] * gap.sum() / len(of_class)
    strata = [np.arange(24)] if mixed else [np.arange(k, 24, 3) for k in range(3)]
    variance = sum(len(s) / (len(s) - 1) * (influence[:, s] ** 2).sum(1) for s in strata)
    drawn = resampled(values, labels, weights, 40_000, random, groups=groups)
    assert_close(drawn.mean(1), mean, 0.02, "mean")
    np.testing.assert_allclose(drawn.var(1), variance, rtol=0.05)


def test_a_row_per_group_has_the_intervals_of_rows() -> None:
    """Reference: the bootstrap of rows within classes, in distribution."""
    random = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], [40, 12, 1])
    values = random.integers(-1, 2, len(labels))
    weights = np.array([[1 / 3, 1 / 3, 1 / 3]])
    rows = resampled(values, labels, weights, 40_000, random)
    groups = resampled(values, labels, weights, 40_000, random, groups=np.arange(len(labels)))
    assert_close(interval(groups), interval(rows), 0.02, "ends")
    assert_close(groups.std(), rows.std(), 0.003, "deviation")


def test_standard_errors_are_clustered() -> None:
    """Reference: Σ_g (Σ_{i∈g} w_i (d_i − d̄))² by a loop; a row per group is SE² of rows."""
    random = np.random.default_rng(5)
    groups = np.unique(random.integers(0, 15, 90), return_inverse=True)[1]
    labels = random.integers(0, 4, 90)
    seeds = np.array([3, 3, 2])
    correct = random.binomial(seeds[:, None], 0.6, (3, 90)).astype(np.uint8)
    of = Correctness.of(correct, labels, seeds, groups)
    sizes = np.bincount(labels)
    w = 1 / (4 * sizes[labels])
    share = correct / seeds[:, None]
    assert_close(of.means(of.weight[None])[:, 0], 100 * share @ w, 1e-4, "macro accuracy")
    (errors,) = of.errors([1])
    for j in range(3):
        gap = share[1] - share[j]
        sums = [(w * (gap - w @ gap))[groups == g].sum() for g in range(groups.max() + 1)]
        assert_close(errors[j], 100 * np.sqrt(np.square(sums).sum()), 0.02, f"configuration {j}")
    rows, alone = (Correctness.of(correct, labels, seeds, g) for g in (None, np.arange(90)))
    assert_close(alone.errors([0]), rows.errors([0]), 1e-4, "a row per group")


def test_the_tied_set_and_the_correction_are_by_group() -> None:
    """Reference: ten equally good configurations on 20 groups of 30 rows that a group decides. Each
    is as good as the best, and stays in the tied set in 95 % of the samples; by row far less often.
    """
    random = np.random.default_rng(6)
    stays = {"group": 0.0, "row": 0.0}
    for _ in range(40):
        groups = np.repeat(np.arange(20), 30)
        labels = random.integers(0, 3, 600)
        correct = (random.random((10, 20)) < 0.6)[:, groups].astype(np.uint8)
        stays["group"] += optimism(correct, labels, groups=groups).tied.mean() / 40
        stays["row"] += optimism(correct, labels).tied.mean() / 40
    assert stays["group"] > 0.9, stays
    assert stays["row"] < 0.6, stays
    losses = random.random((10, 600)).astype(np.float16)
    losses[:, labels == 2] = np.nan
    one = optimism(correct, labels, groups=groups, rule="nll", nll=losses[:, 0], losses=losses)
    assert one.corrected <= one.figure
    nested = optimism(correct, labels, groups=groups, nested=True)
    assert nested.nested
    assert nested.corrected <= nested.figure
    alone = np.arange(600)
    rows = optimism(correct, labels)
    assert_close(optimism(correct, labels, groups=alone).corrected, rows.corrected, 1e-3, "alone")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bank whose rows are windows of recordings, and results of it with and without folds."""
    folder = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    features, labels, groups = {}, {}, {}
    for place, (split, count) in enumerate({"train": 40, "val": 12, "test": 15}.items()):
        of = np.repeat(np.arange(count) + 100 * place, 6)
        y = np.where(random.random(len(of)) < 0.7, of % 3, random.integers(0, 3, len(of)))
        x = np.eye(8)[y] + random.normal(0, 1, (1000, 8))[of] + random.normal(0, 0.5, (len(y), 8))
        features[split], labels[split], groups[split] = {"instance": x.astype(np.float32)}, y, of
    write_bank(
        folder / "b.h5",
        features,
        labels,
        source_groups=groups,
        cells={split: np.zeros((len(y), 2), int) for split, y in labels.items()},
        seen=dict.fromkeys(labels, False),
    )
    recipes = [*expand({"crt": {"epochs": [2], "lr": [0.01, 0.1]}}, seeds=(0, 1)), Recipe("ncm")]
    with Bank(folder / "b.h5") as bank:
        sweep(bank, recipes, results=folder / "r.sqlite")
        sweep(bank, recipes, results=folder / "r.sqlite", folds=3)
    return folder / "b.h5", folder / "r.sqlite"


def test_results_say_that_they_are_by_source_group(swept: tuple[Path, Path]) -> None:
    """References: the bank's groups; p of the bits of each run by `paired_test`."""
    bank, path = swept
    with Bank(bank) as opened, Store(path) as store:
        results = Results(store)
        units = source_units(opened.source_groups("test"))
        assert np.array_equal(store.tested(results.fingerprint, "test").groups, units)
        held_out = folds_of(opened, 3).rows
        kept = opened.source_groups("train")[held_out]
        found = store.tested(results.fingerprint, "3-fold").groups
        assert np.array_equal(found, source_units(kept))
        assert "val by source group (12)" in results.board.protocol
        columns = [column.label for column in metric_columns(results.board, "leaderboard")]
        assert [label for label in columns if "mIoU" in label] == [
            "mIoU", "mIoU many", "mIoU medium", "mIoU few",
        ]  # fmt: skip
        compared = compare(results, ["crt", "ncm"], resamples=200)
        assert "200 bootstrap resamples of 15 source groups, seed 0" in compared.protocol
        assert "p: sign test by source group over all seeds (15 source groups)" in compared.protocol
        (each,) = compared.comparisons
        runs = results.find("crt").runs
        bits = [
            store.correct(
                results.fingerprint, run.recipe, "test", run.measured_at("test", "selected")
            )
            for run in runs
        ]
        (ncm,) = results.find("ncm").runs
        other = store.correct(results.fingerprint, ncm.recipe, "test", "last")
        gains = sum(other.astype(int) - each for each in bits)
        assert each.p == paired_test(gains, units)
        assert each.seeds[0].p == paired_test(other.astype(int) - bits[0], units)
        by_folds = Results(store, select_on="3-fold", nested=True)
        assert "3-fold by source group (40)" in by_folds.board.protocol


def test_calibrations_of_a_bank_go_by_source_group(swept: tuple[Path, Path]) -> None:
    """Reference: the bank's groups; none of a bank with a row per group."""
    with Bank(swept[0]) as bank:
        groups = source_units(bank.source_groups("val"))
        np.testing.assert_array_equal(load_view(bank, "instance").val_groups, groups)
    x, y = {"instance": np.eye(4, dtype=np.float32)}, np.array([0, 1, 0, 1])
    path = swept[0].with_name("each.h5")
    each = {split: np.arange(4) for split in ("train", "val")}
    write_bank(path, {"train": x, "val": x}, {"train": y, "val": y}, source_groups=each)
    with Bank(path) as bank:
        assert load_view(bank, "instance").val_groups is None


def test_an_ensemble_is_chosen_by_source_group(swept: tuple[Path, Path]) -> None:
    """Reference: the folds of the groups, which no group is in two of."""
    bank, path = swept
    with Bank(bank) as opened:
        groups = source_units(opened.source_groups("val"))
        y = torch.from_numpy(opened.labels("val"))
    usable = torch.arange(len(y)) >= 6
    folds = _folds(y, usable, groups).numpy()
    assert all(len({*folds[groups == g]}) == 1 for g in range(12))
    assert len({*folds[usable.numpy()]}) == 5
    with pytest.raises(errors.ConfigError, match="of one source group"):
        _folds(y, usable, np.zeros(len(y), int))
    built = build_ensemble(path)
    assert built.recipe.folds == 5


def test_damaged_source_groups_are_refused(swept: tuple[Path, Path]) -> None:
    """Reference: one line for groups beyond their number, and for those of a split without any."""
    path = swept[1]
    with Store(path) as store:
        fingerprint, record = store.one_bank()
        labels = {split: store.labels(fingerprint, split) for split in ("val", "test", "3-fold")}
    arrays = {split: y.astype(np.int32) for split, y in labels.items()}
    for split, y in labels.items():
        arrays[f"{split}/source_group"] = np.zeros(len(y), np.int32)
    assert decoded_rows(packed(arrays), record)
    arrays["val/source_group"] = arrays["val/source_group"] + 12
    with pytest.raises(content.Unexpected, match="beyond the 12 source groups"):
        decoded_rows(packed(arrays), record)
    del arrays["val/source_group"]
    with pytest.raises(content.Unexpected, match="not just labels"):
        decoded_rows(packed(arrays), record)
    with pytest.raises(content.Unexpected, match="no source_groups"):
        content.about(json.dumps({**record, "source_groups": {"dev": 3}}))
