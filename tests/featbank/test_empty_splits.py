"""Splits without rows: every command works with the splits that have some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from featbank import write_bank
from tests.conftest import Run


def write(path: Path, empty: str, full: str) -> None:
    """A bank of two splits to measure on, one of which is empty."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [30, 12, 6])
    x = (3 * np.eye(3)[y] + random.normal(size=(len(y), 3))).astype(np.float32)
    features = {"train": {"instance": x}, full: {"instance": x[::2]}, empty: {"instance": x[:0]}}
    labels = {"train": y, full: y[::2], empty: y[:0]}
    write_bank(path, features, labels)


@pytest.mark.parametrize(("empty", "full"), [("test", "val"), ("val", "test")])
def test_the_whole_road(featbank: Run, tmp_path: Path, empty: str, full: str) -> None:
    """Sweep, table, comparison, report, figures, head and predictions are of the other split."""
    write(tmp_path / "b.h5", empty, full)
    told = featbank(
        "sweep", "b.h5", "--recipe", "crt", "--recipe", "ncm", "--recipe", "tau_norm",
        "--set", "epochs=2", "--set", "batch_size=16", "--seeds", 0, "-o", "r.sqlite",
    ).stdout  # fmt: skip
    assert f"selected on {full}" in told
    rows = json.loads(featbank("leaderboard", "r.sqlite", "--format", "json").stdout)
    assert {row["split"] for row in rows} == {full}
    assert all(row["macro"] is not None for row in rows)
    assert f"compared on {full}" in featbank("compare", "r.sqlite", "crt", "ncm").stdout
    featbank("report", "r.sqlite", "-o", "r.html")
    for kind in ("groups", "reliability"):
        featbank("plot", kind, "r.sqlite", "-o", f"{kind}.svg")
    featbank("export", "r.sqlite", "ncm", "-o", "head.safetensors")
    featbank("predict", "head.safetensors", "b.h5", "--split", full, "-o", "p.csv")
    expected = (tmp_path / "p.csv").read_text()
    featbank("predict", "head.safetensors", "b.h5", "-o", "p.csv")
    assert (tmp_path / "p.csv").read_text() == expected
    error = featbank("leaderboard", "r.sqlite", "--split", empty, code=2).stderr
    assert f"has no results on '{empty}'. It has: {full}." in error
    error = featbank(
        "sweep", "b.h5", "--recipe", "ncm", "--select-on", empty, "-o", "q.sqlite", code=2
    ).stderr
    assert f"cannot select on '{empty}'. Choose from: {full}." in error
