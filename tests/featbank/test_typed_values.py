"""Values as people type them, and files of another kind than a command takes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from featbank.file_kinds import KINDS
from stage2.specification.options import parse_seeds
from stage2.specification.problems import Problems
from tests.conftest import Run


@pytest.fixture
def swept(featbank: Run, toy_bank: Path) -> Run:
    """The command, beside a bank and its results."""
    recipes = ("--recipe", "ncm", "--recipe", "tau_norm", "--recipe", "crt")
    featbank("sweep", toy_bank, *recipes, "--set", "crt:epochs=2", "--seeds", "0", "-o", "r.sqlite")
    return featbank


def test_metrics_in_any_case(swept: Run) -> None:
    """Reference: the order of the name as it is spelt here."""
    boards = [
        json.loads(swept("leaderboard", "r.sqlite", "--sort", name, "--format", "json").stdout)
        for name in ("ece", "ECE", "Ece")
    ]
    assert boards[0] == boards[1] == boards[2]
    error = swept("leaderboard", "r.sqlite", "--sort", "accuracy", code=2).stderr
    assert "Did you mean 'macro'" in error


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ("top1>0.9 or seeds=1", "Write top1>90 for 90 %"),
        ("few>=0.2", "Write few>=20 for 20 %"),
        ("top1>9 and ece<100 or ece<0.5", ""),
        ("lr<0.5 or nll<0.5 or seeds=1", ""),
    ],
)
def test_shares_of_one_in_conditions(swept: Run, condition: str, hint: str) -> None:
    """Figures are in percent; settings and other units are left alone."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        swept("leaderboard", "r.sqlite", "--where", condition)
    texts = [str(each.message) for each in seen if "in percent" in str(each.message)]
    assert len(texts) == bool(hint)
    assert not hint or hint in texts[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set learning_rate=0.1", "Did you mean 'lr'?"),
        ("--set wd=0.1", "Did you mean 'weight_decay'?"),
        ("--set lr 0.1", "--set lr 0.1 has no equals sign. Write --set lr=0.1."),
        ("--set lr 0.1,1e-3", "Write --set lr=0.1,1e-3."),
        ("--seeds 2-0", "Write --seeds 0,1,2 or 0-2."),
        ("--seeds 0-9999999", "Write --seeds 0,1,2 or 0-2."),
    ],
)
def test_hints(featbank: Run, toy_bank: Path, arguments: str, message: str) -> None:
    """One line with what to write."""
    error = featbank("sweep", toy_bank, "--recipe", "crt", *arguments.split(), code=2).stderr
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0, 3-4", [0, 3, 4]), ("7", [7]), ("-1", [-1])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    """Reference: by hand."""
    assert parse_seeds(text, Problems("s.toml")) == seeds


def test_outputs_that_are_not_named(swept: Run, tmp_path: Path) -> None:
    """Named after the results, beside them."""
    assert "Wrote r.html" in swept("report", "r.sqlite").stdout
    assert "Wrote r-groups.pdf" in swept("plot", "groups", "r.sqlite").stdout
    assert {"r.html", "r-groups.pdf"} <= {path.name for path in tmp_path.iterdir()}


def test_files_of_another_kind(swept: Run, tmp_path: Path) -> None:
    """Every command that takes a bank, results or a head names the kind that it was given."""
    swept("export", "r.sqlite", "crt", "-o", "head.safetensors")
    np.save(tmp_path / "x.npy", np.zeros(3))
    files = {"bank": "toy.h5", "results": "r.sqlite", "head": "head.safetensors", "array": "x.npy"}
    takers = {
        "bank": ("info {}", "verify {}", "sweep {}", "split {} --val-from-test 1 -o s.h5"),
        "results": ("leaderboard {}", "compare {}", "report {}", "status {}", "plot groups {}"),
        "head": ("predict {} toy.h5 -o p.csv", "evaluate {} toy.h5"),
    }
    for wanted, commands in takers.items():
        for given, file in files.items():
            for command in commands if given != wanted else ():
                error = swept(*command.format(file).split(), code=2).stderr
                assert f"{file} is {KINDS[given].name}, not a" in error, error
                assert KINDS[given].takers in error
                assert error.count("\n") == 1
