"""Groups recorded by a thread: in order, whole, and with their errors."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest

from featbank import Bank
from stage2 import Recipe, sweep
from stage2.engine.outcome import Outcome, Outcomes
from stage2.results.recording import Recorder
from stage2.results.store import Store
from stage2.sweep import origin

LRS = [0.05, 0.1, 0.2]


def _groups(bank: Bank) -> list[Outcome]:
    recipes = [Recipe("crt", lr=lr, epochs=1, batch_size=32) for lr in LRS]
    return sweep(bank, recipes, device="cpu").outcomes


def test_a_group_is_computed_while_the_next_one_trains(bank: Bank, tmp_path: Path) -> None:
    """Reference: the order of events; the first group cannot be computed before `add` returns."""
    trained = Event()
    outcomes, reported, made = _groups(bank), [], origin("cpu")

    def late(outcome: Outcome) -> list[Outcome]:
        assert trained.wait(60), "adding a group waits for its outcomes"
        return [outcome]

    def report(group: Sequence[Outcome]) -> None:
        reported.extend(outcome.recipe for outcome in group)

    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        with Recorder(store, bank.fingerprint) as recorder:
            recorder.add(Outcomes(lambda: late(outcomes[0])), made, report)
            assert not reported
            trained.set()
            for outcome in outcomes[1:]:
                recorder.add([outcome], made, report)
        assert reported == [outcome.recipe for outcome in outcomes]
        assert store.finished(bank.fingerprint) == {recipe.hash for recipe in reported}


def test_an_error_is_raised_with_the_next_group(bank: Bank, tmp_path: Path) -> None:
    """Reference: the store has the group before it, and nothing of the one that failed."""
    outcomes, made = _groups(bank), origin("cpu")

    def failing() -> list[Outcome]:
        raise OSError("the disk is full")

    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        with Recorder(store, bank.fingerprint) as recorder:
            recorder.add(outcomes[:1], made, lambda group: None)
            recorder.add(Outcomes(failing), made, lambda group: None)
            with pytest.raises(OSError, match="full"):
                recorder.add(outcomes[1:], made, lambda group: None)
        assert store.finished(bank.fingerprint) == {outcomes[0].recipe.hash}


def test_outcomes_are_computed_once_and_travel_as_a_list() -> None:
    """Reference: a list."""
    calls: list[int] = []

    def compute() -> list[Outcome]:
        calls.append(1)
        return [Outcome(Recipe("crt", seed=s), "done", {}, None, {}, {}) for s in range(3)]

    lazy = Outcomes(compute)
    assert not calls
    sent = pickle.loads(pickle.dumps(lazy))
    assert isinstance(sent, list)
    assert [o.recipe for o in sent] == [o.recipe for o in lazy] == [o.recipe for o in lazy[:]]
    assert (len(lazy), lazy[1].recipe.seed, len(calls)) == (3, 1, 1)
