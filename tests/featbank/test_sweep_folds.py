"""``featbank sweep --folds``: plan, table, screen, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, Toy

SHORT = ("--recipe", "crt", "--recipe", "ncm", "--set", "crt:lr=0.1,0.4", "--set", "crt:epochs=2")


@pytest.fixture
def unseen(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """A folder with a bank without val, whose backbone saw none of its rows."""
    toy = make_toy((60, 30, 12, 5, 1), splits=("train", "test"))
    toy.write(tmp_path / "unseen.h5", classifier=None)
    toy.write(tmp_path / "seen.h5")
    return tmp_path


@pytest.mark.usefixtures("unseen")
def test_folds_rank_and_winners_are_measured_on_test(featbank: Run) -> None:
    """Reference: 3 configurations of 5 runs with two seeds, of which 3 are trained again."""
    plan = featbank("sweep", "unseen.h5", *SHORT, "--seeds", "0,1", "--folds", "5", "--dry-run")
    assert "each on 5 folds of train; then the best of each recipe on all rows" in plan.stdout
    assert "then the best of each recipe, on all rows: 3 runs" in plan.stdout
    command = ("sweep", "unseen.h5", *SHORT, "--seeds", "0,1", "--folds", "5", "-o", "r.sqlite")
    table = featbank(*command).stdout
    assert "selected on 5-fold (macro accuracy of held-out train rows; 1 class of one row" in table
    rows = json.loads(featbank("leaderboard", "r.sqlite", "--format", "json").stdout)
    assert all(row["selection"] is not None for row in rows)
    assert sum(row["macro"] is not None for row in rows) == 2
    assert "5 runs were in r.sqlite already" in featbank(*command).stdout
    shown = featbank("leaderboard", "r.sqlite", "--split", "5-fold").stdout
    assert "figures of 5-fold, which selected: optimistic" in shown
    left_out = next(row["recipe"] for row in rows if row["macro"] is None)
    refused = featbank("compare", "r.sqlite", left_out, "ncm", code=2)
    assert "was not measured on test. Compare on --split 5-fold" in refused.stderr
    refused = featbank("export", "r.sqlite", left_out, "-o", "h.safetensors", code=2)
    assert "was trained on folds alone" in refused.stderr
    featbank("export", "r.sqlite", "crt", "-o", "h.safetensors")


@pytest.mark.usefixtures("unseen")
def test_seen_rows_are_refused_or_screened(featbank: Run) -> None:
    """Reference: the sentences; no figure of the folds is in the table, JSON or a log."""
    refused = featbank("sweep", "seen.h5", *SHORT, "--folds", "5", code=2)
    assert "stage 1 has seen 108 of the 108 train rows" in refused.stderr
    table = featbank("sweep", "seen.h5", *SHORT, "--folds", "5", "--screen", "-o", "s.sqlite")
    assert "screened by 5-fold (order alone" in table.stdout
    rows = json.loads(featbank("leaderboard", "s.sqlite", "--format", "json").stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["selection"] for row in rows} == {None}
    shown = featbank("leaderboard", "s.sqlite", "--split", "5-fold", code=2)
    assert "no figure of theirs is shown" in shown.stderr


@pytest.mark.usefixtures("unseen")
def test_a_specification_names_folds(featbank: Run) -> None:
    """Reference: the option; wrong numbers and a search beside them are refused together."""
    text = 'bank = "unseen.h5"\nrecipes = ["ncm", "lda"]\nfolds = 4\noutput = "r.sqlite"\n'
    Path("s.toml").write_text(text)
    assert "selected on 4-fold" in featbank("sweep", "s.toml").stdout
    assert "selected on 3-fold" in featbank("sweep", "s.toml", "--folds", "3").stdout
    Path("s.toml").write_text(text.replace("4", "1"))
    wrong = featbank("sweep", "s.toml", code=2).stderr
    assert "s.toml:3: The 'folds' of the sweep must be an integer ≥ 2 and ≤ 100, got 1." in wrong
    Path("s.toml").write_text(text)
    both = featbank("sweep", "s.toml", "--search", "halving", code=2).stderr
    assert "Leave out one of the two." in both
    assert "is not val, test or folds such as 5-fold" in (
        featbank("leaderboard", "r.sqlite", "--select-on", "five", code=2).stderr
    )
