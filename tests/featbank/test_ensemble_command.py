"""``featbank ensemble``: one more row in a results file, and every other command takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import write_bank
from stage2 import load_head
from tests.conftest import Run, Toy

SWEEP = ("sweep", "bank.h5", "--set", "epochs=3", "--set", "lr=0.05,0.2", "-o", "r.sqlite")
RECIPES = ("crt", "balanced_softmax", "tau_norm", "ncm")


@pytest.fixture
def swept(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """``bank.h5``, and ``r.sqlite`` with an ensemble."""
    make_toy().write(tmp_path / "bank.h5", class_names=["ape", "bee", "cat", "dog", "eel"])
    featbank(*SWEEP, *(word for name in RECIPES for word in ("--recipe", name)))
    return tmp_path


def rows_of(featbank: Run, *options: str) -> list[dict[str, Any]]:
    """The leaderboard."""
    return json.loads(featbank("leaderboard", "r.sqlite", "--format", "json", *options).stdout)


def test_it_prints_members_and_figures(featbank: Run, swept: Path) -> None:
    """Reference: the leaderboard of the same file; what is left out is named."""
    before = rows_of(featbank)
    printed = featbank("ensemble", "r.sqlite", "--members", "4").stdout
    after = rows_of(featbank)
    (row,) = [row for row in after if row["name"] == "ensemble"]
    assert [each for each in after if each is not row] == before
    assert row["parameters"]["pool"] == 4
    assert row["seeds"] == [0]
    assert row["tied"] is None
    best = next(each["recipe"] for each in after if each is not row)
    lines = [line.split() for line in printed.splitlines() if line.split()]
    figures = {first: rest for first, *rest in lines}
    (val,) = [r for r in rows_of(featbank, "--split", "val") if r["name"] == "ensemble"]
    assert val["macro"] == val["selection"] == row["selection"]
    shown = [val["macro"], val["nll_t"], row["macro"], row["top1"]]
    assert [float(cell) for cell in figures[row["recipe"]][:4]] == pytest.approx(shown, abs=0.051)
    assert best in figures
    members = re.findall(r"(\S+) seed \d ×(\d+) T=", row["parameters"]["heads"])
    total = sum(int(count) for _, count in members)
    for id_, count in members:
        weight = f"{100 * int(count) / total:.0f}"
        assert any(line[0] == id_ and line[-2] == weight for line in lines)
    assert "ensemble: made of these, neither counted nor corrected" in " ".join(printed.split())
    assert "Left out: ncm-" in printed
    assert "Next: featbank export r.sqlite ensemble -o head.safetensors" in printed


def test_every_command_takes_it(featbank: Run, swept: Path) -> None:
    """By name, among all, and as the head that the file says it is."""
    featbank("ensemble", "r.sqlite")
    (row,) = rows_of(featbank, "--where", "name=ensemble and members>0")
    assert [each["name"] for each in rows_of(featbank, "--best")].count("ensemble") == 1
    table = featbank("leaderboard", "r.sqlite", "--best-per", "recipe").stdout
    assert f"members={row['parameters']['members']} pool=" in table
    featbank("leaderboard", "r.sqlite", "--select-on", "test", "--sort", "ece")
    compared = json.loads(
        featbank("compare", "r.sqlite", "ensemble", "crt", "--format", "json").stdout
    )
    assert compared["comparisons"][0]["a"] == row["recipe"]
    assert len(compared["comparisons"][0]["seeds"]) == 3
    assert row["recipe"] in featbank("compare", "r.sqlite").stdout
    assert "ensemble of the sweep" in featbank("cite", "r.sqlite").stdout
    featbank("report", "r.sqlite", "-o", "report.html")
    assert row["recipe"] in Path("report.html").read_text(encoding="utf-8")
    for kind in ("groups", "reliability", "shift", "confusion"):
        featbank("plot", kind, "r.sqlite", "--recipe", "ensemble", "-o", f"{kind}.svg")
    done = featbank("export", "r.sqlite", "ensemble", "-o", "head.safetensors").stdout
    assert f"the {row['parameters']['members']} members of {row['recipe']} again" in done
    featbank("predict", "head.safetensors", "bank.h5", "-o", "p.npz")
    found = np.load("p.npz")
    top1 = 100 * (found["classes"] == found["labels"]).mean()
    assert top1 == pytest.approx(row["top1"])
    assert load_head("head.safetensors").facts.metrics["test"]["top1"] == row["top1"]


def test_a_later_sweep_leaves_it(featbank: Run, swept: Path) -> None:
    """More configurations in the file: the ensemble stays, and choosing again replaces it."""
    featbank("ensemble", "r.sqlite", "-o", "first.safetensors")
    first = load_head("first.safetensors").facts.recipe["id"]
    featbank("sweep", "bank.h5", "--recipe", "logit_adjust", "-o", "r.sqlite")
    assert [r["recipe"] for r in rows_of(featbank) if r["name"] == "ensemble"] == [first]
    featbank("ensemble", "r.sqlite", "--members", "2")
    assert [r["name"] for r in rows_of(featbank)].count("ensemble") == 1


def test_refusals(featbank: Run, swept: Path) -> None:
    """One line each: no file, no bank, another bank, a wrong ending."""
    cases = {
        ("none.sqlite",): "none.sqlite",
        ("r.sqlite", "-o", "head.pt"): "does not end in .safetensors",
        ("r.sqlite", "--members", "1"): "1 is not in the range",
        ("r.sqlite", "--features", "other.h5"): "has the fingerprint",
    }
    x, y = np.zeros((10, 3), np.float32), np.arange(10) % 2
    features = {split: {"instance": x} for split in ("train", "val", "test")}
    write_bank("other.h5", features, dict.fromkeys(features, y))
    for options, problem in cases.items():
        error = featbank("ensemble", *options, code=2).stderr
        assert problem in error
        assert error.count("\n") == 1
    assert not Path("none.sqlite").exists()
    error = featbank("export", "r.sqlite", "ensemble", "-o", "h.safetensors", code=2).stderr
    assert "r.sqlite has no ensemble. Choose one with `featbank ensemble`." in error
