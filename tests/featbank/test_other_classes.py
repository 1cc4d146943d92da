"""``featbank predict`` and ``evaluate`` where the rows have other classes than the head."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, write_bank
from tests.conftest import Run, Toy

NAMES = ["ape", "bee", "cat", "dog", "eel"]


@pytest.fixture
def head(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """``h.safetensors``, trained on the five classes of ``bank.h5``."""
    make_toy().write(tmp_path / "bank.h5", class_names=NAMES)
    featbank("sweep", "bank.h5", "--recipe", "ncm")
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    featbank("predict", "h.safetensors", "bank.h5", "-o", "whole.npz")
    return tmp_path


def write_part(path: str, names: list[str], spelt: list[str] | None = None) -> np.ndarray:
    """The test rows of some classes of the bank as a bank with these classes in this order; the
    rows that they are."""
    with Bank("bank.h5") as bank:
        x, y = bank.load("test")
    rows = np.flatnonzero(np.isin(y, [NAMES.index(name) for name in names if name in NAMES]))
    places = {NAMES.index(name): j for j, name in enumerate(names) if name in NAMES}
    labels = np.array([places[k] for k in y[rows].tolist()])
    part = {"instance": x[rows]}
    write_bank(
        path, {"train": part, "test": part}, {"train": labels, "test": labels},
        class_names=spelt or names, sources={"test": "another"},
    )  # fmt: skip
    return rows


@pytest.mark.filterwarnings("ignore:the head was trained on bank")
def test_a_subset_in_another_order(featbank: Run, head: Path) -> None:
    """Reference: the same rows of the whole bank. Absent classes compete unless they are not to."""
    rows = write_part("part.h5", ["eel", "cat", "ape"], ["eel", "CAT ", "ape"])
    with pytest.warns(UserWarning, match="part.h5 lacks 2 classes") as warned:
        featbank("predict", "h.safetensors", "part.h5", "-o", "p.npz")
    assert str(warned[-1].message) == (
        "part.h5 lacks 2 classes ('bee', 'dog') of the head; part.h5 has its classes in another "
        "order, they are matched by name; taken for the same: 'CAT ' as 'cat'"
    )
    whole, part = np.load("whole.npz"), np.load("p.npz")
    for name in ("logits", "classes", "labels"):
        assert np.array_equal(part[name], whole[name][rows]), name
    with pytest.warns(UserWarning, match="part.h5 lacks 2 classes"):
        featbank("predict", "h.safetensors", "part.h5", "--restrict-classes", "-o", "r.npz")
    restricted = np.load("r.npz")
    assert restricted["class_names"].tolist() == ["ape", "cat", "eel"]
    assert np.array_equal(restricted["logits"], whole["logits"][rows][:, [0, 2, 4]])
    right = (restricted["classes"] == restricted["labels"]).mean()
    assert right >= (part["classes"] == part["labels"]).mean()
    for options, found in (((), part), (("--restrict-classes",), restricted)):
        with pytest.warns(UserWarning, match="part.h5 lacks 2 classes"):
            shown = featbank(
                "evaluate", "h.safetensors", "part.h5", "--prior", "uniform", *options,
                "--format", "json",
            )  # fmt: skip
        as_exported, _ = json.loads(shown.stdout)
        expected = 100 * (found["classes"] == found["labels"]).mean()
        assert as_exported["top1"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:the head was trained on bank")
def test_classes_that_the_head_does_not_know(featbank: Run, head: Path) -> None:
    """Their rows are left out of the figures, and told; in predictions they bear their own name."""
    rows = write_part("part.h5", ["eel", "bee", "ape"], ["eel", "fly", "ape"])
    with pytest.warns(UserWarning, match=r"does not know 1 class \('fly'\)"):
        done = featbank("predict", "h.safetensors", "part.h5", "-o", "p.csv")
    whole = np.load("whole.npz")
    y, classes = whole["labels"][rows], whole["classes"][rows]
    known = y != 1
    top1 = 100 * (classes == y)[known].mean()
    strict = 100 * ((classes == y) & known).mean()
    assert f"{strict:.1f} % of them right, {(~known).sum()} of classes that the head" in done.stdout
    labels = [row["label"] for row in csv.DictReader(Path("p.csv").read_text().splitlines())]
    assert labels == [NAMES[k] if k != 1 else "fly" for k in y]
    with pytest.warns(UserWarning, match=" ") as warned:
        shown = featbank("evaluate", "h.safetensors", "part.h5", "--format", "json")
    assert json.loads(shown.stdout)[0]["top1"] == pytest.approx(top1)
    assert str(warned[-1].message) == (
        f"{(~known).sum()} of {len(y)} rows are of classes that the head does not have and are "
        f"left out; counted as wrong, they make top-1 {strict:.1f} %"
    )


@pytest.mark.filterwarnings("ignore:the head was trained on bank")
def test_names_given_with_rows(featbank: Run, head: Path) -> None:
    """A bank whose classes are numbered, and labels of arrays as numbers and as texts."""
    rows = write_part("part.h5", ["eel", "ape"], ["0", "1"])
    error = featbank("evaluate", "h.safetensors", "part.h5", code=2).stderr
    assert "featbank: part.h5 has no names for its 2 classes, the head has 5 ('ape'," in error
    assert error.count("\n") == 1
    Path("names.txt").write_text("eel\nape\n")
    given = ("--class-names", "names.txt")
    with pytest.warns(UserWarning, match="part.h5 lacks 3 classes"):
        shown = featbank("evaluate", "h.safetensors", "part.h5", *given, "--format", "json").stdout
    with Bank("part.h5") as bank:
        x, y = bank.load("test")
    np.save("x.npy", x)
    np.save("numbers.npy", y)
    np.save("texts.npy", np.array(["eel", "ape"])[y])
    np.save("head.npy", np.load("whole.npz")["labels"][rows])
    for labels in (("numbers.npy", *given), ("texts.npy",), ("head.npy",)):
        with warnings.catch_warnings(record=True) as told:
            arrays = featbank(
                "evaluate", "h.safetensors", "x.npy", "--labels", *labels, "--format", "json"
            )
        assert arrays.stdout == shown, labels
        assert len(told) == (labels != ("head.npy",)), labels
    with pytest.warns(UserWarning, match="--class-names lacks 3"):
        featbank("predict", "h.safetensors", "x.npy", *given, "--restrict-classes", "-o", "p.npz")
    assert np.load("p.npz")["class_names"].tolist() == ["ape", "eel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x.npy", "--restrict-classes"], "--restrict-classes takes the classes of a"),
        (["predict", "x.npy", "--class-names", "strange.txt"], "No class of --class-names ('ox')"),
        (["predict", "bank.h5", "--class-names", "strange.txt"], "1 class name are given, bank.h5"),
        (["evaluate", "x.npy", "--labels", "texts.npy"], "No class of texts.npy ('ox') is one of"),
        (
            ["evaluate", "x.npy", "--labels", "texts.npy", "--class-names", "strange.txt"],
            "texts.npy holds names, which --class-names would number. Leave it out.",
        ),
        (["evaluate", "x.npy", "--labels", "high.npy"], "the head has the classes 0…4"),
        (["evaluate", "foreign.h5"], "No class of foreign.h5 ('ox', 'yak') is one of the head ("),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_names_are_one_line(
    featbank: Run, head: Path, arguments: list[str], message: str
) -> None:
    """The fact and the remedy."""
    np.save("x.npy", np.zeros((3, 8), np.float32))
    np.save("texts.npy", np.array(["ox", "ox", "ox"]))
    np.save("high.npy", np.array([0, 1, 5]))
    Path("strange.txt").write_text("ox\n")
    write_part("foreign.h5", ["ape", "bee"], ["ox", "yak"])
    command, features, *options = arguments
    output = ["-o", "p.npz"] if command == "predict" else []
    error = featbank(command, "h.safetensors", features, *options, *output, code=2).stderr
    assert message in error
    assert error.count("\n") == 1
