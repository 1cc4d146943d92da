"""Tables on real pseudo-terminals: no recipe, id or figure is folded, and what is lost is named."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from featbank import Bank
from featbank.cli.tables import folded
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from tests.conftest import Run
from tests.stage2.results.test_compare import FAIR, GOOD, POOR, everywhere, stored
from tests.stage2.synthetic import Problem, problem

WIDTHS = (80, 100, 120, 200)
LONG = "mislas-inaturalist-released"

FILTERS = (
    (),
    ("--best",),
    ("--best-per", "loss"),
    ("--sort", "ece"),
    ("--where", "name=ncm or name=tau_norm"),
    ("--columns", "brier,logit_deviation"),
)
NAMES = ((), ("ce", "2"), ("3",), ("--all",))
OTHERS = (
    ("best", "RESULTS"),
    ("best", "RESULTS", "--for", "ece"),
    ("methods",),
    ("methods", "crt"),
)

COMMANDS = (
    *(("leaderboard", "RESULTS", *options) for options in FILTERS),
    *(("compare", "RESULTS", *names) for names in NAMES),
    *OTHERS,
)

CHILD = """
import fcntl, json, struct, sys, termios
from featbank.cli import main
for width, words in json.loads(sys.argv[1]):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    print("COMMAND", flush=True)
    main.main(words, standalone_mode=False)
"""

Shown = Mapping[tuple[int, tuple[str, ...]], list[str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a recipe with a long name and many settings, two of ce, and post-hoc ones."""
    made, folder = problem(), tmp_path_factory.mktemp("narrow")
    long = {"weight_decay": 0.00123, "batch_size": 96, "delta_lr": 0.07, "lr": 0.0123}
    recipes = [
        *((Recipe(LONG, **long, seed=s), GOOD, s) for s in (0, 1)),
        *((Recipe("ce", seed=s), FAIR, 10 + s) for s in (0, 1)),
        *((Recipe("ce", lr=0.05, seed=s), POOR, 20 + s) for s in (0, 1)),
        (Recipe("tau_norm", tau=0.5), FAIR, 30),
        (Recipe("ncm"), POOR, 40),
    ]
    with made.bank(folder / "b.h5") as bank, Store(folder / "r.sqlite", create=True) as store:
        _store(store, bank, made, recipes)
    return folder / "r.sqlite"


def _store(
    store: Store, bank: Bank, made: Problem, recipes: list[tuple[Recipe, list[float], int]]
) -> None:
    store.add_bank(bank)
    runs = [stored(each, everywhere(made, right, s), made.y) for each, right, s in recipes]
    for run in runs:
        for evaluation in run["evaluations"].values():
            figures = dict.fromkeys(("many", "medium", "few", "ece", "nll_t"), 12.345)
            evaluation.metrics.update(figures)
    store.add_runs(bank.fingerprint, runs)


@pytest.fixture(scope="module")
def shown(results: Path) -> Shown:
    """The lines of each command at each width, without styles, by a process on a terminal."""
    runs = [(width, words) for width in WIDTHS for words in COMMANDS]
    paths = {"RESULTS": str(results)}
    listed = json.dumps([(w, [paths.get(word, word) for word in words]) for w, words in runs])
    outer, inner = pty.openpty()
    read = bytearray()
    reader = threading.Thread(target=_read_all, args=(outer, read))
    reader.start()
    command = [sys.executable, "-c", CHILD, listed]
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    environment |= {"TERM": "xterm"}
    ends = {"stdin": inner, "stdout": inner, "stderr": inner, "env": environment}
    done = subprocess.run(command, check=False, **ends)
    os.close(inner)
    reader.join()
    os.close(outer)
    text = re.sub(r"\x1b\[[0-9;]*m", "", read.decode().replace("\r", ""))
    assert done.returncode == 0, text
    outputs = [each.splitlines() for each in text.split("COMMAND\n")[1:]]
    return {  # the next command is one line, to be copied
        run: [line for line in lines if not line.startswith("Next: ")]
        for run, lines in zip(runs, outputs, strict=True)
    }


