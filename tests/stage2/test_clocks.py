"""A clock that is an hour behind, of this machine after a restart or of another one.

No sweep trains anything twice, nor takes anything for newer than it is.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from featbank import Bank
from stage2 import Recipe, sweep
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.features.test_probe import bare
from tests.stage2.synthetic import Problem

HOUR = 3600.0
RECIPES = [Recipe("lws", seed=seed, epochs=2, batch_size=32) for seed in range(6)]
"""A group each; all start from a linear probe of the bank."""


@pytest.fixture
def path(small: Problem, tmp_path: Path) -> Path:
    """A bank without a classifier."""
    bare(small, tmp_path / "bank.h5").close()
    return tmp_path / "bank.h5"


def _behind(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put the clock back."""
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - seconds)


def _table(path: Path) -> Any:
    with Store(path) as store:
        return Results(store).board.rows


def test_after_a_restart(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the sweep that was left alone; what it had trained before, probe included, is
    taken, and then a forced one trains all anew."""
    results, notices = tmp_path / "r.sqlite", list[str]()
    sweep(path, RECIPES, results=tmp_path / "whole.sqlite", device="cpu")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(path, RECIPES, results=results, device="cpu", progress=stop, notice=notices.append)
    with Store(results) as store, Bank(path) as bank:
        before = store.finished(bank.fingerprint)
    assert 0 < len(before) < len(RECIPES)
    _behind(monkeypatch, HOUR)
    resumed = sweep(path, RECIPES, results=results, device="cpu", notice=notices.append)
    assert {recipe.hash for recipe in resumed.skipped} == before
    assert len(notices) == 1, notices
    assert _table(results) == _table(tmp_path / "whole.sqlite")
    _behind(monkeypatch, HOUR)
    forced = sweep(path, RECIPES, results=results, device="cpu", notice=notices.append, force=True)
    assert (len(forced.outcomes), len(notices)) == (len(RECIPES), 2)
    assert _table(results) == _table(tmp_path / "whole.sqlite")


def test_of_another_process(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one process; two with an hour between their clocks, on one file, train each group
    and the probe once."""
    results = tmp_path / "r.sqlite"
    sweep(path, RECIPES, results=tmp_path / "whole.sqlite", device="cpu")
    children = []
    for number, behind in enumerate((0.0, HOUR)):
        if child := os.fork():
            children.append(child)
            continue
        try:
            _behind(monkeypatch, behind)
            notices = list[str]()
            swept = sweep(path, RECIPES, results=results, device="cpu", notice=notices.append)
            probes = sum("probe of" in line for line in notices)
            account = [outcome.recipe.hash for outcome in swept.outcomes], probes
            (tmp_path / f"{number}.json").write_text(json.dumps(account))
            os._exit(0)
        finally:
            os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    accounts = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    trained = [recipe for recipes, _ in accounts for recipe in recipes]
    assert sorted(trained) == sorted(recipe.hash for recipe in RECIPES)
    assert sum(probes for _, probes in accounts) == 1
    assert _table(results) == _table(tmp_path / "whole.sqlite")
