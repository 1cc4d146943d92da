"""The stage-2 road: bank → plan → training → store → board, resumed and refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank, errors, write_bank
from stage2.engine.halving import Halving
from stage2.engine.plan import FusedGroup
from stage2.executors import Trained
from stage2.executors.local import Local
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.features.requirements import check_bank
from stage2.features.views import Views
from stage2.methods.recipe import Recipe, expand
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, problem, run

GRID = expand({"crt": {"lr": [0.1, 0.2], "epochs": [2]}, "lws": {}, "ncm": {}}, seeds=(0, 1))


def test_a_sweep_is_the_engine_on_the_bank(small: Problem, bank: Bank) -> None:
    """Reference: the engine run on the arrays the bank was made of."""
    recipes = [*GRID, Recipe("mislas", epochs=2)]  # two views
    swept = sweep(bank, recipes)
    expected = run(recipes, small)
    assert {o.recipe for o in swept.outcomes} == set(recipes)
    for outcome in swept.outcomes:
        for name, value in expected[outcome.recipe].parameters.items():
            assert_close(outcome.parameters[name], value, 1e-5, f"{name} of {outcome.recipe}")
    assert not swept.skipped


class Remote:
    """An executor of one's own: it takes groups last first, and as bytes, as others would be sent
    to another machine."""

    def __init__(self, views: Views, *, parameters: bool) -> None:
        self.local = Local(views, parameters=parameters)
        self.site = self.local.site

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Trained]:
        """Train each group on its own."""
        for sent in reversed([pickle.dumps(group) for group in groups]):
            for trained in self.local.run([pickle.loads(sent)], halving=halving):
                yield pickle.loads(pickle.dumps(trained))


@pytest.mark.parametrize("halving", [None, Halving(eta=2)])
def test_another_executor_is_one_class(bank: Bank, halving: Halving | None) -> None:
    """Reference: the local executor, to the last bit, whatever the order of groups."""
    expected = sweep(bank, GRID, halving=halving)
    swept = sweep(bank, GRID, halving=halving, executor=Remote)
    assert swept.board == expected.board
    parameters = {outcome.recipe: outcome.parameters for outcome in swept.outcomes}
    for outcome in expected.outcomes:
        for name, values in outcome.parameters.items():
            assert torch.equal(parameters[outcome.recipe][name], values)


def test_a_finished_sweep_trains_nothing(bank: Bank, tmp_path: Path) -> None:
    """Reference: the first sweep's board; also by path, and `force` trains again."""
    path = tmp_path / "results.sqlite"
    first = sweep(bank, GRID, results=path)
    seen: list[tuple[int, int]] = []
    again = sweep(bank.path, GRID, results=path, progress=lambda *p: seen.append(p))
    assert not again.outcomes, f"got {len(again.outcomes)} outcomes"
    assert not seen, f"got progress {seen}"
    assert set(again.skipped) == set(GRID)
    assert again.board == first.board
    forced = sweep(bank, GRID, results=path, force=True)
    assert len(forced.outcomes) == len(GRID)


def test_a_partial_sweep_resumes_to_the_same_table(bank: Bank, tmp_path: Path) -> None:
    """Reference: the uninterrupted sweep, to the last bit; what was there is not trained again."""
    whole = sweep(bank, GRID, results=tmp_path / "whole.sqlite")
    path = tmp_path / "part.sqlite"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(bank, GRID, results=path, progress=stop)
    with Store(path) as store:
        done = store.finished(bank.fingerprint)
    assert 0 < len(done) < len(GRID), f"got {len(done)} of {len(GRID)} after one group"
    progress: list[tuple[int, int]] = []
    resumed = sweep(bank, GRID, results=path, progress=lambda *p: progress.append(p))
    assert {r.hash for r in resumed.skipped} == done
    assert {o.recipe.hash for o in resumed.outcomes} == {r.hash for r in GRID} - done
    assert resumed.board == whole.board
    left = len(GRID) - len(done)
    assert progress[-1] == (left, left), f"got {progress}, expected the end at {left}"


def test_a_sweep_grows(bank: Bank, tmp_path: Path) -> None:
    """Reference: one sweep over everything; recipes join a file in two parts of one group."""
    path = tmp_path / "results.sqlite"
    sweep(bank, GRID[:3], results=path)
    grown = sweep(bank, GRID, results=path).board
    expected = sweep(bank, GRID).board
    assert [r["recipe"] for r in grown.rows] == [r["recipe"] for r in expected.rows]
    for got, row in zip(grown.rows, expected.rows, strict=True):
        assert_close(got["macro"], row["macro"], 0.05, f"macro of {row['recipe']}")