def _read_all(descriptor: int, read: bytearray) -> None:
    with contextlib.suppress(OSError):  # how a pseudo-terminal ends
        while data := os.read(descriptor, 1 << 16):
            read.extend(data)


def _lost(lines: list[str]) -> str:
    """What the lines say was left out."""
    text = " ".join(" ".join(lines).split())
    found = re.search(r"Left out for want of room: (.*?)\. A wider terminal", text)
    return found[1] if found else ""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("options", FILTERS)
def test_no_recipe_or_figure_is_folded(
    shown: Shown, results: Path, featbank: Run, width: int, options: tuple[str, ...]
) -> None:
    """Reference: the rows in CSV: the recipe and what ranks stand on one line at any width."""
    lines = shown[width, ("leaderboard", "RESULTS", *options)]
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    filters = () if "--columns" in options else options
    text = featbank("leaderboard", results, *filters, "--format", "csv").stdout
    for row in csv.DictReader(io.StringIO(text)):
        figure = f"{float(row['selection']):.1f}"
        found = [x for x in lines if x.split()[:2] == [row["rank"], row["name"]] and figure in x]
        assert found, (row["name"], lines)
        if "id" not in _lost(lines).split(", "):
            assert row["id"].endswith(found[0].split()[-1])
    if width == 200:
        assert not _lost(lines)
    assert ("±" not in "".join(lines[:5])) or "± over seeds" not in _lost(lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("names", NAMES)
def test_comparisons_fit(shown: Shown, results: Path, width: int, names: tuple[str, ...]) -> None:
    """Reference: the ids of the configurations; no line is longer than the terminal."""
    lines = shown[width, ("compare", "RESULTS", *names)]
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    if names == ("--all",):
        with Store(results) as store:
            ids = {run.id for fingerprint in store.banks() for run in store.runs(fingerprint)}
        best = {id_ for id_ in ids if not id_.startswith("ce-")}
        firsts = {line.split()[0] for line in lines if line.split()}
        assert best <= firsts, lines
        assert any("macro" in line.split() for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", OTHERS)
def test_sentences_break_between_words(shown: Shown, width: int, words: tuple[str, ...]) -> None:
    """Reference: by hand: no line is longer than the terminal, or ends within a figure."""
    lines = shown[width, words]
    assert all(len(line) <= width for line in lines), max(lines, key=len)
    assert "macro accuracy on test" in " ".join(" ".join(lines).split()) or words[-1] != "RESULTS"


def test_columns_are_lost_in_their_order(shown: Shown) -> None:
    """Reference: by hand: deviations first, then the last epoch; nothing in a file."""
    lost = [_lost(shown[width, ("leaderboard", "RESULTS")]) for width in (200, 120, 100, 80)]
    assert lost[0] == ""
    order = ["± over seeds", "top-1 last", "id", "val NLL,T", "medium", "many", "ECE", "few"]
    for each in lost[1:]:
        assert each.split(", ") == order[: len(each.split(", "))] or not each
    assert lost[-1]


def test_a_file_has_all(featbank: Run, results: Path) -> None:
    """Reference: by hand: lines of any length, with every column and setting."""
    lines = featbank("leaderboard", results).stdout.splitlines()
    (row,) = [
        line for line in lines if LONG in line and "weight_decay" in line and "chosen" not in line
    ]
    assert "weight_decay=0.00123" in row
    assert "±" in row
    assert "Left out" not in "".join(lines)


def test_words_fold_and_long_ones_break() -> None:
    """Reference: by hand; wide characters take two columns."""
    assert folded("lr=0.1 epochs=20", 9) == ["lr=0.1", "epochs=20"]
    assert folded("abcdefgh ij", 4) == ["abcd", "efgh", "ij"]
    assert folded("表表表", 4) == ["表表", "表"]
    assert folded("", 4) == [""]
