"""``featbank embed``: a picture or a table, or one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run


def test_embed(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """Options reach the library: classes, split, view, cap and seed in the table and caption."""
    options = ["--split", "train", "--view", "balanced", "--per-class", "10", "--seed", "4"]
    done = featbank("embed", toy_bank, "--classes", "0,2", *options, "-o", "e.csv")
    assert (done.stdout, done.stderr) == ("Wrote e.csv.\n", "")
    lines = (tmp_path / "e.csv").read_text().splitlines()
    assert lines[0] == "row,class,name,group,x,y"
    assert [line.split(",")[1] for line in lines[1:]] == ["0"] * 10 + ["2"] * 10
    featbank("embed", toy_bank, *options, "--perplexity", "4", "--width", "3", "-o", "e.svg")
    svg = (tmp_path / "e.svg").read_text().replace("\u00a0", " ")
    assert 'width="216pt"' in svg
    for words in ("view balanced", "perplexity 4", "seed"):
        assert words in svg, words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "e.gif"], "e.gif does not end in the name of a plot's format. Choose .pdf, .png, "),
        (["-o", "no/e.pdf"], "no is not a folder. Create it first."),
        (["--classes", "many", "-o", "e.pdf"], "has no class 'many'"),
        (["--split", "dev", "-o", "e.pdf"], "dev"),
        (["--perplexity", "900", "-o", "e.pdf"], "below the 100 rows, got 900."),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, toy_bank: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, a remedy, no file."""
    error = featbank("embed", toy_bank, *arguments, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    assert not list(tmp_path.glob("e.*"))
