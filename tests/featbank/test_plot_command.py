"""``featbank plot``: a file for a paper, or one line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from featbank import write_bank
from featbank.characters import visible_lines
from stage2.methods.recipe import Recipe, expand
from stage2.plots import FORMATS, KINDS
from stage2.plots.beta import MOST
from stage2.sweep import sweep
from tests.conftest import Run
from tests.stage2.results.trajectories import moved, walk, write

COUNTS = (90, 30, 15, 4)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """``results.sqlite`` with more configurations that moved β than a plot takes."""
    path = tmp_path / "results.sqlite"
    beta = walk(COUNTS, epochs=5, seed=0)
    rates = [0.1 * place for place in range(1, MOST + 2)]
    recipes = [Recipe("crt", epochs=5, lr=lr) for lr in rates] + [Recipe("lws", epochs=5)]
    write(path, [moved(recipe, beta) for recipe in recipes], COUNTS)
    return path


def test_what_is_left_out_is_told(installed: Run, results: Path, tmp_path: Path) -> None:
    """A PDF of the four best, and one line that names the others."""
    done = installed("plot", "beta", "results.sqlite", "-o", "beta.pdf")
    assert done.stdout == "Wrote beta.pdf.\n"
    assert (tmp_path / "beta.pdf").read_bytes().startswith(b"%PDF-")
    assert re.fullmatch(
        r"featbank: 4 of 6 configurations are drawn, the best on val\. Left out: [\w-]+, [\w-]+\. "
        r"Choose with --recipe\.\n",
        done.stderr,
    ), done.stderr


def test_options(featbank: Run, results: Path, tmp_path: Path) -> None:
    """Recipe, bank and width reach the plot: one configuration, 3 inches (216 points) wide."""
    done = featbank(
        "plot", "beta", results, "--recipe", "lws", "--bank", "ab", "--width", "3", "-o", "b.svg"
    )
    assert (done.stdout, done.stderr) == ("Wrote b.svg.\n", "")
    svg = (tmp_path / "b.svg").read_text()
    assert 'width="216pt"' in svg
    assert "lws-" in svg
    assert "crt-" not in svg


def test_help_lists_the_kinds(featbank: Run) -> None:
    """The registries of stage 2, and lines that can be copied."""
    told = " ".join(featbank("plot", "--help").stdout.split())
    for name, kind in KINDS.items():
        assert f"{name} {kind.description}" in told
    assert "featbank plot groups results.sqlite -o groups.pdf" in told
    for form in FORMATS:
        assert f".{form}" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["beta", "results.sqlite", "--split", "val", "-o", "b.pdf"], "'beta' takes no split."),
        (["norms", "results.sqlite", "--by", "lr", "-o", "b.pdf"], "It is for: heatmap, setting."),
        (["betta", "results.sqlite", "-o", "b.pdf"], "Unknown plot 'betta'. Did you mean 'beta'?"),
        (["beta", "results.sqlite", "-o", "b.gif"], "b.gif does not end in the name of a plot's"),
        (["beta", "results.sqlite", "-o", "no/b.pdf"], "no is not a folder. Create it first."),
        (["beta", "gone.sqlite", "-o", "b.pdf"], "gone.sqlite: no such file."),
        (["beta", "none.sqlite", "-o", "b.pdf"], "No run in none.sqlite moved β. Sweep a recipe"),
        (["beta", "results.sqlite", "--bank", "ef", "-o", "b.pdf"], "ef matches 0 banks."),
        (["beta", "results.sqlite", "--recipe", "lsw", "-o", "b.pdf"], "Did you mean 'lws'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, results: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, a remedy, and no file that was not there before."""
    write(tmp_path / "none.sqlite", [moved(Recipe("ncm"), None)], COUNTS)
    before = sorted(p.name for p in tmp_path.iterdir())
    error = featbank("plot", *arguments, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


WILD = (
    "bell\x07 and \x1b]0;title\x07",
    "\u202egnp.exe\ufffe\u2066",
    "七面鳥 🦃",
    "spoonbill" * 40,
    "a stork of many words " * 20,
)


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``b.h5``, whose classes have names of anyone, and its ``r.sqlite``."""
    folder = tmp_path_factory.mktemp("wild")
    rng = np.random.default_rng(3)
    labels = {"train": np.repeat(np.arange(5), (40, 20, 10, 8, 5)), "test": np.arange(60) % 5}
    features = {
        split: {"instance": rng.normal(size=(len(y), 6)).astype(np.float32)}
        for split, y in labels.items()
    }
    write_bank(folder / "b.h5", features, labels, class_names=WILD)
    sweep(folder / "b.h5", expand({"crt": {"epochs": [1]}}), results=folder / "r.sqlite")
    return folder


@pytest.mark.parametrize("width", ["2", "7"])
@pytest.mark.parametrize("kind", ["classes", "norms", "confusion", "embed"])
def test_names_of_anyone_are_well_formed(
    kind: str, width: str, featbank: Run, wild: Path, tmp_path: Path
) -> None:
    """Reference: an XML parser, and what `visible` makes of the names; nothing is warned of."""
    command = ["embed", wild / "b.h5"] if kind == "embed" else ["plot", kind, wild / "r.sqlite"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        featbank(*command, "--width", width, "-o", "p.svg")
    texts = [each.text or "" for each in ElementTree.parse(tmp_path / "p.svg").iter()]
    drawn = "".join(texts)
    assert r"bell\x07" in drawn
    assert r"\u202egnp" in drawn
    assert "七面鳥 🦃" in drawn
    assert "spoonbillspoon" in drawn.replace(" ", "")
    assert drawn == visible_lines(drawn)


@pytest.mark.parametrize("form", ["png", "pdf"])
def test_a_font_that_lacks_characters_is_one_line(
    form: str, featbank: Run, wild: Path, tmp_path: Path
) -> None:
    """Reference: the four characters of `WILD` that matplotlib's own font does not have."""
    with pytest.warns(UserWarning, match="the font") as told:
        featbank("plot", "classes", wild / "r.sqlite", "-o", f"p.{form}")
    assert [str(each.message) for each in told] == [
        "the font lacks 4 characters of the names, shown as boxes. Write .svg, in which the viewer "
        "chooses the font."
    ]
    assert (tmp_path / f"p.{form}").stat().st_size > 1000


def test_the_page_turns_no_direction_of_writing(featbank: Run, wild: Path, tmp_path: Path) -> None:
    """Reference: every character of the page beside line ends and tabs is one that is seen."""
    featbank("report", wild / "r.sqlite", "-o", "r.html")
    page = (tmp_path / "r.html").read_text()
    assert r"\\u202egnp" in page
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x07\x1b\ufffe]", page)
