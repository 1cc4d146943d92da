"""Several banks on the command line: one table, one grid, one figure, or one line."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.stage2.results.several import write


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file of four banks (`tests.stage2.results.several`)."""
    return write(tmp_path_factory.mktemp("several"))


def test_one_table(featbank: Run, several: Path) -> None:
    """Every line has its bank; filters, the best of each, orders and --top work on each alone."""
    table = featbank("leaderboard", several, "--bank", "r32,ResNet-50", "--best", "--top", "1")
    lines = [line.split() for line in table.stdout.splitlines()]
    assert [line[0] for line in lines if "ncm" in line] == ["r32", "ResNet-50"]
    assert "The first 1 configuration of each bank." in table.stdout
    for part in ("[r32] bank ", "[ResNet-50] bank ", "[each bank] ", "best of each recipe"):
        assert table.stdout.count(part) == 1, part
    words = ("leaderboard", several, "--bank", "r50.h5,r32", "--where", "lr>0", "--sort", "ece")
    rows = list(csv.DictReader(io.StringIO(featbank(*words, "--format", "csv").stdout)))
    assert [row["bank"] for row in rows] == ["ResNet-50"] * 4 + ["r32"] * 4
    assert {row["name"] for row in rows} == {"crt"}


def test_one_bank_is_as_ever(featbank: Run, several: Path) -> None:
    """A single bank, however it is named, has no column of banks."""
    outputs = {
        featbank("leaderboard", several, "--bank", name, "--format", "csv").stdout
        for name in ("ResNet-50", "r50.h5")
    }
    (output,) = outputs
    assert output.startswith("id,recipe,name,parameters,")


def test_recipes_by_bank(featbank: Run, several: Path) -> None:
    """A line for each recipe, a column for each bank."""
    words = ("leaderboard", several, "--by", "bank", "--bank", "r32,steep")
    lines = featbank(*words, "--metric", "ece").stdout.splitlines()
    assert lines[1].split() == ["recipe", "r32", "steep", "Δ", "×"]
    assert {line.split()[0] for line in lines[3:6]} == {"crt", "tau_norm", "ncm"}
    assert any(line.startswith("ECE on test · Δ: minus r32 · ") for line in lines)
    data = json.loads(featbank(*words, "--format", "json").stdout)
    assert [*data[0]["banks"]] == ["r32", "steep"]


@pytest.mark.parametrize(
    ("columns", "header", "left_out"),
    [
        (80, "recipe r32 ResNet-50 Δ × steep Δ ×", ""),
        (66, "recipe r32 ResNet-50 × steep ×", "Δ"),
        (50, "recipe r32 ResNet-50 steep", "Δ, ×"),
    ],
)
def test_a_grid_in_a_narrow_terminal(
    featbank: Run,
    several: Path,
    columns: int,
    header: str,
    left_out: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reference: by hand: no line of the table is folded, and a line below says what it lacks."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    words = ("leaderboard", several, "--by", "bank", "--bank", "r32,ResNet-50,steep")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", featbank(*words).stdout)
    lines = shown.splitlines()
    assert lines[1].split() == header.split(), lines
    names = [line.split()[0] for line in lines[3:6]]
    assert sorted(names) == ["crt", "ncm", "tau_norm"]
    assert (f"Left out for want of room: {left_out}." in shown) == bool(left_out)


@pytest.mark.parametrize("banks", ["r32", "r32,ResNet-50"])
@pytest.mark.parametrize("columns", [72, 80, 160])
def test_more_columns_fold_no_figure(
    featbank: Run, several: Path, banks: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the figures in CSV; what has no room is left out whole, and named below."""
    words = ("leaderboard", several, "--bank", banks)
    rows = list(csv.DictReader(io.StringIO(featbank(*words, "--format", "csv").stdout)))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = featbank(*words, "--columns", "logit_magnitude,logit_deviation").stdout
    shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    for row in rows:
        line = next(each for each in shown.splitlines() if row["name"] in each.split())
        assert any(
            f"{float(other['logit_deviation']):.3f}" in line
            for other in rows
            if other["name"] == row["name"]
        ), line
    left_out = "Left out for want of room: ± over seeds" in shown
    assert left_out == (columns < 100)
    assert left_out != ("±" in next(each for each in shown.splitlines() if "crt" in each))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bank all", "r32 has 6 classes and four 4, so their figures cannot be compared"),
        ("--by bank", "r32 has 6 classes and four 4, so their figures cannot be compared"),
        ("--by bank --bank r32 --format csv", "--by bank puts banks side by side, got r32 alone."),
        ("--by bank --bank r32", "--by bank puts banks side by side, got r32 alone."),
        ("--bank r32,x", "x matches 0 banks. Choose one with --bank: "),
        ("--metric ece", "--metric is for --by bank."),
        ("--by bank --best --bank r32,steep", "Leave out --best."),
        ("--by bank --columns nll --bank r32,steep", "--by bank shows one --metric. Leave out"),
        ("--columns nll --format csv --bank r32", "csv has every metric. Leave out --columns."),
        ("--columns nnl --bank r32", "No metric is called 'nnl'. Did you mean 'nll'?"),
        ("--by recipe", "'recipe' is not 'bank'."),
        ("--bank r32,steep --split 5-fold", "has no results on '5-fold'. It has: val, test."),
    ],
)
def test_wrong_banks_are_one_line(featbank: Run, several: Path, words: str, message: str) -> None:
    """Reference: exit code 2, and one line with the fact and the remedy."""
    error = featbank("leaderboard", several, *words.split(), code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error


def test_compare(featbank: Run, several: Path) -> None:
    """Each name on each bank; the line below the tables says where there is no test."""
    words = ("compare", several, "crt", "--resamples", "100", "--bank")
    shown = featbank(*words, "r32,ResNet-50").stdout
    assert re.search(r"^A: crt-\w{8}@r32 \(.*\)\. B: crt-\w{8}@ResNet-50 \(", shown)
    assert "Rows that only one of the two classifies correctly" in shown
    shown = featbank(*words, "r32,steep").stdout
    assert "Rows that only one" not in shown
    assert "so no paired test, each resampled alone" in shown
    one = ("compare", several, "1", "--bank", "r32")
    assert "'1' is the best itself, " in featbank(*one, code=2).stderr
    error = featbank(*words, "r32,four", code=2).stderr
    assert "r32 has 6 classes and four 4" in error
    assert error.count("\n") == 1
