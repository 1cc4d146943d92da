"""Comparisons: tests and intervals against SciPy and enumeration, choices and errors by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from featbank import Bank, errors
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.results.compare import Compared, bank_of, compare
from stage2.results.comparison_tables import comparison_tables, render_comparison
from stage2.results.results import Results
from stage2.results.significance import holm, interval, mcnemar, resampled, sign_test
from stage2.results.store import Store
from stage2.results.tables import Table
from tests.stage2.compare import assert_close
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import Problem

PLACES = [(split, epoch) for split in ("val", "test") for epoch in ("last", "selected")]

Correct = Mapping[tuple[str, str], np.ndarray]


def right(labels: np.ndarray, accuracy: Sequence[float], seed: int) -> np.ndarray:
    """Correctness [N] where each class has its own accuracy."""
    return np.random.default_rng(seed).random(len(labels)) < np.asarray(accuracy)[labels]


def everywhere(problem: Problem, accuracy: Sequence[float], seed: int) -> dict[Any, np.ndarray]:
    """Such correctness on every split and epoch."""
    return {
        (split, epoch): right(problem.y[split], accuracy, seed + 100 * place)
        for place, (split, epoch) in enumerate(PLACES)
        if split in problem.y
    }


def stored(recipe: Recipe, correct: Correct, labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A run as the store takes it, with the macro accuracy that its bits have."""
    evaluations = {}
    for (split, epoch), bits in correct.items():
        y = labels[split]
        macro = 100 * float(np.mean([bits[y == k].mean() for k in np.unique(y)]))
        metrics: dict[str, float | None] = {**dict.fromkeys(METRICS), "macro": macro, "top1": macro}
        evaluations[split, epoch] = Evaluation(metrics, np.zeros(6), bits)
    return {
        "recipe": recipe,
        "status": "done" if correct else "diverged",
        "selected_epoch": 0,
        "curves": {},
        "seconds": 1.0,
        "device": "cpu",
        "versions": {},
        "evaluations": evaluations,
    }


GOOD, FAIR, POOR = [0.9] * 6, [0.9, 0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.8, 0.5, 0.3, 0.2, 0.1]


@pytest.fixture
def runs(small: Problem) -> list[dict[str, Any]]:
    """lws (good, three seeds), crt (fair, three seeds; and a poor one), ncm (poor, no seeds)."""
    made = [
        *((Recipe("lws", seed=s), everywhere(small, GOOD, 10 + s)) for s in range(3)),
        *((Recipe("crt", seed=s), everywhere(small, FAIR, 20 + s)) for s in range(3)),
        *((Recipe("crt", lr=0.4, seed=s), everywhere(small, POOR, 30 + s)) for s in range(3)),
        (Recipe("ncm"), everywhere(small, POOR, 40)),
    ]
    return [stored(recipe, correct, small.y) for recipe, correct in made]


def compared(bank: Bank, runs: Sequence[dict[str, Any]], *names: str, **options: Any) -> Compared:
    """The comparison of made-up runs."""
    with Store(None) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs)
        split = options.pop("split", None)
        return compare(Results(store, split=split), names, **{"resamples": 500, **options})


def test_mcnemar_is_the_exact_binomial_test() -> None:
    """Reference: SciPy's binomtest of the rows that one alone has right; nothing differs: 1."""
    for a, b in ((0, 5), (3, 3), (12, 30), (1, 0)):
        assert mcnemar(a, b) == stats.binomtest(a, a + b).pvalue
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_sign_test_is_exact(seeds: int) -> None:
    """Reference: all 2ⁿ signs, enumerated; of one seed, McNemar."""
    random = np.random.default_rng(seeds)
    for _ in range(5):
        differences = random.integers(-seeds, seeds + 1, 12)
        signs = np.array(list(itertools.product([-1, 1], repeat=12)))
        reached = np.abs(signs @ np.abs(differences)) >= abs(differences.sum())
        assert_close(sign_test(differences), reached.mean(), 1e-12, f"{differences}")
        if seeds == 1:
            only = int((differences < 0).sum()), int((differences > 0).sum())
            assert_close(sign_test(differences), mcnemar(*only), 1e-12, "McNemar")
    assert sign_test(np.zeros(4, np.int64)) == 1.0


