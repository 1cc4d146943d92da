"""Labels of proposals, and banks of them. References: a loop over boxes, and cases by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank
from featbank.errors import DataError
from featbank.exchange.coco import Annotations
from stage2.detections.matching import Sampling, labelled_rows, matched, sample
from stage2.detections.proposals import Proposals
from tests.conftest import Run
from tests.stage2.detections.test_rescoring import iou


def test_a_loop() -> None:
    """The box of the largest overlap; below the bounds background or nothing."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (80, 2))
    boxes = np.c_[corner, corner + rng.uniform(10, 30, (80, 2))]
    truth, proposals = boxes[:9], boxes[9:]
    classes = rng.integers(0, 3, 9)
    sampling = Sampling(foreground_iou=0.5, background_iou=0.2)
    labels = matched(proposals, truth, classes, truth[:0], background=3, sampling=sampling)
    expected = []
    for box in proposals:
        overlaps = [iou(box, other) for other in truth]
        best = int(np.argmax(overlaps))
        low = 3 if overlaps[best] >= 0.2 else -1
        expected.append(classes[best] if overlaps[best] >= 0.5 else low)
    assert labels.tolist() == expected
    assert set(expected) == {-1, 0, 1, 2, 3}


def test_crowds_by_hand() -> None:
    """In a crowd by 0.7 a proposal is no background, but it may be of a class."""
    crowd = np.array([[0.0, 0, 100, 100]])
    boxes = np.array([[0.0, 0, 10, 10], [96, 0, 106, 10], [97, 0, 107, 10], [90, 90, 110, 110]])
    truth = np.array([[0.0, 0, 10, 9]])
    labels = matched(boxes, truth, np.array([1]), crowd, background=2, sampling=Sampling())
    assert labels.tolist() == [1, 2, 2, 2]
    inside = np.array([[0.0, 50, 10, 60], [93, 0, 103, 10], [92, 50, 102, 60]])
    labels = matched(inside, truth, np.array([1]), crowd, background=2, sampling=Sampling())
    assert labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("foreground", "background", "expected"),
    [(100, 100, (8, 24)), (3, 100, (3, 29)), (100, 5, (8, 5)), (0, 40, (0, 32))],
)
def test_one_to_three(foreground: int, background: int, expected: tuple[int, int]) -> None:
    """8 of 32 may be foreground; background fills up, foreground does not. Rows that are neither
    are never drawn; a seed gives the same rows of an image, another one others."""
    labels = np.repeat([0, 7, -1], [foreground, background, 50])
    sampling = Sampling(rows_per_image=32)
    rows = sample(labels, 7, sampling, 5)
    assert ((labels[rows] == 0).sum(), (labels[rows] == 7).sum()) == expected
    assert (np.diff(rows) > 0).all()
    assert (rows == sample(labels, 7, sampling, 5)).all()
    if background > 32:
        other = sample(labels, 7, Sampling(rows_per_image=32, seed=1), 5)
        assert not np.array_equal(rows, other)


def test_what_is_left_out_is_a_line_each() -> None:
    """Boxes without area, of proposals and of annotations; images without a label or a proposal."""
    sides = [[0, 0, 10, 10], [0, 0, 0, 10], [0, 0, 9, 10], [50, 50, 60, 60]]
    proposals = Proposals(
        Path("p.npz"), np.array([1, 1, 1, 2]), np.array(sides, np.float64), None, {}
    )
    entries = [(1, [0.0, 0, 10, 10]), (2, [0.0, 0, 0, 10]), (3, [0.0, 0, 10, 10])]
    annotations = Annotations(
        Path("ann.json"),
        [{"id": i} for i in (1, 2, 3)],
        [{"image_id": i, "category_id": 5, "bbox": box} for i, box in entries],
        [{"id": 5, "name": "ape"}],
    )
    rows, labels, notes = labelled_rows(proposals, annotations, {5: 0}, 1, Sampling())
    assert rows.tolist() == [0, 2]
    assert labels.tolist() == [0, 0]
    assert notes == [
        "1 box without area left out, first in row 1",
        "1 box of ann.json without area left out",
        "1 image of ann.json without a label left out: 2",
        "1 image without a proposal: 3",
    ]
    other = Proposals(Path("p.npz"), np.array([9] * 4), proposals.boxes, None, {})
    with pytest.raises(DataError, match="no proposal of an annotated image of ann.json"):
        labelled_rows(other, annotations, {5: 0}, 1, Sampling())


