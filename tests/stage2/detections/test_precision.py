"""Average precision of detections. References: pycocotools as it comes, LVIS' own evaluator with
the name that NumPy removed, and figures computed by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.errors import ConfigError, DataError
from featbank.exchange.coco import Annotations, read_annotations
from stage2.detections import precision
from stage2.detections.precision import (
    average_precision,
    precision_table,
    read_detections,
    render_precision,
)
from tests.stage2.detections.scenes import scene

needs_pycocotools = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="needs featbank[detection]"
)


def annotations_of(document: dict[str, Any]) -> Annotations:
    """A document without a file."""
    lists = [document[name] for name in ("images", "annotations", "categories")]
    return Annotations(Path("ann.json"), *lists)


@needs_pycocotools
@pytest.mark.parametrize("seed", range(4))
def test_coco(seed: int, tmp_path: Path) -> None:
    """Reference: pycocotools with its own defaults, from files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    document, detections = scene(seed)
    (tmp_path / "ann.json").write_text(json.dumps(document))
    (tmp_path / "dt.json").write_text(json.dumps(detections))
    truth = COCO(str(tmp_path / "ann.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "dt.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    found = average_precision(
        read_annotations(tmp_path / "ann.json"), read_detections(tmp_path / "dt.json")
    )
    expected = 100 * evaluator.stats[:3]
    got = [found.metrics[name] for name in ("AP", "AP50", "AP75")]
    assert got == pytest.approx(expected, abs=1e-6)
    assert 5 < expected[0] < 95
    assert found.metrics["AP_r"] is None
    assert found.categories["c9"] is None
    assert "1 image of" in found.notes[0]


@needs_pycocotools
@pytest.mark.parametrize("seed", range(4))
def test_lvis(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: LVIS' evaluator, with ``numpy.float`` and without the pictures it would draw."""
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    monkeypatch.setattr(np, "float", float, raising=False)
    lvis = pytest.importorskip("lvis", reason="the reference is not installed")
    document, detections = scene(seed, federated=True)
    crowded = [{**detections[0], "bbox": [200, 200, 5 + i, 9], "score": 0.5} for i in range(310)]
    detections += crowded  # more than count in an image
    (tmp_path / "ann.json").write_text(json.dumps(document))
    (tmp_path / "dt.json").write_text(json.dumps(detections))
    evaluator = lvis.LVISEval(str(tmp_path / "ann.json"), str(tmp_path / "dt.json"), "bbox")
    evaluator.run()
    found = average_precision(annotations_of(document), detections)
    for name, value in found.metrics.items():
        expected = evaluator.results[name.replace("_", "")]
        assert value == pytest.approx(100 * expected, abs=1e-6), name
        assert 0 < expected < 1


def box(image: int, k: int, place: float, **more: Any) -> dict[str, Any]:
    """A square of 10 pixels."""
    return {"image_id": image, "category_id": k, "bbox": [place, 0, 10, 10], **more}


def lvis_document(**image: Any) -> dict[str, Any]:
    """Two objects of category 1, frequent, in image 1; category 2, rare, is absent from it. Image 2
    has one of category 2."""
    return {
        "images": [
            {"id": 1, "neg_category_ids": [2], "not_exhaustive_category_ids": [], **image},
            {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "annotations": [box(1, 1, 0), box(1, 1, 50), box(2, 2, 0)],
        "categories": [
            {"id": 1, "name": "cat", "frequency": "f"},
            {"id": 2, "name": "owl", "frequency": "r"},
        ],
    }


RIGHT_WRONG_RIGHT = [
    box(1, 1, 0, score=0.9),
    box(1, 1, 100, score=0.8),
    box(1, 1, 50, score=0.7),
    box(2, 2, 0, score=0.5),
]


@needs_pycocotools
def test_by_hand() -> None:
    """Recall is ½ at precision 1 and 1 at ⅔: 51 of 101 levels have 1, 50 have ⅔."""
    cat = 100 * (51 + 50 * 2 / 3) / 101
    found = average_precision(annotations_of(lvis_document()), RIGHT_WRONG_RIGHT)
    assert found.categories == pytest.approx({"cat": cat, "owl": 100})
    expected = {"AP": (cat + 100) / 2, "AP_r": 100, "AP_f": cat}
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)
    assert found.metrics["AP_c"] is None


@needs_pycocotools
@pytest.mark.parametrize(
    ("extra", "image", "owl", "cat"),
    [
        (box(1, 2, 0, score=0.9), {}, 50, None),  # listed as absent: wrong
        (box(1, 2, 0, score=0.9), {"neg_category_ids": []}, 100, None),  # not annotated
        (box(1, 1, 70, score=0.95), {"not_exhaustive_category_ids": [1]}, 100, 100),
    ],
)
def test_federated_by_hand(
    extra: dict[str, Any], image: dict[str, Any], owl: float, cat: float | None
) -> None:
    """A detection of an absent category is wrong, of one that was not looked at does not count, and
    without a match of one that is partly annotated does not count."""
    found = average_precision(annotations_of(lvis_document(**image)), [*RIGHT_WRONG_RIGHT, extra])
    assert found.categories["owl"] == pytest.approx(owl)
    if cat is not None:
        assert found.categories["cat"] == pytest.approx(cat)


@needs_pycocotools
def test_what_is_left_out_is_a_line_each() -> None:
    """And changes nothing; the number 0 of an annotation, which pycocotools takes for no match,
    counts."""
    document = lvis_document()
    plain = average_precision(annotations_of(document), RIGHT_WRONG_RIGHT)
    odd = [
        box(9, 1, 0, score=0.9),
        box(1, 9, 0, score=0.9),
        box(1, 1, 0, score=float("nan")),
        {**box(1, 1, 0, score=0.99), "bbox": [0, 0, 0, 10]},
    ]
    document["images"].append({"id": 3})
    document["annotations"][0]["id"] = 0
    found = average_precision(annotations_of(document), [*odd, *RIGHT_WRONG_RIGHT], "dt.json")
    assert found.metrics == plain.metrics
    assert found.notes == [
        "1 image of ann.json without a label: 3",
        "dt.json: 1 detection of images that ann.json does not have left out",
        "dt.json: 1 detection of categories that ann.json does not have left out",
        "dt.json: 1 detection with the score NaN left out",
        "dt.json: 1 detection without area left out",
    ]
    assert average_precision(annotations_of(document), []).metrics["AP"] == 0
    with pytest.raises(ConfigError, match="of no image of ann.json"):
        average_precision(annotations_of(document), odd[:1])


@needs_pycocotools
def test_boxes_without_area_in_coco() -> None:
    """As in pycocotools they count, and can only be wrong; so can those of the annotations."""
    document = lvis_document()
    for image in document["images"]:
        image.clear()
    document["images"][0]["id"], document["images"][1]["id"] = 1, 2
    document["annotations"].append({**box(1, 1, 0), "bbox": [3, 3, 0, 4]})
    odd = {**box(2, 2, 0, score=0.99), "bbox": [0, 0, 10, 0]}
    found = average_precision(annotations_of(document), [*RIGHT_WRONG_RIGHT, odd])
    assert found.categories["owl"] == pytest.approx(50)
    assert "1 box without area, which nothing can match" in found.notes[0]
    assert "1 detection without area, which can only be wrong" in found.notes[1]


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the remedy."""
    monkeypatch.setattr(precision, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'featbank\[detection\]'"):
        average_precision(annotations_of(lvis_document()), [])


def test_forms() -> None:
    """Tables leave out what no file has; json and csv have everything."""
    metrics = {"AP": 12.34, "AP50": 20.0, "AP75": 0.0, "AP_r": None, "AP_c": None, "AP_f": None}
    found = {"dt": precision.Precision(metrics, {"cat": 12.34, "owl": None})}
    table = precision_table(found, "title")
    assert table.header == ["detections", "AP", "AP50", "AP75"]
    assert table.lines == [["dt", "12.3", "20.0", "0.0"]]
    assert json.loads(render_precision(found, "json", ""))[0]["categories"]["owl"] is None
    assert render_precision(found, "csv", "").splitlines()[1] == "dt,12.34,20.0,0.0,,,"
    assert "| dt | 12.3 |" in render_precision(found, "md", "title")
    assert "dt & 12.3" in render_precision(found, "latex", "title")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not json"),
        ("{}", "lacks images, annotations, categories and is no file of annotations"),
        ("[]", "is no file of annotations"),
        ('{"images": 3, "annotations": [], "categories": []}', "images is not a list"),
        ('{"images": [3], "annotations": [], "categories": []}', "entry 0 of images is not an obj"),
        ('{"images": [{"id": "a"}], "annotations": [], "categories": []}', "has a wrong id"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "has no name"),
        (
            '{"images": [], "categories": [], "annotations": '
            '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3]}]}',
            "entry 0 of annotations has a wrong bbox",
        ),
    ],
)
def test_other_files_of_annotations(text: str, problem: str, tmp_path: Path) -> None:
    """One line with the remedy."""
    (tmp_path / "ann.json").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_annotations(tmp_path / "ann.json")


def test_other_files_of_detections(tmp_path: Path) -> None:
    """A missing file, and an entry without a score."""
    with pytest.raises(DataError, match="no such file"):
        read_detections(tmp_path / "dt.json")
    (tmp_path / "dt.json").write_text(json.dumps([box(1, 1, 0)]))
    with pytest.raises(DataError, match="entry 0 of the list has no score"):
        read_detections(tmp_path / "dt.json")