def test_the_sign_test_of_many_rows() -> None:
    """Reference: the normal limit, with continuity in steps of two; deep tails keep digits."""
    random = np.random.default_rng(0)
    differences = random.choice([-3, -2, -1, 0, 1, 2, 3], 20_000)
    z = (abs(differences.sum()) - 1) / np.sqrt((differences**2).sum())
    assert_close(sign_test(differences) / (2 * stats.norm.sf(z)), 1, 1e-2, "normal limit")
    assert 0 < sign_test(np.ones(500, np.int64)) < 1e-149  # 2·2⁻⁵⁰⁰


def test_the_sign_test_holds_its_level_where_seeds_share_their_errors() -> None:
    """Reference: 5 % under the null. Rows hard for all three seeds are one observation each, and
    counting every seed's row as its own would reject far more often."""
    random = np.random.default_rng(1)
    rejected = pooled = 0
    for _ in range(400):
        hard = random.random((2, 300)) < 0.3  # what all seeds of a configuration get wrong
        noise = random.random((3, 2, 300)) < 0.02
        wrong = hard ^ noise
        differences = wrong[:, 0].astype(int) - wrong[:, 1]
        rejected += sign_test(differences.sum(0)) < 0.05
        pooled += mcnemar(int((differences < 0).sum()), int((differences > 0).sum())) < 0.05
    assert rejected / 400 < 0.08
    assert pooled / 400 > 0.15


def test_holm() -> None:
    """Reference: by hand, Holm 1979: p₍ᵢ₎·(m − i + 1), made monotone, at most 1."""
    assert_close(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06], 1e-12, "in the order given")
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_resampling_has_the_variance_of_class_means() -> None:
    """Reference: Σ w_k² s_k²/n_k, unbiased also for classes of two rows; one row adds none."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [200, 30, 2, 1])
    values = random.integers(-3, 4, len(labels))
    values[230:232] = -1, 2
    weights = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.7, 0.0]])
    place = random.permutation(len(labels))
    drawn = resampled(values[place], labels[place], weights, 40_000, random)
    by_class = [values[labels == k] for k in range(4)]
    mean = weights @ [x.mean() for x in by_class]
    variance = weights[:, :3] ** 2 @ [x.var(ddof=1) / len(x) for x in by_class[:3]]
    assert_close((drawn.mean(1) - mean) / np.sqrt(variance), [0, 0], 0.02, "mean")
    assert_close(drawn.var(1) / variance, [1, 1], 0.03, "variance")


def test_the_interval_is_that_of_scipy_where_classes_are_large() -> None:
    """Reference: scipy.stats.bootstrap, percentile, one class of 2,000 rows."""
    random = np.random.default_rng(0)
    values = random.integers(-1, 2, 2000)
    drawn = resampled(values, np.zeros(2000, int), np.ones((1, 1)), 10_000, random)
    got = interval(drawn)[:, 0]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=random, batch=200
    ).confidence_interval
    assert_close(got, np.array(expected), 0.003, "interval")  # it is 0.07 wide


def test_measures_are_means_over_seeds_of_the_same_rows(
    bank: Bank, runs: list[dict[str, Any]], small: Problem
) -> None:
    """Reference: NumPy on the bits: accuracies by class, groups by count, std over seeds."""
    got = compared(bank, runs, "crt", "lws")
    (each,) = got.comparisons
    y, counts = small.y["test"], small.counts
    assert each.a == Recipe("crt").id
    assert list(got.chosen) == [Recipe("crt").id, Recipe("lws").id]
    assert got.chosen[each.a] == "best of 2 on val"
    by_class = np.array(
        [
            [[everywhere(small, accuracy, base + s)["test", "selected"][y == k].mean()
              for k in range(6)] for accuracy, base in ((FAIR, 20), (GOOD, 10))]
            for s in range(3)
        ]
    )  # fmt: skip
    rows = np.bincount(y)
    masks = {"macro": counts > 0, "medium": counts >= 20, "few": counts < 20}
    weights = {"top1": rows / rows.sum(), **{k: m / m.sum() for k, m in masks.items()}}
    assert list(each.measures) == ["top1", "macro", "medium", "few"]
    for name, weight in weights.items():
        seeds = 100 * by_class @ weight
        m = each.measures[name]
        assert_close([m.a, m.b], seeds.mean(0), 1e-9, name)
        assert_close(m.difference, (seeds[:, 1] - seeds[:, 0]).mean(), 1e-9, name)
        assert_close(m.std, (seeds[:, 1] - seeds[:, 0]).std(ddof=1), 1e-9, f"std of {name}")
        assert m.low < m.difference < m.high
    gained = 100 * (by_class[:, 1] - by_class[:, 0]).mean(0)
    order = sorted((k for k in range(6) if gained[k]), key=lambda k: -abs(gained[k]))
    assert [c.index for c in each.classes] == order
    for c in each.classes:
        assert (c.name, c.trained_on, c.rows) == (f"class {c.index}", counts[c.index], 10)
        assert_close(c.difference, gained[c.index], 1e-9, c.name)


def test_each_seed_and_all_of_them(bank: Bank, runs: list[dict[str, Any]], small: Problem) -> None:
    """Reference: SciPy on each seed's bits, and the sign test of their sums."""
    (each,) = compared(bank, runs, "crt", "lws", split="val", epoch="last").comparisons
    total = np.zeros(42, np.int64)
    for test, seed in zip(each.seeds, range(3), strict=True):
        a = everywhere(small, FAIR, 20 + seed)["val", "last"]
        b = everywhere(small, GOOD, 10 + seed)["val", "last"]
        only = int((a & ~b).sum()), int((b & ~a).sum())
        assert (test.seed, test.only_a, test.only_b) == (seed, *only)
        assert test.p == stats.binomtest(only[1], sum(only)).pvalue
        total += b.astype(int) - a
    assert each.p == each.p_holm == sign_test(total)


