"""``featbank compare``, ``cite`` and the filters of ``leaderboard``: tables, or one line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stage2.methods.recipe import Recipe, expand
from stage2.sweep import sweep
from tests.conftest import Run, Toy

RECIPES = [
    *expand({"crt": {"lr": [0.05, 0.2]}, "lws": {"lr": [0.05]}}, seeds=(0, 1)),
    Recipe("tau_norm"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes a small sweep, its bank beside the results."""
    return tmp_path_factory.mktemp("compared")


@pytest.fixture
def results(make_toy: Callable[..., Toy], made: Path, featbank: Run) -> Path:
    """Results of two cRT, one LWS and one τ-norm; made once."""
    path = made / "results.sqlite"
    if not path.exists():
        sweep(make_toy().write(made / "bank.h5"), RECIPES, results=path)
    return path


def test_a_pair(featbank: Run, results: Path) -> None:
    """The table names what was taken, its figures, each seed's test and the protocol."""
    told = featbank("compare", results, "crt", "lws", "--resamples", "200", "--classes", "3").stdout
    assert re.search(r"^A: crt-\w{8} \(.*best of 2 on val\)\. B: lws-\w{8} \(lr=0.05, its", told)
    for row in ("top-1", "macro", "many", "medium", "few"):
        assert re.search(rf"^ {row} +[\d.]+ +[\d.]+ +[+−][\d.]+ +\[[+−][\d.]+, ", told, re.M), row
    assert re.search(r"^ all +(\d\.\d+)", told, re.M)
    assert "200 bootstrap resamples of rows within classes, seed 0" in told
    data = json.loads(featbank("compare", results, "crt", "lws", "--format", "json").stdout)
    assert [test["seed"] for test in data["comparisons"][0]["seeds"]] == [0, 1]


def test_several_and_other_options(featbank: Run, results: Path) -> None:
    """Ids and their beginnings; a line for each; split and epoch in the protocol."""
    crt = Recipe("crt", lr=0.05).id
    told = featbank(
        "compare", results, crt, "tau", "lws", "--split", "val", "--epoch", "last",
        "--bank", results.with_name("bank.h5"), "--format", "csv",
    ).stdout  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(told)))
    assert {row["a"] for row in rows} == {crt}
    assert [row["measure"] for row in rows] == ["top1", "macro", "many", "medium", "few"] * 2
    table = featbank("compare", results, "--split", "val", "--epoch", "last").stdout
    assert "figures of val, which selected: optimistic" in table
    assert "Holm over 2 comparisons" in table
    assert featbank("compare", results, "--format", "latex").stdout.count(r"\begin{tabular}") == 1


def test_filters_of_the_leaderboard(featbank: Run, results: Path) -> None:
    """Condition, best of each and order work together, and the protocol tells of them."""
    words = ("leaderboard", results, "--where", "lr>0 and not head=lws", "--best-per", "head")
    told = featbank(*words, "--sort", "ece", "--format", "md").stdout
    assert "4 configurations tried" in told
    assert told.endswith(
        "· filtered: lr>0 and not head=lws (2 of 4) · best of each head · sorted by ece on test"
        " · \\*: ties with the best\n"
    )
    assert "| recipe | head | settings |" in told
    assert len(json.loads(featbank(*words, "--format", "json").stdout)) == 2


def test_cite(featbank: Run, results: Path) -> None:
    """A results file and a method together."""
    told = featbank("cite", results, "mislas").stdout
    assert re.findall(r"^@\w+\{(\w+),", told, re.M) == [
        "featbank", "kang2020decoupling", "zhong2021improving",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "gone.sqlite", "crt", "lws"], "gone.sqlite: no such file."),
        (["compare", "RESULTS", "1"], "'1' is the best itself, "),
        (["compare", "RESULTS", "1", "7"], "has no rank 7. Choose one from 1 to "),
        (["compare", "RESULTS", "crt", "lsw"], "Did you mean 'lws'?"),
        (["compare", "RESULTS", "crt", "lws", "--split", "train"], "has no results on 'train'."),
        (["compare", "RESULTS", "crt", "lws", "--bank", "ef"], "ef matches 0 banks."),
        (["compare", "RESULTS", "crt", "lws", "--bank", "RESULTS"], "results file, not a bank"),
        (["leaderboard", "RESULTS", "--where", "hed=lws"], "Did you mean 'head'?"),
        (["leaderboard", "RESULTS", "--where", "lr>7"], "None of 4 configurations meets 'lr>7'."),
        (["leaderboard", "RESULTS", "--where", "head="], "ends where a value is expected."),
        (["leaderboard", "RESULTS", "--best-per", "los"], "Did you mean 'loss'?"),
        (["leaderboard", "RESULTS", "--best", "--best-per", "loss"], "Give one of the two."),
        (["leaderboard", "RESULTS", "--sort", "top6"], "No metric is called 'top6'."),
        (["cite", "mislass"], "Did you mean 'mislas'?"),
        (["cite", "gone.sqlite"], "'gone.sqlite' is neither a results file nor a method."),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, results: Path, arguments: list[str], message: str
) -> None:
    """No traceback, and a remedy."""
    error = featbank(*(results if a == "RESULTS" else a for a in arguments), code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error


def test_help_has_an_example(featbank: Run) -> None:
    """A line that can be copied."""
    assert "featbank compare results.sqlite crt mislas" in featbank("compare", "--help").stdout
    assert "featbank cite results.sqlite > references.bib" in featbank("cite", "--help").stdout
    assert '--where "head=lws and lr<0.1"' in featbank("leaderboard", "--help").stdout