def test_outcomes_need_not_be_kept(bank: Bank) -> None:
    """Reference: the same board without them."""
    assert not sweep(bank, GRID, keep_outcomes=False).outcomes
    assert len(sweep(bank, GRID, keep_outcomes=False).board.rows) == len(
        sweep(bank, GRID).board.rows
    )


def test_the_view_is_the_banks(small: Problem, bank: Bank) -> None:
    """Reference: the arrays the bank was made of; `balanced` uses the instance classifier."""
    for view in ("instance", "balanced"):
        data = load_view(bank, view)
        assert_close(data.train.x, small.x["train", view], 0.0, f"train {view}")
        assert_close(data.context.weight0, small.w0, 0.0, "W₀")
        assert_close(data.context.bias0, small.b0, 0.0, "b₀")
        assert_close(data.context.counts, small.counts, 0.0, "counts")
        assert set(data.evaluated) == {"val", "test"}
        assert_close(data.evaluated["test"].x, small.x["test", view], 0.0, f"test {view}")
        assert np.array_equal(data.full_counts, small.counts)


def test_groups_of_one_view_follow_one_another(bank: Bank) -> None:
    """Reference: a view is loaded once."""
    recipes = [Recipe(n, seed=s) for s in range(3) for n in ("crt", "mislas", "lws")]
    views = [group.stream.views for group in plan_bank(bank, recipes)]
    assert views == sorted(views), f"got {views}"


def test_what_a_bank_lacks_is_said_before_training(tmp_path: Path) -> None:
    """Reference: ConfigError with the recipe's name and the remedy; nothing is stored."""
    results = tmp_path / "results.sqlite"
    made = problem()
    features = {s: {"instance": made.x[s, "instance"]} for s in made.y}
    write_bank(tmp_path / "bank.h5", features, made.y, class_names=[str(k) for k in range(6)])
    with Bank(tmp_path / "bank.h5") as bank:
        for recipe, message in (
            (Recipe("mislas"), "Recipe 'mislas' needs the view 'balanced'"),
            (Recipe("ncm", train_on="train_balanced"), "Recipe 'ncm' learns from train_balanced"),
        ):
            with pytest.raises(errors.ConfigError, match=message):
                sweep(bank, [Recipe("ce", epochs=1), recipe], results=results)
        assert not results.exists(), "a results file was made"
        sweep(bank, [Recipe("ce", epochs=1), Recipe("ncm")], results=results)


@pytest.mark.parametrize("name", ["balanced_softmax", "weighted", "logit_adjust"])
def test_an_empty_class_is_said_before_training(name: str, tmp_path: Path) -> None:
    """Reference: EmptyClass before anything is trained, for losses and for the head that logs π."""
    results = tmp_path / "results.sqlite"
    with problem((30, 0, 8)).bank(tmp_path / "bank.h5") as bank:
        with pytest.raises(errors.EmptyClass, match=name):
            check_bank(bank, [Recipe("ce"), Recipe(name)])
        with pytest.raises(errors.EmptyClass, match=name):
            sweep(bank, [Recipe("ce", epochs=1), Recipe(name)], results=results)
        assert not results.exists(), "something was trained and stored first"


def test_a_split_that_cannot_rank_is_refused_before_training(bank: Bank, tmp_path: Path) -> None:
    """Reference: `select_on` is val or test; nothing is stored."""
    results = tmp_path / "results.sqlite"
    with pytest.raises(errors.ConfigError, match="train"):
        sweep(bank, [Recipe("ce", epochs=1)], results=results, select_on="train")
    assert not results.exists(), "it was trained before it was refused"


def test_a_bank_without_rows_to_compare_on(tmp_path: Path) -> None:
    """Reference: ConfigError; a bank of a training split alone ranks nothing."""
    bank = problem(val=0, test=0).bank(tmp_path / "bank.h5")
    with bank, pytest.raises(errors.ConfigError, match="neither val nor test"):
        sweep(bank, [Recipe("ce", epochs=1)])


def test_an_impossible_budget_is_refused(bank: Bank) -> None:
    """Reference: ConfigError from the planner."""
    with pytest.raises(errors.ConfigError, match="memory budget"):
        sweep(bank, [Recipe("ce", epochs=1)], memory=10)