def test_what_has_one_result_stands_beside_every_seed(
    bank: Bank, runs: list[dict[str, Any]]
) -> None:
    """Reference: by hand; and two such recipes have one test, without a deviation."""
    (each,) = compared(bank, runs, "ncm", "lws").comparisons
    assert [test.seed for test in each.seeds] == [0, 1, 2]
    assert each.measures["macro"].std is not None
    again = [*runs, {**runs[-1], "recipe": Recipe("knn")}]
    (same,) = compared(bank, again, "ncm", "knn").comparisons
    assert (len(same.seeds), same.p, same.classes) == (1, 1.0, ())
    assert same.measures["macro"].std is None
    tables = comparison_tables(compared(bank, again, "ncm", "knn"))
    assert [table.title.split()[0] for table in tables] == ["A:", "Rows"]


def test_only_common_seeds_are_paired(bank: Bank, runs: list[dict[str, Any]]) -> None:
    """Reference: by hand."""
    (each,) = compared(bank, [runs[0], runs[2], *runs[3:6]], "crt", "lws").comparisons
    assert [test.seed for test in each.seeds] == [0, 2]
    with pytest.raises(errors.ConfigError, match=r"No seed is common: crt-\w+ has 1, 2 and lws-"):
        compared(bank, [runs[0], *runs[4:6]], "crt", "lws")


def test_without_names_the_best_of_each_recipe(
    bank: Bank, runs: list[dict[str, Any]], recwarn: pytest.WarningsRecorder
) -> None:
    """Reference: the leaderboard's order; Holm over the comparisons; a diverged one is told."""
    runs.append(stored(Recipe("disalign"), {}, {}))
    got = compared(bank, runs)
    ids = [got.comparisons[0].a, *(each.b for each in got.comparisons)]
    assert ids[:2] == [Recipe("lws").id, Recipe("crt").id]
    assert [i.split("-")[0] for i in ids] == ["lws", "crt", "ncm"]
    assert [each.p_holm for each in got.comparisons] == holm([each.p for each in got.comparisons])
    assert "Holm over 2 comparisons" in got.protocol
    assert [str(w.message) for w in recwarn] == [
        f"Left out: {Recipe('disalign').id} (diverged with seed 0)."
    ]


def test_the_protocol_says_how(bank: Bank, runs: list[dict[str, Any]]) -> None:
    """Reference: what was tried, and selected where; comparing there is optimistic."""
    got = compared(bank, runs, "crt", "lws")
    for part in ("selected on val", "4 configurations tried", "compared on test, selected epoch",
                 "500 bootstrap resamples", "one seed: McNemar"):  # fmt: skip
        assert part in got.protocol, f"{part} is not in {got.protocol}"
    assert "optimistic" not in got.protocol
    assert "Holm" not in got.protocol
    assert "optimistic" in compared(bank, runs, "crt", "lws", split="val").protocol


def test_a_seed_repeats_the_intervals(bank: Bank, runs: list[dict[str, Any]]) -> None:
    """Reference: the same call."""
    once, again = (compared(bank, runs, "crt", "lws") for _ in range(2))
    assert once == again
    assert compared(bank, runs, "crt", "lws", seed=1) != once


