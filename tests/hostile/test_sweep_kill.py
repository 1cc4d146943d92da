"""A sweep killed at any moment: the file is whole, and the same sweep ends with the same table."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from stage2 import sweep
from stage2.engine.halving import Halving
from stage2.methods.recipe import expand
from stage2.results.results import Results
from stage2.results.store import Store
from tests.hostile.children import killed_at

RECIPES = expand({"crt": {"lr": [0.1, 0.2]}, "lws": {}, "ncm": {}}, seeds=(0, 1))


def kill_many(folder: Path, bank: Path, kills: int, halving: Halving | None) -> None:
    """Kill a sweep and each of those that continue it at random moments of what was left to do."""
    expected = sweep(bank, RECIPES, halving=halving).board
    path, draw = folder / "r.sqlite", random.Random(0)
    torch.set_num_threads(1)  # a fork has no pool of threads
    calls, _ = killed_at(None, lambda: sweep(bank, RECIPES, halving=halving, results=path))
    with Store(path) as store:
        assert Results(store).board == expected
    for _ in range(kills):
        path.unlink(missing_ok=True)
        for part in (1.0, 0.5):  # also one that resumes a killed one
            moment = draw.randint(1, int(part * calls))
            _, code = killed_at(moment, lambda: sweep(bank, RECIPES, halving=halving, results=path))
            assert code == -signal.SIGKILL or moment > 0.4 * calls, (moment, calls)
        assert sweep(bank, RECIPES, halving=halving, results=path).board == expected
        assert not sweep(bank, RECIPES, halving=halving, results=path).outcomes


@pytest.mark.parametrize("halving", [None, Halving(eta=2)], ids=["plain", "halving"])
def test_a_sweep_killed_at_any_moment(
    toy_bank: Path, tmp_path: Path, halving: Halving | None
) -> None:
    """Three chains of kills."""
    kill_many(tmp_path, toy_bank, 3, halving)


@pytest.mark.long
@pytest.mark.parametrize("halving", [None, Halving(eta=2)], ids=["plain", "halving"])
def test_a_sweep_killed_at_many_moments(
    toy_bank: Path, tmp_path: Path, halving: Halving | None
) -> None:
    """Fifty chains of kills."""
    kill_many(tmp_path, toy_bank, 50, halving)
