"""A sweep on folds: pooled figures, the second round, and results that keep both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from featbank import Bank, errors, write_bank
from stage2 import Recipe, sweep
from stage2.engine import loop
from stage2.engine.halving import Halving
from stage2.engine.outcome import Outcome
from stage2.engine.pooled import PooledEvaluation
from stage2.engine.rows import MemoryRows
from stage2.engine.streamed import StreamedRows
from stage2.engine.subset import SubsetRows, fold_view, subset
from stage2.engine.tile import TileRun
from stage2.features.folds import Folds, deal
from stage2.features.views import Views
from stage2.methods.recipe import expand
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.synthetic import Problem, problem
from tests.stage2.test_folds_parity import written

GRID = expand({"crt": {"lr": [0.1, 1.0], "epochs": [2]}, "ncm": {}}, seeds=(0, 1))
HARD = problem((40, 23, 11, 6, 4, 2, 1, 0), val=0)


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """A bank without val or classifier, with classes of few rows, one and none."""
    return written(HARD, tmp_path / "unseen.h5", start=False)


def _board(path: Path, **options: Any) -> Results:
    with Store(path) as store:
        return Results(store, **options)


def test_figures_are_those_of_all_held_out_rows_together(
    unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: NumPy on the logits of the folds, put back in the bank's order."""
    logits: list[np.ndarray] = []  # [B, C, K]

    class Keeping(PooledEvaluation):
        def add(self, run: TileRun, views: Sequence[torch.Tensor]) -> None:
            logits.extend(z.numpy().copy() for _, z in run.outputs("last", views))
            super().add(run, views)

    monkeypatch.setattr(loop, "PooledEvaluation", Keeping)
    recipes = [Recipe("crt", epochs=20, lr=lr) for lr in (0.5, 1.0)]
    outcomes = sweep(unseen, recipes, folds=5, results=tmp_path / "r.sqlite").outcomes[:2]
    folds = deal(HARD.y["train"], 5)
    rows = np.concatenate([folds.held_out(fold) for fold in range(5)])
    z = np.concatenate(logits)[np.argsort(rows)].astype(np.float64)
    y = HARD.y["train"][folds.rows]
    assert set(range(8)) - set(y) == {6, 7}, "classes of one row and of none are not measured"
    top = z.max(2, keepdims=True)
    p = np.exp(z - top) / np.exp(z - top).sum(2, keepdims=True)
    for c, outcome in enumerate(outcomes):
        evaluation = outcome.evaluations["5-fold", "last"]
        right = z[:, c].argmax(1) == y
        np.testing.assert_array_equal(evaluation.correct, right)
        by_class = [100 * right[y == k].mean() if (y == k).any() else np.nan for k in range(8)]
        np.testing.assert_allclose(evaluation.per_class, by_class)
        nll = -np.log(p[np.arange(len(y)), c, y]).mean()
        brier = np.square(p[:, c] - np.eye(8)[y]).sum(1).mean()
        expected = {"top1": 100 * right.mean(), "macro": np.nanmean(by_class)}
        expected |= {"nll": nll, "brier": brier}
        for name, value in expected.items():
            np.testing.assert_allclose(evaluation.metrics[name], value, rtol=1e-5, err_msg=name)
        assert not outcome.parameters
        held = [folds.held_out(f) for f in range(5)]
        losses, tempered, temperature = _tempered(z[:, c], y, held, folds)
        np.testing.assert_allclose(evaluation.metrics["nll_t"], tempered, rtol=1e-5)
        np.testing.assert_allclose(evaluation.details["losses"], losses, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(evaluation.metrics["fitted_temperature"], temperature, rtol=1e-2)
    with Store(tmp_path / "r.sqlite") as store:
        fingerprint, record = store.one_bank()
        np.testing.assert_array_equal(store.labels(fingerprint, "5-fold"), y)
        assert record["rows"]["5-fold"] == len(y)


def _tempered(
    z: np.ndarray, y: np.ndarray, held: list[np.ndarray], folds: Folds
) -> tuple[np.ndarray, float, float]:
    """Losses and NLL at the temperature of each fold, by SciPy, and the geometric mean of these;
    rows weigh alike in every class."""
    losses = np.empty(len(y))
    weight = 1 / (len(np.unique(y)) * np.bincount(y)[y])
    nll = temperature = 0.0
    for rows in held:
        here = np.searchsorted(folds.rows, rows)
        u, labels, share = torch.from_numpy(z[here]), torch.from_numpy(y[here]), weight[here]

        def at(log_scale: float, u: Any = u, y: Any = labels, w: np.ndarray = share) -> float:
            return float(cross_entropy(np.exp(log_scale) * u, y, reduction="none").numpy() @ w)

        found = minimize_scalar(at, bounds=(-14, 14), method="bounded", options={"xatol": 1e-7})
        losses[here] = cross_entropy(np.exp(found.x) * u, labels, reduction="none")
        nll += found.fun
        temperature -= share.sum() * found.x
    return losses, nll, float(np.exp(temperature))


def test_the_best_of_each_recipe_trains_again_on_all_rows(unseen: Path, tmp_path: Path) -> None:
    """Reference: an ordinary sweep of the winners, to the last bit."""
    swept = sweep(unseen, GRID, folds=5, results=tmp_path / "r.sqlite")
    rows = {row["recipe"]: row for row in swept.board.rows}
    assert swept.board.select_on == "5-fold"
    best = {name: next(r for r in rows.values() if r["name"] == name) for name in ("crt", "ncm")}
    for row in rows.values():
        assert row["selection"] is not None
        assert (row["macro"] is not None) == (row in best.values()), "only winners see test"
    final = {o.recipe: o for o in swept.outcomes if ("test", "last") in o.evaluations}
    assert {recipe.id for recipe in final} == {row["recipe"] for row in best.values()}
    assert len(final) == 3, "both seeds of crt, and ncm"
    for outcome in sweep(unseen, list(final)).outcomes:
        for name, values in outcome.parameters.items():
            assert torch.equal(values, final[outcome.recipe].parameters[name])


def test_a_sweep_on_folds_resumes(
    unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the sweep that nobody stopped; Ctrl-C in the third group trained, then between
    the rounds, and at last nothing is left to do."""
    expected = sweep(unseen, GRID, folds=5, results=tmp_path / "whole.sqlite").board
    path, real, calls = tmp_path / "r.sqlite", loop.run_folds, []

    def stopping(*arguments: Any, **options: Any) -> list[Outcome]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    def stopped(*_: Any, **__: Any) -> list[Outcome]:
        raise KeyboardInterrupt

    monkeypatch.setattr("stage2.executors.local.run_folds", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(unseen, GRID, folds=5, results=path)
    with Store(path) as store:
        fingerprint, _ = store.one_bank()
        assert len(store.finished(fingerprint, folds="5-fold")) == 4
        assert not store.finished(fingerprint), "nothing is trained on all rows"
    with monkeypatch.context() as inner:
        inner.setattr(
            "stage2.executors.local.run_group",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            sweep(unseen, GRID, folds=5, results=path)
    assert sweep(unseen, GRID, folds=5, results=path).board == expected
    done = len(calls)
    again = sweep(unseen, GRID, folds=5, results=path)
    assert not again.outcomes
    assert len(calls) == done
    assert set(again.skipped) == set(GRID)
    assert sweep(unseen, GRID, folds=5, results=path, force=True).board == expected


def test_folds_that_measured_nothing_do_not_rank(
    unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the table of an ordinary sweep, after one on folds that ended at once."""
    path = tmp_path / "r.sqlite"

    def stopping(*_: Any, **__: Any) -> list[Outcome]:
        raise KeyboardInterrupt

    monkeypatch.setattr("stage2.executors.local.run_folds", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(unseen, GRID, folds=5, results=path)
    assert sweep(unseen, GRID, results=path).board.select_on is None


@pytest.mark.parametrize("folds_first", [True, False])
def test_results_keep_runs_on_folds_and_on_all_rows(
    folds_first: bool, unseen: Path, tmp_path: Path
) -> None:
    """Reference: the two sweeps into files of their own. In either order, and with other folds."""
    plain = sweep(unseen, GRID, results=tmp_path / "plain.sqlite", select_on="test").board
    folded = sweep(unseen, GRID, folds=5, results=tmp_path / "folded.sqlite").board
    path = tmp_path / "both.sqlite"
    for folds in (5, None) if folds_first else (None, 5):
        sweep(unseen, GRID, folds=folds, results=path)
    both = _board(path)
    assert both.select_on == "5-fold", "folds rank where there is no val"
    ordinary = {row["recipe"]: row for row in plain.rows}
    for row, expected in zip(both.board.rows, folded.rows, strict=True):
        assert row["selection"] == expected["selection"]
        assert row["macro"] == ordinary[row["recipe"]]["macro"]
    assert [row["recipe"] for row in _board(path, select_on="test").board.rows] == [
        row["recipe"] for row in plain.rows
    ]
    sweep(unseen, GRID, folds=3, results=path)
    assert _board(path, select_on="5-fold").board.rows == both.board.rows
    with Store(path) as store:
        assert {split for run in store.runs(store.one_bank()[0]) for split, _ in run.metrics} == {
            "3-fold",
            "5-fold",
            "test",
        }


def test_a_run_that_diverges_on_a_fold_is_not_trained_again(unseen: Path, tmp_path: Path) -> None:
    """Reference: the statuses; an ordinary sweep trains it, as all rows may fare better."""
    wild, path = Recipe("ce", lr=1e30, epochs=2), tmp_path / "r.sqlite"
    first = sweep(unseen, [wild, Recipe("ncm")], folds=5, results=path)
    assert [o.status for o in first.outcomes if o.recipe == wild] == ["diverged"]
    assert not sweep(unseen, [wild, Recipe("ncm")], folds=5, results=path).outcomes
    with Store(path) as store:
        assert wild.hash not in store.finished(store.one_bank()[0])
    assert [row["selection"] for row in first.board.rows][-1] is None


def test_rows_that_stage_1_has_seen_only_order(small: Problem, tmp_path: Path) -> None:
    """Reference: the order by the stored figures, of which none is shown."""
    bank = small.bank(tmp_path / "seen.h5")
    with pytest.raises(errors.ConfigError, match="stage 1 has seen 150 of the 150 train rows"):
        sweep(bank, GRID, folds=5)
    path = tmp_path / "r.sqlite"
    sweep(bank, GRID, folds=5, screen=True, results=path)
    screened = _board(path, select_on="5-fold")
    with Store(path) as store:
        runs = store.runs(bank.fingerprint)
    macro: dict[str, list[float]] = {}
    for run in runs:
        macro.setdefault(run.id, []).append(float(run.metrics["5-fold", "last"]["macro"] or 0))
    order = sorted(macro, key=lambda id_: -float(np.mean(macro[id_])))
    rows = {row["recipe"]: row for row in screened.board.rows}
    assert list(rows) == order
    assert [row["rank"] for row in rows.values()] == [1, 2, 3]
    assert {row["selection"] for row in rows.values()} == {None}
    assert "order alone" in screened.board.protocol
    assert "corrected" not in screened.board.protocol
    assert screened.find("crt").id == next(id_ for id_ in order if id_.startswith("crt"))
    with pytest.raises(errors.ConfigError, match="no figure of theirs is shown"):
        _board(path, split="5-fold")


@pytest.mark.parametrize(
    ("recipe", "options", "problem"),
    [
        ({}, {"folds": 1}, "'folds' of the sweep must be an integer ≥ 2 and ≤ 100, got 1."),
        ({}, {"folds": 90}, "90 folds need 90 training rows in classes of two or more"),
        ({}, {"folds": 5, "halving": Halving()}, "Leave out one of the two."),
        ({"train_on": "train_balanced"}, {"folds": 5}, "no rows of it"),
        ({"calibration": "temperature"}, {"folds": 5}, "has no val"),
        ({}, {"folds": 5, "select_on": "3-fold"}, "Choose from: test, 5-fold."),
    ],
    ids=str,
)
def test_what_folds_cannot_do_is_refused(
    recipe: dict[str, Any], options: dict[str, Any], problem: str, unseen: Path
) -> None:
    """Reference: the sentences."""
    with pytest.raises(errors.ConfigError, match=problem):
        sweep(unseen, [Recipe("ce", **recipe)], **options)


def test_with_val_folds_rank_and_val_is_measured(small: Problem, tmp_path: Path) -> None:
    """Reference: both splits; calibrations are fitted to val after training on all rows, and the
    best is trained with and without."""
    bank = written(small, tmp_path / "bank.h5")
    recipes = [Recipe("lws", epochs=2, calibration=kind) for kind in ("none", "temperature")]
    swept = sweep(bank, recipes, folds=5)
    assert swept.board.select_on == "5-fold"
    final = {o.recipe: o for o in swept.outcomes if o.parameters}
    assert set(final) == set(recipes)
    for outcome in final.values():
        assert {split for split, _ in outcome.evaluations} == {"val", "test"}
    figures = {row["selection"] for row in swept.board.rows}
    assert len(figures) == 1, "a calibration changes nothing that folds rank"


def test_copies_stay_together_and_are_measured_on_the_first(tmp_path: Path) -> None:
    """Reference: the parts of the arrays."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(3), (9, 5, 3)))
    x = torch.from_numpy(rng.normal(size=(2 * len(y), 4)).astype(np.float32))
    rows = MemoryRows(x, torch.from_numpy(np.tile(y, 2)), copies=2)
    folds = deal(y, 3)
    trained, held = (torch.from_numpy(part) for part in (folds.trained(1), folds.held_out(1)))
    train, out = subset(rows, trained), subset(rows, held, copies=1)
    assert isinstance(train, MemoryRows)
    assert isinstance(out, MemoryRows)
    assert (train.copies, out.copies) == (2, 1)
    assert torch.equal(train.x, torch.cat([x[trained], x[trained + len(y)]]))
    assert torch.equal(out.x, x[held])


def test_streamed_folds_are_the_same_rows(unseen: Path) -> None:
    """Reference: the fold in memory: rows, labels, and the draws of an epoch."""
    with Bank(unseen) as bank:
        from stage2.features.loading import BankFeatures

        labels = torch.from_numpy(bank.labels("train"))
        x = torch.from_numpy(bank.load_copies("train", "instance")).view(len(labels), -1)
        streamed = StreamedRows(BankFeatures(bank, "train", "instance"), labels, budget=1 << 20)
        folds = deal(labels.numpy(), 5)
        trained, held = (torch.from_numpy(part) for part in (folds.trained(2), folds.held_out(2)))
        for items in (trained, held):
            part, whole = subset(streamed, items), subset(MemoryRows(x, labels), items)
            assert isinstance(part, SubsetRows)
            assert isinstance(whole, MemoryRows)
            blocks = list(part.blocks())
            assert torch.equal(torch.cat([block for block, _ in blocks]), whole.x)
            assert torch.equal(torch.cat([y for _, y in blocks]), whole.labels)
            draws = torch.randint(len(items), (4, 8), generator=torch.Generator().manual_seed(0))
            windows = list(part.windows(draws, torch.Generator().manual_seed(1)))
            got = torch.cat([window.x[window.rows].flatten(0, 1) for window in windows])
            of = torch.cat([window.y.flatten() for window in windows])
            expected = whole.x[draws].flatten(0, 1)
            assert torch.equal(_sorted(got), _sorted(expected))
            assert torch.equal(of.sort().values, whole.labels[draws].flatten().sort().values)


def _sorted(x: torch.Tensor) -> torch.Tensor:
    return x[x[:, 0].argsort()]


def test_a_sweep_on_folds_streams_within_its_budget(tmp_path: Path) -> None:
    """Reference: the sweep in memory; both views of `mislas` are streamed, blocks in another
    order."""
    made = problem((300, 200, 100), dim=64, val=0)
    bank = written(made, tmp_path / "bank.h5", start=False)
    recipes = [Recipe("ncm"), Recipe("mislas", epochs=8, batch_size=32)]
    whole = sweep(bank, recipes, folds=3)
    tight = sweep(bank, recipes, folds=3, memory=1 << 20)
    for a, b in zip(whole.board.rows, tight.board.rows, strict=True):
        assert a["recipe"] == b["recipe"]
        assert abs(a["selection"] - b["selection"]) < 3


def test_a_fold_that_is_done_leaves_memory(unseen: Path) -> None:
    """Reference: a weak reference to each fold's view."""
    import weakref

    with Bank(unseen) as bank:
        folds = deal(bank.labels("train"), 4)
        views, alive = Views(bank, "cpu", None, 1, folds), list[weakref.ref]()
        from stage2.features.planning import plan_bank

        (group,) = plan_bank(bank, [Recipe("crt", epochs=1)], folds=4)

        def of_fold(fold: int) -> list[Any]:
            assert not any(ref() is not None for ref in alive), "an earlier fold is still there"
            made = views.of_fold(group, fold)
            alive.extend(weakref.ref(view.train) for view in made)
            return made

        loop.run_folds(group, views.held_out(), of_fold)
        assert len(alive) == 4


def test_experts_and_two_workers(tmp_path: Path) -> None:
    """Reference: one worker, to the last bit; a recipe on all experts is one on their views."""
    made = problem(val=0)
    x = {f"expert{i}/instance": v for i, v in enumerate(("instance", "balanced"))}
    write_bank(
        tmp_path / "bank.h5",
        {
            split: {name: made.x[split, view] for name, view in x.items()}
            for split in ("train", "test")
        },
        made.y,
    )
    recipes = expand({"crt": {"lr": [0.1, 0.2], "epochs": [2]}, "ncm": {}})
    one, two = (
        sweep(tmp_path / "bank.h5", recipes, folds=4, workers=workers).board for workers in (1, 2)
    )
    assert [row["selection"] for row in one.rows] == [row["selection"] for row in two.rows]


def test_a_view_of_a_fold_keeps_the_groups_of_the_bank(small: Problem) -> None:
    """Reference: the counts of the rows trained on, and of all rows."""
    view, folds = small.view(), deal(small.y["train"], 5)
    trained, held = (torch.from_numpy(part) for part in (folds.trained(0), folds.held_out(0)))
    made = fold_view(view, "5-fold", trained, held, watched=False)
    np.testing.assert_array_equal(made.counts, folds.counts(6)[0])
    np.testing.assert_array_equal(made.full_counts, small.counts)
    assert set(made.evaluated) == {"5-fold"}
    assert set(fold_view(view, "5-fold", trained, held, watched=True).evaluated) == {
        "5-fold",
        "val",
    }


@pytest.mark.parametrize("rule", ["macro", "nll"])
def test_the_rule_that_is_asked_for_chooses_what_is_trained_again(rule: str, unseen: Path) -> None:
    """Reference: the table by that rule, whose first configuration has test figures; the two rules
    differ on this grid."""
    grid = expand({"crt": {"lr": [0.02, 0.1, 0.5, 2.0, 10.0], "epochs": [1, 3, 6]}})
    board = sweep(unseen, grid, folds=5, select_by=rule).board
    measured = [row["recipe"] for row in board.rows if row["macro"] is not None]
    assert measured == [board.rows[0]["recipe"]]
