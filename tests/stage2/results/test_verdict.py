"""The verdict: figures and intervals against `compare`, what is chosen and its words by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank
from stage2.engine.metrics import RANKING
from stage2.methods.recipe import Recipe
from stage2.results.compare import compare
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.verdict import PLAIN, STAGE1, Verdict, is_stage1, verdict, verdict_of
from tests.stage2.compare import assert_close
from tests.stage2.results.test_compare import FAIR, GOOD, POOR, everywhere, stored
from tests.stage2.synthetic import Problem


def runs_of(made: Problem, *, seeds: Sequence[int] = (0, 1)) -> list[dict[str, Any]]:
    """lws (good), ce (fair; and a poor one) and the stage-1 classifier (poor) as the store takes
    them."""
    recipes = [
        *((Recipe("lws", lr=0.3, seed=s), GOOD, s) for s in (0, 1)),
        *((Recipe("ce", seed=s), FAIR, 10 + s) for s in seeds),
        *((Recipe("ce", lr=0.4, seed=s), POOR, 20 + s) for s in seeds),
        (Recipe("logit_adjust", tau=0.0), POOR, 30),
        (Recipe("tau_norm", tau=0.0), POOR, 40),
    ]
    return [stored(recipe, everywhere(made, right, 7 * s), made.y) for recipe, right, s in recipes]


def judged(bank: Bank, runs: Sequence[dict[str, Any]], **options: Any) -> Verdict:
    """The verdict on made-up runs."""
    with Store(None) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs)
        return verdict(Results(store, **options))


def test_gains_are_those_of_compare(bank: Bank, small: Problem) -> None:
    """Reference: `compare`, each baseline alone with what is chosen; the words by hand."""
    runs = runs_of(small)
    said = judged(bank, runs)
    chosen, plain = Recipe("lws", lr=0.3).id, Recipe("ce").id
    assert (said.id, said.name, said.settings, said.tried) == (chosen, "lws", "lr=0.3", 5)
    assert [gain.id for gain in said.gains] == [Recipe("logit_adjust", tau=0.0).id, plain]
    for gain in said.gains:
        with Store(None) as store:
            store.add_bank(bank)
            store.add_runs(bank.fingerprint, runs)
            (pair,) = compare(Results(store), [gain.id, chosen]).comparisons
        known = pair.measures[RANKING]
        got = [gain.figure, gain.difference, gain.low, gain.high]
        assert_close(got, [known.a, known.difference, known.low, known.high], 1e-12, gain.over)
    first, second = said.lines
    figure, low = f"{said.gains[0].difference:+.1f}", said.gains[0].low
    assert first.startswith("lws lr=0.3, chosen on val among 5 configurations, has "), first
    assert f"% macro accuracy on test, {figure} [{low:+.1f}, " in first
    assert f"] over {STAGE1}, " in first
    assert f"] over {PLAIN} (ce) (95 % intervals" in first
    assert f"{said.selected:.1f} on val is {said.corrected:.1f} corrected for choosing" in second
    assert f"{said.ties} of 4 others" in second or f"{said.ties}" == "0"
    assert said.next_command == ""


def test_baselines_that_are_not_there(bank: Bank, small: Problem) -> None:
    """Reference: by hand: without them the line says so; what has no seed in common has a
    difference and no interval; a baseline does not gain over itself."""
    runs = runs_of(small)
    said = judged(bank, runs[:2])
    assert (said.gains, said.lacking, said.compared) == ((), (STAGE1, PLAIN), 0)
    assert said.lines[0].startswith("lws lr=0.3, the only configuration, has ")
    assert said.lines[0].endswith(f"; {STAGE1} and {PLAIN} not swept.")
    said = judged(bank, runs_of(small, seeds=(5,))[:3])
    (gain,) = said.gains
    assert gain.low is None
    assert gain.difference > 0
    assert "paired" not in said.lines[0]
    said = judged(bank, runs[2:4])
    assert (said.name, said.gains, said.lacking) == ("ce", (), (STAGE1,))
    with_bias = judged(bank, runs[:2] + runs[-1:])
    assert with_bias.gains[0].id == Recipe("tau_norm", tau=0.0).id


def test_nothing_is_chosen_on_test(without_val: Problem, tmp_path: Path) -> None:
    """Reference: by hand: no val, so no choice and its remedy; on request test chooses, and the
    line says that its figures are too good."""
    runs = runs_of(without_val)
    with without_val.bank(tmp_path / "b.h5") as bank:
        said = judged(bank, runs)
        assert (said.id, said.gains, said.figure) == (None, (), None)
        assert said.lines[0].startswith("Nothing is chosen among 5 configurations: there is no val")
        assert said.next_command in said.lines[1]
        assert "split" in said.next_command
        assert judged(bank, runs[-1:]).name == "tau_norm"
        said = judged(bank, runs, select_on="test")
    assert "chosen on test among 5" in said.lines[0]
    assert said.lines[1].endswith("Figures of test, which chose, are optimistic.")


def test_nothing_is_left_to_choose(bank: Bank) -> None:
    """Reference: by hand: all diverged."""
    said = judged(bank, [stored(Recipe("ce", seed=s), {}, {}) for s in (0, 1)])
    assert said.lines[0] == "Nothing is chosen: every configuration diverged."
    assert said.lines[1] == "Sweep them with a smaller lr."


def test_several_banks_have_their_own(several: Path) -> None:
    """Reference: the ids of each bank's board, and its name in the next command."""
    with Store(several) as store:
        for name in ("r32", "steep"):
            results = Results(store, bank=name)
            said = verdict(results)
            assert said.id == results.board.rows[0]["recipe"]
            assert said.next_command.endswith(f"--bank {name}")
            assert verdict_of(results.board, several) == said


@pytest.mark.parametrize("changed", [{"head": "cosine"}, {"sampler": "class_aware"}])
def test_other_parts_are_not_plain(bank: Bank, small: Problem, changed: dict[str, Any]) -> None:
    """Reference: by hand: ce with another head or sampler is not the plain baseline."""
    runs = runs_of(small)[:2]
    other = stored(Recipe("ce", **changed), everywhere(small, POOR, 3), small.y)
    assert PLAIN in judged(bank, [*runs, other]).lacking
    assert np.isfinite(judged(bank, [*runs, other]).figure or np.nan)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("stage1"), True),
        (Recipe("tau_norm", tau=0.0), True),
        (Recipe("logit_adjust"), False),
        (Recipe("stage1", calibration="temperature"), False),
        (Recipe("crt"), False),
    ],
    ids=str,
)
def test_stage_1_is_known_by_its_settings(recipe: Recipe, *, expected: bool) -> None:
    """By its head and τ, whatever the recipe is called; the report asks the same function."""
    row: Any = {"parameters": recipe.parameters}
    assert is_stage1(row) is expected
