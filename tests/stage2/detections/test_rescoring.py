"""Detections from proposals and a head. Reference: a loop over images, classes and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from featbank.errors import ConfigError, DataError, Mismatch, NotFinite
from featbank.exchange.coco import Annotations
from stage2.detections import rescoring
from stage2.detections.categories import background_of, category_ids
from stage2.detections.proposals import Proposals, read_proposals
from stage2.detections.rescoring import Settings, rescore
from stage2.export.facts import HeadFacts

NAMES = ["ape", "bee", "cat", "background"]
CATEGORIES = np.array([7, 3, 5, -1])


class Head:
    """A linear head of four classes, the last one the background."""

    facts = HeadFacts(NAMES, ["instance"], 6, "ab" * 32, {}, 0, "last", {}, {}, "0.1.0")

    def __init__(self) -> None:
        self.weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def proposals_of(rows: int = 90, *, each: bool = False, seed: int = 0) -> Proposals:
    """Boxes of four images in any order; `each` has one for every class."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (rows, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (rows, 4, 2))], -1)
    arrays = {"class_boxes": boxes} if each else {}
    ids, scores = rng.integers(1, 5, rows), rng.random(rows)
    return Proposals(Path("p.npz"), ids, boxes[:, 1].copy(), scores, arrays)


def features_of(rows: int = 90) -> np.ndarray:
    """Features as they are stored."""
    return np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(sides.clip(0)))
    return common / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common)


