"""Probes are kept with the results: no later sweep, search or export trains them again."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from featbank import Bank
from stage2 import Recipe, read_specification, sweep
from stage2.adaptive import search
from stage2.cost.estimate import _probe_shares
from stage2.cost.sample import ITERATIONS
from stage2.export.exporting import export_head
from stage2.features import descent, probes
from stage2.features.probe import Probe, fit_cosine, fit_linear
from stage2.results.probes import KeptProbes, rows_of_probes
from stage2.results.store import Store
from stage2.search import Sampling
from tests.stage2.features.test_probe import SHORT, bare
from tests.stage2.synthetic import Problem, problem

LWS, DISALIGN = Recipe("lws", **SHORT), Recipe("disalign", **SHORT)
STAR = Recipe("disalign", z0="cosine", **SHORT)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A letter for each probe that is trained: l or c."""
    seen: list[str] = []

    def linear(data: Any) -> Any:
        seen.append("l")
        return fit_linear(data)

    def cosine(data: Any, scale: float) -> Any:
        seen.append("c")
        return fit_cosine(data, scale)

    monkeypatch.setattr(probes, "fit_linear", linear)
    monkeypatch.setattr(probes, "fit_cosine", cosine)
    return seen


def test_later_sweeps_and_exports_train_none(
    small: Problem, tmp_path: Path, trained: list[str]
) -> None:
    """Reference: the probe of the first sweep, to the last bit, and one line for each trained."""
    path, lines = tmp_path / "r.sqlite", list[str]()
    with bare(small, tmp_path / "b.h5") as bank:
        first = sweep(bank, [LWS, STAR], results=path, device="cpu", notice=lines.append)
        assert sorted(trained) == ["c", "l"]
        assert [line.split(" of ")[0] for line in lines] == ["linear probe", "cosine probe"]
        assert all("passes in" in line and "largest gradient entry" in line for line in lines)
        again = sweep(bank, [LWS, DISALIGN, STAR], results=path, device="cpu", notice=lines.append)
        assert len(again.outcomes) == 1
        ((probe, classifier),) = again.probes.items()
        assert all(map(torch.equal, classifier, first.probes[probe]))
        with Store(path) as store:
            kept = store.probes(bank.fingerprint).values()
        assert sorted(row["settings"]["kind"] for row in kept) == ["cosine", "linear"]
        assert all(row["fit"]["passes"] > 1 for row in kept)
    export_head(path, LWS.id, tmp_path / "h.safetensors", features=tmp_path / "b.h5", device="cpu")
    assert len(trained) == len(lines) == 2, f"got {trained}, {lines}"


