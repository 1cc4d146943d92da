"""``featbank best``: its choice against the leaderboard, its head, and one line where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.methods.recipe import Recipe, expand
from stage2.sweep import sweep
from tests.conftest import Run
from tests.stage2.synthetic import problem


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of crt, two post-hoc ones."""
    folder = tmp_path_factory.mktemp("best")
    with problem().bank(folder / "b.h5") as bank:
        recipes = expand({"crt": {"epochs": [2], "lr": [0.01, 0.1]}}, seeds=(0,))
        sweep(bank, [*recipes, Recipe("ncm"), Recipe("tau_norm")], results=folder / "r.sqlite")
    return folder / "r.sqlite"


def test_the_best_is_exported(featbank: Run, results: Path, tmp_path: Path) -> None:
    """Reference: the leaderboard on val: its first row, and the one with the lowest ECE."""
    rows = json.loads(featbank("leaderboard", results, "--split", "val", "--format", "json").stdout)
    ranking = {row["id"]: row for row in rows}  # the selected epoch stands after the last
    first = next(row["id"] for row in rows if row["rank"] == 1)
    shown = featbank("best", results).stdout
    assert ", chosen on val among 4 configurations, has " in shown
    assert shown.splitlines()[-1].startswith(f"Next: featbank export {results} {first} ")
    picked = json.loads(featbank("best", results, "--for", "ece", "--format", "json").stdout)
    assert picked["id"] in ranking
    lowest = min(row["ece"] for row in ranking.values())
    assert picked["selecting"]["ece"] == lowest
    head = tmp_path / "head.safetensors"
    done = featbank("best", results, "--for", "ece,top1>1", "-o", head).stdout
    assert "has the lowest ECE of 4 of 4 configurations with top1>1 on val." in done
    assert done.splitlines()[-1].startswith(f"Wrote {head}. Next: featbank predict")
    assert head.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--for", "top1>=101"), "None of 4 configurations meets 'top1>=101' on val. The nearest"),
        (("--for", "ecce"), "No metric is called 'ecce'."),
        (("-o", "head.pt"), "head.pt does not end in .safetensors."),
    ],
)
def test_what_fails_is_one_line(
    featbank: Run, results: Path, words: tuple[str, ...], message: str
) -> None:
    """Reference: exit code 2 and one line."""
    error = featbank("best", results, *words, code=2).stderr
    assert message in error
    assert error.count("\n") == 1