@pytest.mark.parametrize("names", [("crt", "lws"), ("lws", "crt", "ncm")])
def test_formats(bank: Bank, runs: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    """Reference: json's own reader; the numbers of cells; the protocol in all but csv."""
    got = compared(bank, runs, *names)
    data = json.loads(render_comparison(got, "json"), parse_constant=pytest.fail)
    assert len(data["comparisons"]) == len(names) - 1
    first = data["comparisons"][0]
    assert (
        first["measures"]["macro"]["difference"] == got.comparisons[0].measures["macro"].difference
    )
    header, *lines = render_comparison(got, "csv").splitlines()
    assert len(lines) == 4 * (len(names) - 1)
    assert {line.count(",") for line in lines} == {header.count(",")}
    for form in ("md", "latex"):
        assert "compared on test" in render_comparison(got, form)
    rows = [line for line in render_comparison(got, "md").splitlines() if line.startswith("|")]
    assert len(rows) == sum(2 + len(block.lines) for block in comparison_tables(got))
    for line in render_comparison(got, "latex").splitlines():
        assert line.startswith("% ") or "%" not in line.replace(r"\%", ""), line


def test_latex_survives_the_names_of_classes() -> None:
    """Reference: TeX's special characters, none of them bare."""
    cells = [r"50 % a_b & {c} #1 $ ~ ^ \d", "≤ −1.0"]
    body = Table("", ["class", "B − A"], [cells]).latex().splitlines()[5]
    assert body == (
        r"50 \% a\_b \& \{c\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}d & "
        r"$\le$ $-$1.0 \\"
    )


def test_markdown_survives_the_names_of_classes() -> None:
    """Reference: GitHub's table syntax, in which a bar within a cell is escaped."""
    assert Table("", ["class"], [["a|b"]]).markdown() == "| class |\n| --- |\n| a\\|b |"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("lws",), {}, "'lws' is the best itself, lws-"),
        (("9",), {}, "has no rank 9. Choose one from 1 to "),
        (("crt", "crt"), {}, "'crt' and 'crt' are both crt-"),
        (("crt", "lwss"), {}, "Did you mean 'lws'?"),
        (("crt", "c"), {}, "2 configurations of"),
        (("crt", "lws"), {"split": "train"}, "no results on 'train'"),
    ],
)
def test_what_cannot_be_compared(
    bank: Bank, runs: list[dict[str, Any]], names: tuple[str, ...], options: Any, message: str
) -> None:
    """Reference: one sentence and a remedy."""
    with pytest.raises(errors.ConfigError, match=message.replace("?", r"\?")):
        compared(bank, runs, *names, **options)


def test_diverged_seeds_are_not_passed_over(bank: Bank, runs: list[dict[str, Any]]) -> None:
    """Reference: as on the leaderboard, two seeds are not a result of three."""
    wild = Recipe("lws", seed=3)
    with pytest.raises(errors.ConfigError, match="diverged"):
        compared(bank, [*runs, stored(wild, {}, {})], "crt", wild.id)


def test_the_bank_is_found_or_asked_for(
    small: Problem, without_val: Problem, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Reference: by hand: beside the results, by --bank, gone, and another one in its place.

    Results from before schema 4 have no labels; newer ones do without the bank's file.
    """
    (tmp_path / "first").mkdir()
    with (
        small.bank(tmp_path / "first" / "bank.h5") as bank,
        Store(tmp_path / "results.sqlite", create=True) as store,
    ):
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs)

        def compared_by(named: Path | str | None = None) -> Compared:
            prefix, file = bank_of(store, None if named is None else str(named))
            results = Results(store, bank=prefix)
            return compare(results, ["crt", "lws"], file=file, resamples=100)

        expected = compared_by()
        change(tmp_path / "results.sqlite", "UPDATE bank SET labels = NULL")
        with_labels, expected = expected, compared_by()
        assert expected.comparisons == with_labels.comparisons
        moved = bank.path.rename(tmp_path / "bank.h5")
        assert compared_by() == expected
        elsewhere = moved.rename(tmp_path / "other.h5")
        with pytest.raises(errors.ConfigError, match="matches 0 banks"):
            compared_by("nothing")
        with pytest.raises(errors.ConfigError, match="no longer at .*Name its file with --bank"):
            compared_by()
        assert compared_by(elsewhere) == expected
        with without_val.bank(tmp_path / "bank.h5"):
            pass
        with pytest.raises(errors.ConfigError, match="is now another bank than"):
            compared_by()
        with pytest.raises(errors.ConfigError, match="has no results on .*bank.h5"):
            compared_by(tmp_path / "bank.h5")
        with Bank(elsewhere) as moved:
            store.add_bank(moved)
        elsewhere.unlink()
        assert compared_by() == with_labels
