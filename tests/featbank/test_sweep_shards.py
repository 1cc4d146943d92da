"""``featbank sweep --shard``: a sweep in parts, merged, and what cannot be dealt."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.conftest import Run

GRID = (
    *("--recipe", "crt", "--recipe", "tau_norm", "--set", "crt:lr=0.1,0.2", "--set", "epochs=2"),
    *("--set", "tau=0,1", "--seeds", "0,1"),
)


def board(featbank: Run, results: str, *options: str) -> list[dict[str, object]]:
    """The leaderboard as JSON."""
    told = featbank("leaderboard", results, *options, "--format", "json")
    rows: list[dict[str, object]] = json.loads(told.stdout)
    return rows


@pytest.mark.usefixtures("toy_bank")
def test_shards_are_joined_by_the_command_that_they_print(featbank: Run, tmp_path: Path) -> None:
    """Reference: the table of one sweep; the sweep then finds every run in the results."""
    lines = []
    for number in (1, 2, 3):
        told = featbank("sweep", "toy.h5", *GRID, "--shard", f"{number}/3").stdout.splitlines()
        assert any(line.startswith(f"shard {number} of 3: ") for line in told)
        lines.append(told[-1])
        assert (tmp_path / f"results.shard-{number}-of-3.sqlite").exists()
    assert not (tmp_path / "results.sqlite").exists()
    command = shlex.split(lines[0].partition("When all 3 shards are there: ")[2])
    assert command == shlex.split(
        "featbank merge-results results.shard-*-of-3.sqlite -o results.sqlite"
    )
    inputs = sorted(tmp_path.glob(command[2]))
    assert "missing" not in featbank("merge-results", *inputs, *command[3:]).stdout
    featbank("sweep", "toy.h5", *GRID, "-o", "one.sqlite")
    assert board(featbank, "results.sqlite") == board(featbank, "one.sqlite")
    assert "6 runs were in results.sqlite already" in featbank("sweep", "toy.h5", *GRID).stdout


@pytest.mark.usefixtures("toy_bank")
def test_a_shard_of_folds_says_what_follows(featbank: Run) -> None:
    """Reference: the last line; no run on all rows yet."""
    grid = (*GRID, "--folds", "2", "--screen", "-o", "my folds.sqlite")
    told = featbank("sweep", "toy.h5", *grid, "--shard", "1/1").stdout.splitlines()[-1]
    assert "featbank merge-results 'my folds.shard-'*-of-1.sqlite -o 'my folds.sqlite'" in told
    assert told.endswith("without --shard trains the best of each recipe on all rows")
    featbank("merge-results", "my folds.shard-1-of-1.sqlite", "-o", "my folds.sqlite")
    assert "6 runs were in" in featbank("sweep", "toy.h5", *grid).stdout
    assert {row["split"] for row in board(featbank, "my folds.sqlite", "--split", "test")} == {
        "test"
    }


@pytest.mark.usefixtures("toy_bank")
def test_a_shard_without_a_group_ends_well(featbank: Run, tmp_path: Path) -> None:
    """Reference: one run in two shards, exit code 0, both files there."""
    for number in (1, 2):
        featbank("sweep", "toy.h5", "--recipe", "ncm", "--shard", f"{number}/2")
    files = sorted(tmp_path.glob("results.shard-*.sqlite"))
    featbank("merge-results", *files, "-o", "results.sqlite")
    assert len(board(featbank, "results.sqlite")) == 1


@pytest.mark.usefixtures("toy_bank")
def test_a_dry_run_shows_a_shard(featbank: Run, tmp_path: Path) -> None:
    """Reference: its runs and groups; nothing is written."""
    told = featbank("sweep", "toy.h5", *GRID, "--shard", "1/2", "--dry-run").stdout
    assert "shard 1 of 2: " in told
    assert "time: about" in told
    assert not list(tmp_path.glob("*.sqlite"))


@pytest.mark.usefixtures("toy_bank")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--shard", "9/8"), "9/8 is not one of 1/8"),
        (("--shard", "0/8"), "0/8 is not one of 1/8"),
        (("--shard", "two"), "no shard"),
        (("--shard", "1/2", "--search", "optuna"), "Optuna"),
    ],
)
def test_what_cannot_be_dealt(
    featbank: Run, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    """Reference: one line, exit code 2, and no file."""
    told = featbank("sweep", "toy.h5", *GRID, *options, code=2).stderr
    assert word in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.glob("*.sqlite"))
