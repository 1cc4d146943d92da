"""Picks under conditions: by hand, from figures that are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featbank import Bank, errors
from stage2.methods.recipe import Recipe
from stage2.results.picking import Pick, pick
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.results.test_compare import everywhere, stored
from tests.stage2.synthetic import Problem

FIGURES = {  # on val: top-1, ECE, few
    "lws": (80.0, 9.0, 10.0),
    "crt": (75.0, 3.0, 30.0),
    "mislas": (70.0, 3.0004, 40.0),
    "ncm": (20.0, 1.0, 50.0),
}


def _add(store: Store, bank: Bank, made: Problem) -> None:
    """Runs with these figures on val; on test the order of their ECE is the other way round."""
    store.add_bank(bank)
    for name, (top1, ece, few) in FIGURES.items():
        run = stored(Recipe(name), everywhere(made, [0.5] * 6, 3), made.y)
        for (split, _), evaluation in run["evaluations"].items():
            sign = 1 if split == "val" else -1
            figures = {"top1": top1, "macro": top1, "ece": 10 + sign * ece, "few": few}
            evaluation.metrics.update(figures)
        store.add_runs(bank.fingerprint, [run])


@pytest.fixture
def results(bank: Bank, small: Problem) -> Iterator[Results]:
    """Their results."""
    with Store(None) as store:
        _add(store, bank, small)
        yield Results(store, select_by="macro")


@pytest.mark.parametrize(
    ("asked", "expected", "met"),
    [
        ("top1", "lws", 4),
        ("ece", "ncm", 4),
        ("ece, top1>=45", "crt", 3),  # equal to mislas up to rounding, and ranked before it
        ("ece, few, top1>=45", "mislas", 3),  # of equal ones the next metric
        ("few, ece<12 or name=crt, not name=ncm", "crt", 1),
        ("top1<80", "crt", 3),  # no metric: the rank
        ("few,head!='linear', top1 > 1", "ncm", 3),
    ],
)
def test_picks(results: Results, asked: str, expected: str, met: int) -> None:
    """Reference: by hand, of the figures on val."""
    picked = pick(results, asked)
    assert (picked.name, picked.met, picked.tried, picked.select_on) == (expected, met, 4, "val")
    assert picked.rank == [*FIGURES].index(expected) + 1
    assert picked.selecting["top1"] == FIGURES[expected][0]
    assert picked.shown["ece"] == 10 - FIGURES[expected][1]


def test_the_lines(results: Results) -> None:
    """Reference: by hand: figures of test, and those that chose, which are optimistic."""

    def lines(picked: Pick) -> str:
        return "\n".join(picked.lines).replace(picked.id, "ID")

    assert lines(pick(results, "ece, top1>=45")) == (
        "crt (rank 2, ID) has the lowest ECE of 3 of 4 configurations with top1>=45 on val.\n"
        "ECE 7.0, top-1 75.0 on test; ECE 13.0, top-1 75.0 on val, which chose it: optimistic."
    )
    assert lines(pick(results.on("val"), "top1")) == (
        "lws (rank 1, ID) has the highest top-1 of 4 configurations on val.\n"
        "top-1 80.0 on val, which chose it: optimistic."
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("ece, top1>=90", r"None of 4 .* on val. The nearest is rank 1, lws-\w+: top1 80.0\."),
        ("top1>=78, few>=45", r"The nearest is rank 3, mislas-\w+: top1 70.0, few 40.0\."),
        ("ecee", "No metric is called 'ecee'"),
        ("hed=linear", "No configuration has a 'hed'"),
        ("ece,,top1", "has an empty part. Write it like ece, top1>=45."),
        ("top1>=", "ends where a value is expected"),
        ("brier", "has brier on val. Pick by another metric."),
    ],
)
def test_what_cannot_be_picked(results: Results, asked: str, message: str) -> None:
    """Reference: one ConfigError with the nearest, a suggestion or a remedy."""
    with pytest.raises(errors.ConfigError, match=message) as caught:
        pick(results, asked)
    assert "\n" not in str(caught.value)


def test_test_picks_only_if_asked(without_val: Problem, tmp_path: Path) -> None:
    """Reference: by hand: no val, so an error with the ways to one; on request test picks."""
    with without_val.bank(tmp_path / "b.h5") as bank, Store(None) as store:
        _add(store, bank, without_val)
        with pytest.raises(errors.ConfigError, match="test selects nothing unasked"):
            pick(Results(store), "ece")
        picked = pick(Results(store, select_on="test"), "ece")
    assert (picked.name, picked.select_on) == ("lws", "test")
    assert picked.lines[1] == "ECE 1.0 on test, which chose it: optimistic."