def write_split(split: str, names: dict[int, str], **category: Any) -> np.ndarray:
    """``SPLIT.npz`` and ``SPLIT.json`` with an object of each category in two images; the features
    number the proposals."""
    truth = [
        {"image_id": image, "category_id": k, "bbox": [30.0 * place, 0, 20, 20]}
        for image in (4, 2)
        for place, k in enumerate(names)
    ]
    document = {
        "images": [{"id": 2}, {"id": 4}],
        "annotations": truth,
        "categories": [{"id": k, "name": name, **category} for k, name in names.items()],
    }
    Path(f"{split}.json").write_text(json.dumps(document))
    boxes = np.array([entry["bbox"] for entry in truth])
    boxes = np.concatenate([boxes, boxes + np.array([0, 30, 0, 0])])
    boxes[:, 2:] += boxes[:, :2]
    x = np.arange(len(boxes) * 3, dtype=np.float16).reshape(-1, 3)
    images = np.array([entry["image_id"] for entry in truth] * 2)
    np.savez(f"{split}.npz", image_ids=images, boxes=boxes, features=x)
    np.save(f"{split}.npy", x)
    return x


def test_a_bank(featbank: Run) -> None:
    """Rows, labels and source groups by hand; classes by ascending id, the background last."""
    x = write_split("train", {9: "dog", 3: "ape"}, frequency="c")
    write_split("test", {1: "ape", 2: "dog"}, frequency="c")
    np.save("w.npy", np.ones((3, 3), np.float32))
    np.save("b.npy", np.zeros(3, np.float32))
    pairs = ("--train", "train.npz", "train.json", "--test", "test.npz", "test.json")
    said = featbank("import-regions", *pairs, "--classifier", "w.npy", "b.npy", "-o", "bank.h5")
    assert "train: 8 rows of 2 images, 4 of them background" in said.stdout
    with Bank("bank.h5") as bank:
        assert [*bank.class_names] == ["ape", "dog", "background"]
        assert bank.background == 2
        assert bank.class_groups.names == ("frequent", "common", "rare")
        assert bank.class_groups.member.tolist() == [1, 1, -1]
        features, labels = bank.load("train")
        order = [2, 3, 6, 7, 0, 1, 4, 5]  # image 2, then image 4
        assert (features == x[order]).all()
        assert bank.dtype == "float16"
        assert labels.tolist() == [1, 0, 2, 2] * 2
        assert bank.labels("test").tolist() == [0, 1, 2, 2] * 2
        groups = bank.source_groups("train")
        assert groups is not None
        assert groups.tolist() == [2] * 4 + [4] * 4
        assert bank.seen("train").all()
    few = ("--rows-per-image", 2, "--foreground-share", 0.5, "--seed", 3)
    featbank("import-regions", *pairs[:3], *few, "-o", "few.h5")
    with Bank("few.h5") as bank:
        assert bank.rows("train") == 4
        assert sorted(bank.labels("train").tolist())[2:] == [2, 2]
    boxes = np.load("train.npz")["boxes"]
    entries = [
        {"image_id": i, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, (x1, y1, x2, y2) in zip([4, 4, 2, 2] * 2, boxes.tolist(), strict=True)
    ]
    Path("train_p.json").write_text(json.dumps(entries))
    apart = ("--train", "train_p.json", "train.json", "--features", "train", "train.npy")
    featbank("import-regions", *apart, *pairs[3:], "--classifier", "w.npy", "b.npy", "-o", "p.h5")
    with Bank("p.h5") as one, Bank("bank.h5") as other:
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--train train.npz train.json --background-iou 0.5", "is not below --foreground-iou"),
        ("--train train.npz train.json --features val x.npy", "no such split is given"),
        ("--train train.npz train.json --test other.npz other.json", "2 categories that train"),
        ("--train plain.npz train.json", "plain.npz has no array features"),
        ("--train train.npz train.json --features train few.npy", "are [3, 3] for 8 boxes"),
        ("--train train.npz strange.json", "has boxes of category 7, which is not among"),
        ("--train flat.npz train.json", "No box of flat.npz has an area. Give x1 < x2"),
        ("--train train.npz nan.json", "entry 0 of annotations has a wrong bbox"),
        ("--train train.npz twice.json", "several categories named 'ape'"),
    ],
)
def test_errors(featbank: Run, words: str, problem: str) -> None:
    """One line with the remedy."""
    x = write_split("train", {1: "ape", 2: "dog"})
    write_split("other", {1: "elk", 2: "fox"})
    np.save("few.npy", x[:3])
    arrays = dict(np.load("train.npz"))
    np.savez("plain.npz", image_ids=arrays["image_ids"], boxes=arrays["boxes"])
    document = json.loads(Path("train.json").read_text())
    np.savez("flat.npz", **{**arrays, "boxes": arrays["boxes"] * 0})
    bbox = document["annotations"][0]["bbox"]
    document["annotations"][0]["bbox"] = [float("nan"), *bbox[1:]]
    Path("nan.json").write_text(json.dumps(document))
    document["annotations"][0]["bbox"] = bbox
    document["annotations"][0]["category_id"] = 7
    Path("strange.json").write_text(json.dumps(document))
    document["categories"][1]["name"] = "ape"
    Path("twice.json").write_text(json.dumps(document))
    error = featbank("import-regions", *words.split(), "-o", "bank.h5", code=2).stderr
    assert problem in error
    assert len(error.splitlines()) == 1
    assert not Path("bank.h5").exists()