def test_force_trains_them_anew(
    small: Problem, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the number of probes trained, and the time in the file; a forced search trains
    them with its first batch alone. The clock goes back by an hour whenever it is read."""
    path = tmp_path / "r.sqlite"

    def finished(bank: Bank) -> list[float]:
        with Store(path) as store:
            return [row["finished"] for row in store.probes(bank.fingerprint).values()]

    with bare(small, tmp_path / "b.h5") as bank:
        sweep(bank, [LWS], results=path, device="cpu")
        (before,) = finished(bank)
        clock = iter(range(1_700_000_000, 0, -3600))
        monkeypatch.setattr(time, "time", lambda: float(next(clock)))
        sweep(bank, [LWS], results=path, device="cpu", force=True)
        (after,) = finished(bank)
        assert after < before
        assert trained == ["l", "l"]
        specification = read_specification(
            only=["lws"],
            overrides=["lws:lr=0.1,0.2,0.3", "lws:epochs=1"],
            seeds=[0],
            search="optuna",
            search_settings={"trials": 3},
        )
        sampling = Sampling(trials=3, batch=1)
        space = specification.space(bank)
        search(bank, space, sampling, results=path, device="cpu", force=True)
    assert trained == ["l", "l", "l"]


def test_force_beside_another_forced_sweep(
    small: Problem, tmp_path: Path, trained: list[str]
) -> None:
    """Reference: a probe that another process trained anew meanwhile is not trained again."""
    path = tmp_path / "r.sqlite"
    with bare(small, tmp_path / "b.h5") as bank:
        sweep(bank, [LWS], results=path, device="cpu")
        with Store(path, create=True) as store:
            mine = KeptProbes(
                store, bank.fingerprint, stale=rows_of_probes(store, bank.fingerprint)
            )
            sweep(bank, [LWS], results=path, device="cpu", force=True)
            assert trained == ["l", "l"]
            sweep(bank, [LWS], results=path, device="cpu", force=True, probes=mine)
    assert trained == ["l", "l"]


def test_the_estimate_leaves_them_out(
    small: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: by hand; a large bank's probe takes its iterations, each half of a float64 one."""
    path = tmp_path / "r.sqlite"
    with bare(small, tmp_path / "b.h5") as bank:
        sweep(bank, [LWS], results=path, device="cpu")
        with Store(path) as store:
            kept = set(store.probes(bank.fingerprint))
        assert _probe_shares(bank, Probe("instance"), 3, kept) == [1.0] * 3
        assert _probe_shares(bank, Probe("instance"), 3, ()) == [1.0] * 4
        monkeypatch.setattr(descent, "LARGE", 1)
        monkeypatch.setattr(descent, "MOST", 50)
        assert _probe_shares(bank, Probe("instance"), 0, kept) == [50 / ITERATIONS / 2]


def test_those_of_folds_are_kept(tmp_path: Path, trained: list[str]) -> None:
    """Reference: three of a sweep on three folds, one of all rows for the winner; then none."""
    path, made = tmp_path / "r.sqlite", problem(val=0)
    with bare(made, tmp_path / "b.h5") as bank:
        sweep(bank, [LWS], results=path, device="cpu", folds=3, screen=True)
        assert trained == ["l"] * 4
        sweep(bank, [LWS, DISALIGN], results=path, device="cpu", folds=3, screen=True)
        assert trained == ["l"] * 4
        sweep(bank, [LWS], results=path, device="cpu", folds=2, screen=True)
        assert trained == ["l"] * 6


def test_a_damaged_one_is_trained_again(small: Problem, tmp_path: Path, trained: list[str]) -> None:
    """Reference: a warning of one line, the same probe, and a sound row in its place."""
    path = tmp_path / "r.sqlite"
    with bare(small, tmp_path / "b.h5") as bank:
        first = sweep(bank, [LWS], results=path, device="cpu")
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE probe SET classifier = zeroblob(length(classifier))")
        with pytest.warns(UserWarning, match="the row of probe .* is damaged.*trained again"):
            second = sweep(bank, [DISALIGN], results=path, device="cpu")
        sweep(bank, [Recipe("los", **SHORT)], results=path, device="cpu")
    assert trained == ["l", "l"]
    for got, expected in zip(*(each.probes.popitem()[1] for each in (second, first)), strict=True):
        assert torch.equal(got, expected)


def test_results_of_schema_5_get_the_table(
    small: Problem, tmp_path: Path, trained: list[str]
) -> None:
    """Reference: the runs before; a probe is trained once, as in a new file."""
    path = tmp_path / "r.sqlite"
    with bare(small, tmp_path / "b.h5") as bank:
        sweep(bank, [LWS], results=path, device="cpu")
        with closing(sqlite3.connect(path)) as database, database:
            for table in ("shard", "task", "worker", "probe"):
                database.execute(f"DROP TABLE {table}")
            database.execute("PRAGMA user_version = 5")
        with Store(path) as store:
            assert store.probes(bank.fingerprint) == {}
            assert len(store.runs(bank.fingerprint)) == 1
        sweep(bank, [LWS, DISALIGN], results=path, device="cpu")
        sweep(bank, [LWS, DISALIGN, Recipe("los", **SHORT)], results=path, device="cpu")
    assert trained == ["l", "l"]