def expected(proposals: Proposals, x: np.ndarray, settings: Settings) -> list[tuple[Any, ...]]:
    """Image, category, corners and score of each detection."""
    z = x.astype(np.float64) @ Head().weight.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    if settings.score_weight:
        assert proposals.scores is not None
        w = settings.score_weight
        p = p ** (1 - w) * proposals.scores[:, None] ** w
    found = []
    for image in sorted(set(proposals.image_ids.tolist())):
        kept: list[tuple[Any, ...]] = []
        for k in range(3):
            own = []
            for row in np.flatnonzero(proposals.image_ids == image):
                of_class = proposals.arrays.get("class_boxes")
                box = proposals.boxes[row] if of_class is None else of_class[row, k]
                if p[row, k] > settings.score_threshold:
                    own.append((p[row, k], box))
            own.sort(key=lambda pair: -pair[0])
            chosen: list[tuple[Any, ...]] = []
            for score, box in own:
                if all(iou(box, other) <= settings.overlap for _, other in chosen):
                    chosen.append((score, box))
            kept += [(image, CATEGORIES[k], box, score) for score, box in chosen]
        found += sorted(kept, key=lambda entry: -entry[-1])[: settings.most]
    return found


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    "settings", [Settings(), Settings(0.2, 0.3, 7), Settings(0.1, 0.9, 20, 0.5), Settings(0, 1)]
)
def test_a_loop(settings: Settings, each: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of any size."""
    monkeypatch.setattr(rescoring, "BLOCK_ROWS", 30)
    proposals, x = proposals_of(each=each), features_of()
    found = rescore(Head(), proposals, {"x": x}, CATEGORIES, settings=settings)  # type: ignore[arg-type]
    entries = [entry for image in found.entries for entry in image]
    reference = expected(proposals, x, settings)
    assert len(found) == len(reference) > 20
    for entry, (image, category, box, score) in zip(entries, reference, strict=True):
        assert (entry["image_id"], entry["category_id"]) == (image, category)
        assert entry["bbox"] == pytest.approx([*box[:2], *box[2:] - box[:2]])
        assert entry["score"] == pytest.approx(score, rel=1e-5)


def test_many_classes_do_not_round_boxes() -> None:
    """1,203 classes on a wide picture: suppression in float32 would move boxes by an eighth of a
    pixel. The overlap of two boxes of 10 pixels that are 1.7 apart is 8.3 / 11.7."""
    scores = torch.zeros(2, 1203, dtype=torch.float64)
    scores[:, 1202] = torch.tensor([0.9, 0.8])
    boxes = torch.tensor([[3000, 0, 3010, 10], [3001.7, 0, 3011.7, 10]], dtype=torch.float64)
    edge = 8.3 / 11.7
    for overlap, kept in ((edge - 1e-6, 1), (edge + 1e-6, 2)):
        found, _, _ = rescoring.choose(scores, boxes, Settings(overlap=overlap))
        assert len(found) == kept


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_few_of_many(most: int) -> None:
    """Far lower scores stand where all better ones are duplicates: as without a look at the best
    alone."""
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 90 + [[50.0, 0, 60, 10]] * 9 + [[80.0, 0, 90, 10]])
    scores = torch.linspace(0.9, 0.1, 100, dtype=torch.float64)[:, None]
    found, _, _ = rescoring.choose(scores, boxes.double(), Settings(most=most))
    assert found.tolist() == scores[[0, 90, 99], 0].tolist()[:most]


def test_what_is_left_out_is_a_line_each() -> None:
    """Boxes without area, scores that are NaN, images without annotations or without a proposal."""
    proposals, x = proposals_of(), features_of()
    assert proposals.scores is not None
    keep = np.ones(90, bool)
    proposals.boxes[3, 2] = proposals.boxes[3, 0]
    proposals.boxes[4, 3] = np.nan
    proposals.scores[7] = np.nan
    keep[[3, 4, 7]] = False
    keep &= proposals.image_ids != 4
    annotations = Annotations(Path("ann.json"), [{"id": i} for i in (1, 2, 3, 8, 9)], [], [])
    found = rescore(
        Head(),  # type: ignore[arg-type]
        proposals,
        {"x": x},
        CATEGORIES,
        settings=Settings(),
        annotations=annotations,
    )
    strange = int((proposals.image_ids == 4).sum())
    assert found.notes == [
        "2 boxes without area left out, first in row 3",
        "1 proposal with the score NaN left out, first in row 7",
        f"{strange} proposals of images that ann.json does not have left out, first of image 4",
        "2 of 5 images without a proposal: 8, 9",
    ]
    rest = Proposals(proposals.path, proposals.image_ids[keep], proposals.boxes[keep], None, {})
    alone = rescore(Head(), rest, {"x": x[keep]}, CATEGORIES, settings=Settings())  # type: ignore[arg-type]
    assert [*map(len, alone.entries)] == [*map(len, found.entries)]
    assert alone.entries == found.entries


def test_errors() -> None:
    """Each is one line with the remedy."""
    proposals, x = proposals_of(), features_of()

    def run(given: Proposals = proposals, features: np.ndarray = x, **settings: Any) -> None:
        rescore(Head(), given, {"x": features}, CATEGORIES, settings=Settings(**settings))  # type: ignore[arg-type]

    plain = Proposals(proposals.path, proposals.image_ids, proposals.boxes, None, {})
    with pytest.raises(ConfigError, match="no scores to weigh"):
        run(plain, score_weight=0.5)
    with pytest.raises(DataError, match="90 boxes for 89 rows"):
        run(features=x[:-1])
    with pytest.raises(ConfigError, match="D = 5"):
        run(features=x[:, :5])
    arrays = {"class_boxes": np.zeros((90, 9, 4))}
    wide = Proposals(proposals.path, proposals.image_ids, proposals.boxes, None, arrays)
    with pytest.raises(DataError, match=r"class_boxes \[90, 9, 4\], the head has 4 classes"):
        run(wide)
    with pytest.raises(DataError, match="No proposal of p.npz is left"):
        run(Proposals(proposals.path, proposals.image_ids, np.zeros((90, 4)), None, {}))
    x[50, 2] = np.inf
    with pytest.raises(NotFinite, match="Row 50 of the features"):
        run()


def test_settings_of_the_annotations() -> None:
    """LVIS' are of 300 detections above 0.0001; what is given goes before."""
    coco = Annotations(Path("a.json"), [{"id": 1}], [], [])
    lvis = Annotations(Path("a.json"), [{"id": 1, "neg_category_ids": []}], [], [])
    assert Settings.of(None) == Settings.of(coco) == Settings(0.05, 0.5, 100, 0.0)
    assert Settings.of(lvis, most=None, overlap=0.6) == Settings(1e-4, 0.6, 300, 0.0)


def test_the_background() -> None:
    """By its name in any form, as the head knows it, or as it is given."""
    for name in ("background", "__background__", "Back-ground"):
        assert background_of(["ape", name]) == 1
    assert background_of(NAMES, "bee") == 1
    assert background_of(NAMES, "2") == 2
    assert background_of(NAMES, None, 1) == 1
    assert background_of(NAMES, "2", 1) == 2
    for names, given, problem in (
        (["ape"], None, "no class named background"),
        (["background", "Background"], None, "several classes named background"),
        (NAMES, "4", "--background '4' is no class of the head, which has 4"),
    ):
        with pytest.raises(ConfigError, match=problem):
            background_of(names, given)


def test_categories(tmp_path: Path) -> None:
    """By name, in any order; by a list; one line where neither does."""
    named = [{"id": i, "name": n} for i, n in ((3, "bee"), (5, "Cat"), (7, "ape"), (8, "dog"))]
    annotations = Annotations(Path("ann.json"), [], [], named)
    assert category_ids(NAMES, 3, annotations).tolist() == CATEGORIES.tolist()
    ids = tmp_path / "ids.txt"
    ids.write_text("9\n4\n6\n")
    assert category_ids(NAMES, 0, annotations, ids).tolist() == [-1, 9, 4, 6]
    with pytest.raises(ConfigError, match="Nothing says which category"):
        category_ids(NAMES, 3, None)
    with pytest.raises(Mismatch, match=r"1 class of the head \('elk'\) are not among|is not among"):
        category_ids([*NAMES, "elk"], 3, annotations)
    with pytest.raises(Mismatch, match="have no names"):
        category_ids(["0", "1", "2"], 2, annotations)
    for text, problem in (("1\nx\n2", "the line 'x'"), ("1\n1\n2", "2 ids in 3 lines for 3")):
        ids.write_text(text)
        with pytest.raises(DataError, match=problem):
            category_ids(NAMES, 3, None, ids)


def test_files_of_proposals(tmp_path: Path) -> None:
    """npz, h5 and json give the same; the features stay behind until they are read."""
    made = proposals_of()
    assert made.scores is not None
    arrays = {"image_ids": made.image_ids, "boxes": made.boxes, "scores": made.scores}
    np.savez(tmp_path / "p.npz", **arrays, features=features_of())
    with h5py.File(tmp_path / "p.h5", "w") as file:
        for name, array in {**arrays, "features": features_of()}.items():
            file[name] = array
    sides = np.c_[made.boxes[:, :2], made.boxes[:, 2:] - made.boxes[:, :2]]
    given = zip(made.image_ids.tolist(), sides.tolist(), made.scores.tolist(), strict=True)
    entries = [{"image_id": i, "bbox": box, "score": s, "category_id": 1} for i, box, s in given]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    for name in ("p.npz", "p.h5", "p.json"):
        found = read_proposals(tmp_path / name)
        assert (found.image_ids == made.image_ids).all()
        assert found.boxes == pytest.approx(made.boxes)
        assert (found.scores == made.scores).all()
        if name != "p.json":
            assert found.arrays["features"].shape == (90, 6)


def test_other_files_of_proposals(tmp_path: Path) -> None:
    """One line with the remedy."""
    arrays: dict[str, np.ndarray] = {"image_ids": np.arange(3), "boxes": np.ones((3, 4))}
    for changed, problem in (
        ({"boxes": None}, "has no array boxes"),
        ({"boxes": np.ones((3, 5))}, r"boxes are \[3, 5\]"),
        ({"boxes": np.ones((2, 4))}, r"boxes are \[2, 4\] for 3 image_ids"),
        ({"scores": np.ones(2)}, r"scores are \[2\] for 3 image_ids"),
        ({"image_ids": np.array([0, 0.5, 1])}, "image_ids"),
    ):
        own = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
        np.savez(tmp_path / "p.npz", **own)
        with pytest.raises(DataError, match=problem):
            read_proposals(tmp_path / "p.npz")
    (tmp_path / "p.json").write_text('[{"image_id": 1}]')
    with pytest.raises(DataError, match="entry 0 of the list has no bbox"):
        read_proposals(tmp_path / "p.json")
