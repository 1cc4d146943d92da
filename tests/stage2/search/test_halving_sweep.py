"""A halving sweep: two rounds, what is stored and shown, resumed and completed later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2.engine.halving import Halving
from stage2.features.planning import plan_bank
from stage2.methods.recipe import Recipe, expand
from stage2.results.choice import choose
from stage2.results.compare import compare
from stage2.results.leaderboard import differences
from stage2.results.measured import measured
from stage2.results.results import Results
from stage2.results.store import Run, Store
from stage2.results.tables import render
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import problem

HALVING = Halving(eta=2)
RATES = [0.001, 0.01, 0.05, 0.1, 0.4]
SHORT: dict[str, list[Any]] = {"epochs": [4], "batch_size": [32]}
GRID = expand(
    {
        "crt": {"lr": RATES, **SHORT},
        "lws": {"lr": RATES, "sampler": ["instance"], **SHORT},
        "ncm": {},
        "tau_norm": {},
    },
    seeds=(1, 0, 2),
)
"""Two fused groups a seed, five crt and five lws, and two recipes that are not trained in steps."""


def _runs(bank: Bank, path: Path) -> list[Run]:
    with Store(path) as store:
        return store.runs(bank.fingerprint)


def test_the_first_seed_halves_and_what_is_left_trains_with_all(bank: Bank, tmp_path: Path) -> None:
    """Reference: the counts of the rule on each fused group of the first seed."""
    path = tmp_path / "results.sqlite"
    seen: list[tuple[int, int]] = []
    results = sweep(bank, GRID, results=path, halving=HALVING, progress=lambda *p: seen.append(p))
    first = [r for r in GRID if r.seed == 1 or not r.stepped]
    left = {
        group.stream: HALVING.counts(len(group.recipes), 4)[-1]
        for group in plan_bank(bank, first)
        if group.stream.epochs
    }
    runs = _runs(bank, path)
    by_id: dict[str, list[Run]] = {}
    for run in runs:
        by_id.setdefault(run.id, []).append(run)
    finished = [own for own in by_id.values() if own[0].status == "done" and own[0].name != "ncm"]
    assert len(finished) - 1 == sum(left.values())  # one of them is tau_norm
    for own in by_id.values():
        if own[0].status == "stopped":
            assert [run.seed for run in own] == [1]
            assert set(own[0].metrics) == {("val", "last")}
        elif "seed" in Recipe(own[0].name).settings:
            assert sorted(run.seed for run in own) == [0, 1, 2]
    assert len(results.left_out) == 2 * (10 - sum(left.values()))
    assert seen[-1] == (len(runs), len(runs)), f"progress ended at {seen[-1]}"
    assert {total for _, total in seen} == {len(runs)}


def test_a_table_does_not_mix_what_was_stopped(bank: Bank, tmp_path: Path) -> None:
    """Reference: the statuses in the store."""
    path = tmp_path / "results.sqlite"
    board = sweep(bank, GRID, results=path, halving=HALVING).board
    stopped = {run.id for run in _runs(bank, path) if run.status == "stopped"}
    tried = len({r.id for r in GRID})
    assert f"· {tried} configurations tried, {len(stopped)} stopped early by halving ·" in (
        board.protocol
    )
    below = [row["recipe"] in stopped for row in board.rows]
    assert below == sorted(below), "a stopped configuration stands above a finished one"
    for row in board.rows:
        if row["recipe"] in stopped:
            assert row["status"] == "stopped"
            assert row["selection"] is row["macro"] is None
            assert differences(row).endswith("(stopped)")
        else:
            assert row["selection"] is not None
    assert "(stopped)" in render(board, "md")
    with Store(path) as store:
        on_val = Results(store, split="val").board
        name = next(iter(stopped))
        configuration = Results(store).find(name)
        curves = store.curves(bank.fingerprint, configuration.runs[0].recipe)
    (row,) = (r for r in on_val.rows if r["recipe"] == name)
    assert len(curves["loss"]) in (1, 2)
    assert_close(row["macro"], curves["val_macro"][-1], 1e-9, "macro on val when it was stopped")


def test_no_winner_of_its_own_is_told(bank: Bank, tmp_path: Path) -> None:
    """Reference: ConfigError; of a recipe that was stopped whole there is no best."""
    path = tmp_path / "results.sqlite"
    settings = {"epochs": 4, "batch_size": 32}
    sweep(
        bank,
        [Recipe("ce", lr=0.1, **settings), Recipe("focal", lr=1e-6, **settings)],
        results=path,
        halving=HALVING,
    )
    with Store(path) as store, pytest.raises(errors.ConfigError, match="stopped by halving"):
        Results(store).find("focal")


def test_what_is_left_is_what_a_full_sweep_gives(bank: Bank, tmp_path: Path) -> None:
    """Reference: the full sweep; and that sweep over the results of halving completes them."""
    path = tmp_path / "results.sqlite"
    full = {row["recipe"]: row for row in sweep(bank, GRID).board.rows if row["epoch"] == "last"}
    halved = sweep(bank, GRID, results=path, halving=HALVING)
    for row in halved.board.rows:
        if row["status"] == "done" and row["epoch"] == "last":
            assert_close(row["macro"], full[row["recipe"]]["macro"], 0.01, row["recipe"])
    stopped = [run.recipe for run in _runs(bank, path) if run.status == "stopped"]
    completed = sweep(bank, GRID, results=path)
    trained = {outcome.recipe.hash for outcome in completed.outcomes}
    assert trained == {*stopped, *(recipe.hash for recipe in halved.left_out)}
    assert "halving" not in completed.board.protocol
    for row in completed.board.rows:
        if row["epoch"] == "last":
            assert_close(row["macro"], full[row["recipe"]]["macro"], 0.01, row["recipe"])


def test_a_repeated_halving_sweep_trains_nothing(bank: Bank, tmp_path: Path) -> None:
    """Reference: the first; `force` does it again, to the last bit."""
    path = tmp_path / "results.sqlite"
    first = sweep(bank, GRID, results=path, halving=HALVING)
    again = sweep(bank, GRID, results=path, halving=HALVING)
    assert not again.outcomes, f"got {len(again.outcomes)} outcomes"
    assert again.board == first.board
    assert again.left_out == first.left_out
    forced = sweep(bank, GRID, results=path, halving=HALVING, force=True)
    assert len(forced.outcomes) == len(first.outcomes)
    assert forced.board == first.board


@pytest.mark.parametrize("after", [1, 2, 4, 6])
def test_an_interrupted_halving_sweep_resumes_to_the_same_table(
    bank: Bank, tmp_path: Path, after: int
) -> None:
    """Reference: the uninterrupted sweep, to the last bit; stopped in either round."""
    whole = sweep(bank, GRID, results=tmp_path / "whole.sqlite", halving=HALVING)
    path = tmp_path / "part.sqlite"
    groups = 0

    def stop(done: int, total: int) -> None:
        nonlocal groups
        groups += 1
        if groups == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(bank, GRID, results=path, halving=HALVING, progress=stop)
    before = len(_runs(bank, path))
    resumed = sweep(bank, GRID, results=path, halving=HALVING)
    assert len(resumed.outcomes) == len(whole.outcomes) - before > 0
    assert resumed.board == whole.board
    assert resumed.left_out == whole.left_out


def test_halving_needs_val(tmp_path: Path) -> None:
    """Reference: ConfigError with the remedy, before anything is stored."""
    path = tmp_path / "results.sqlite"
    bank = problem(val=0).bank(tmp_path / "bank.h5")
    with bank, pytest.raises(errors.ConfigError, match="has no val split.*--val-from-test 5"):
        sweep(bank, GRID, results=path, halving=HALVING)
    assert not path.exists(), "a results file was made"


def test_what_halving_stopped_is_called_stopped_everywhere(bank: Bank, tmp_path: Path) -> None:
    """Comparisons, pictures and details say that halving stopped a configuration, not that it
    diverged."""
    path = tmp_path / "results.sqlite"
    recipes = expand({"crt": {"lr": RATES, **SHORT}, "ncm": {}, "tau_norm": {}}, seeds=(1,))
    board = sweep(bank, recipes, results=path, halving=HALVING).board
    stopped = next(row["recipe"] for row in board.rows if row["status"] == "stopped")
    with Store(path) as store:
        on_val = Results(store, split="val")
        for act in (
            lambda: compare(Results(store), [stopped, "ncm"]),
            lambda: measured(on_val, on_val.find(stopped)),
        ):
            with pytest.raises(errors.ConfigError) as caught:
                act()
            assert str(caught.value).startswith(f"{stopped} was stopped by halving with seed 1. ")
        with pytest.raises(errors.ConfigError, match="was stopped by halving or diverged. Sweep"):
            choose(Results(store), recipes=[stopped])
        Results(store).find("crt")
        compare(Results(store))  # leaves nothing out: the best of crt is done
