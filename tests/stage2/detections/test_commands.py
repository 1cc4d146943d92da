"""``featbank predict --detections`` and ``featbank evaluate --detections``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run, Toy

NAMES = ["ape", "bee", "cat", "dog", "background"]


@pytest.fixture
def boxes(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """``head.safetensors``, and the rows of test as boxes of ten images with annotations: in
    ``p.npz``; in ``p.json`` and ``x.npy``; ``ann.json``."""
    toy = make_toy((12, 25, 60, 40, 120))
    toy.write(tmp_path / "bank.h5", class_names=NAMES)
    featbank("sweep", "bank.h5", "--recipe", "crt", "--set", "epochs=3", "--seeds", 0)
    featbank("export", "results.sqlite", "crt", "-o", "head.safetensors")
    x, y = toy.features["test"]["instance"], toy.labels["test"]
    images = np.arange(len(y)) % 10
    corners = np.c_[np.arange(len(y)) // 10 * 30, np.zeros(len(y))].astype(float)
    sides = np.c_[corners, corners + 20]
    np.savez("p.npz", image_ids=images, boxes=sides, features=x)
    np.save("x.npy", x)
    entries = [
        {"image_id": int(i), "bbox": [*map(float, c), 20.0, 20.0]}
        for i, c in zip(images, corners, strict=True)
    ]
    Path("p.json").write_text(json.dumps(entries))
    truth = [
        {**entry, "id": n + 1, "category_id": 10 - int(k)}
        for n, (entry, k) in enumerate(zip(entries, y, strict=True))
        if k < 4
    ]
    document = {
        "images": [{"id": i} for i in range(10)],
        "annotations": truth,
        "categories": [{"id": 10 - k, "name": NAMES[k]} for k in range(4)],
    }
    Path("ann.json").write_text(json.dumps(document))
    return tmp_path


def test_the_road(featbank: Run, boxes: Path) -> None:
    """From proposals to a table: boxes of a right class are right. An archive, and json with
    features beside it, give the same bytes."""
    command = ("predict", "head.safetensors")
    given = ("--annotations", "ann.json", "-o")
    said = featbank(*command, "--detections", "p.npz", *given, "dt.json").stdout
    assert "Scored 100 proposals of 10 images: " in said
    featbank(*command, "x.npy", "--detections", "p.json", *given, "same.json")
    assert Path("dt.json").read_bytes() == Path("same.json").read_bytes()
    found = json.loads(Path("dt.json").read_text())
    assert {entry["category_id"] for entry in found} == {7, 8, 9, 10}
    Path("ids.txt").write_text("10\n9\n8\n7\n")
    options = ("--category-ids", "ids.txt", "--background", "4", "--score-threshold", "0.3")
    featbank(*command, "--detections", "p.npz", *options, "--per-image", 5, "-o", "few.json")
    few = json.loads(Path("few.json").read_text())
    assert few == [entry for entry in found if entry in few]
    assert max(np.bincount([entry["image_id"] for entry in few])) == 5
    featbank("amend", "bank.h5", "--background", "bee", "-o", "b.h5")
    featbank("sweep", "b.h5", "--recipe", "ncm", "-o", "b.sqlite")
    featbank("export", "b.sqlite", "ncm", "-o", "b.safetensors")
    by_bank = ("predict", "b.safetensors", "--detections", "p.npz", "--category-ids", "ids.txt")
    featbank(*by_bank, "-o", "known.json")
    featbank(*by_bank, "--background", "bee", "-o", "given.json")
    featbank(*by_bank, "--background", "background", "-o", "other.json")
    known, same, other = (Path(f"{n}.json").read_bytes() for n in ("known", "given", "other"))
    assert known == same != other
    measure = ("evaluate", "--detections", "dt.json", "--annotations", "ann.json")
    if importlib.util.find_spec("pycocotools") is None:
        assert "featbank[detection]" in featbank(*measure, code=2).stderr
        return
    (row,) = json.loads(featbank(*measure, "--format", "json").stdout)
    assert 60 < row["AP"] == row["AP50"] <= 100
    shown = featbank(*measure, "--detections", "few.json").stdout.split()
    assert shown[:4] == ["detections", "AP", "AP50", "AP75"]
    assert "few" in shown


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("predict head.safetensors -o o.npz", "No FEATURES are given"),
        ("predict head.safetensors --detections p.json -o o.json", "Nothing says which category"),
        (
            "predict head.safetensors --detections p.json --annotations ann.json -o o.json",
            "p.json has no array features",
        ),
        ("predict head.safetensors --detections p.npz -o o.npz", "does not end in .json"),
        ("predict head.safetensors --detections p.npz -o no/o.json", "no is not a folder"),
        (
            "predict head.safetensors --detections p.npz --prior em -o o.json",
            "--prior is not for boxes",
        ),
        ("predict head.safetensors x.npy --nms 0.4 -o o.npz", "--nms is for boxes"),
        ("evaluate head.safetensors", "No FEATURES are given"),
        ("evaluate", "No HEAD is given"),
        ("evaluate --detections p.json", "go together"),
        (
            "evaluate head.safetensors --detections p.json --annotations ann.json",
            "HEAD is not for detections",
        ),
        ("evaluate --detections p.json --annotations ann.json", "has no category_id"),
    ],
)
def test_errors(featbank: Run, boxes: Path, words: str, problem: str) -> None:
    """One line with the remedy."""
    error = featbank(*words.split(), code=2).stderr
    assert problem in error
    assert len(error.splitlines()) == 1
