"""Regions of torchvision's detectors, with random weights. Reference: the detector itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection.faster_rcnn import FasterRCNN

from featbank import Bank
from featbank.errors import ConfigError, DataError
from featbank.exchange.coco import read_annotations
from stage1.regions import MODELS, Detector, load_detector
from stage2.detections.proposals import read_proposals
from stage2.detections.rescoring import Settings, rescore
from stage2.export.facts import HeadFacts
from tests.conftest import Run

SMALL = {"min_size": 96, "max_size": 128, "rpn_post_nms_top_n_test": 40}
ON_CPU: dict[str, Any] = {"device": torch.device("cpu"), **SMALL}
MOBILE = "fasterrcnn_mobilenet_v3_large_320_fpn"


def made(name: str, labels: int) -> FasterRCNN:
    """A detector of random weights, whose features, scores and boxes differ from place to place."""
    torch.manual_seed(0)
    model = MODELS[name](weights=None, weights_backbone=None, num_classes=labels, **SMALL)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.backbone(torch.randn(4, 3, 96, 128))  # statistics of its norms
        model.eval()
        heads = model.roi_heads
        for layer in heads.box_head.modules():
            if isinstance(layer, nn.Linear):
                layer.weight *= 3
        heads.box_predictor.cls_score.weight.normal_(std=0.005)
        heads.box_predictor.bbox_pred.weight.normal_(std=0.002)
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, and annotations of three categories whose ids have gaps."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (90, 120, 3)), ("b.png", (100, 80, 3))):
        coarse = rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((10, 10, 1), np.uint8))).save(tmp_path / name)
    truth = [{"image_id": i, "category_id": 7, "bbox": [10, 10, 40, 40]} for i in (5, 3)]
    url = "http://images.cocodataset.org/" + str(tmp_path.name) + "/b.png"
    document = {
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 3, "coco_url": url}],
        "annotations": truth,
        "categories": [{"id": i, "name": n} for i, n in ((7, "bee"), (2, "ape"), (4, "cat"))],
    }
    (tmp_path / "ann.json").write_text(json.dumps(document))
    (tmp_path / tmp_path.name).mkdir()
    (tmp_path / "b.png").rename(tmp_path / tmp_path.name / "b.png")
    return tmp_path


class Linear:
    """A head of the classifier that a file of regions has."""

    def __init__(self, path: Path, names: list[str]) -> None:
        with h5py.File(path) as file:
            self.weight, self.bias = (torch.from_numpy(file[n][()]) for n in ("weight", "bias"))
        dim = self.weight.shape[1]
        self.facts = HeadFacts(names, ["instance"], dim, "", {}, 0, "last", {}, {}, "")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


@pytest.mark.parametrize("name", [MOBILE, "maskrcnn_resnet50_fpn_v2"])
def test_the_detector_itself(featbank: Run, photos: Path, name: str) -> None:
    """Its own classifier on the stored regions detects what the detector does."""
    model = made(name, 4)
    torch.save(model.state_dict(), "detector.pth")
    sizes = ("--min-size", 96, "--max-size", 128, "--proposals", 40)
    command = ("extract-regions", "detector.pth", "--model", name, "--annotations", "ann.json")
    said = featbank(*command, "--root", ".", *sizes, "--device", "cpu", "-o", "r.h5").stdout
    assert "of 2 images to r.h5" in said
    proposals = read_proposals(photos / "r.h5")
    found = rescore(
        Linear(photos / "r.h5", ["ape", "cat", "bee", "background"]),  # type: ignore[arg-type]
        proposals,
        {"features": proposals.arrays["features"]},
        np.array([2, 4, 7, -1]),
        settings=Settings(),
    )
    files = (photos / photos.name / "b.png", photos / "a.png")  # by ascending id
    for entries, file in zip(found.entries, files, strict=True):
        pixels = np.asarray(Image.open(file)).transpose(2, 0, 1) / np.float32(255)
        with torch.no_grad():
            (own,) = model([torch.from_numpy(pixels)])
        assert len(entries) == len(own["scores"]) > 3
        assert np.ptp(own["scores"].numpy()) > 0.05
        scores = [entry["score"] for entry in entries]
        assert scores == pytest.approx(own["scores"].tolist(), abs=1e-5)
        expected = [(2, 4, 7)[label - 1] for label in own["labels"].tolist()]
        assert [entry["category_id"] for entry in entries] == expected
        boxes = own["boxes"].numpy()
        boxes[:, 2:] -= boxes[:, :2]
        assert np.array([e["bbox"] for e in entries]) == pytest.approx(boxes, abs=1e-3)


def test_labels_that_are_ids(photos: Path) -> None:
    """A detector of more labels than categories has the ids as labels, as torchvision's of COCO."""
    model = made(MOBILE, 9)
    torch.save(model.state_dict(), photos / "detector.pth")
    truth = read_annotations(photos / "ann.json")
    detector = load_detector(MOBILE, photos / "detector.pth", truth, **ON_CPU)
    weight, bias = detector.classifier
    layer = model.roi_heads.box_predictor.cls_score
    assert torch.equal(weight, layer.weight[[2, 4, 7, 0]])
    assert torch.equal(bias, layer.bias[[2, 4, 7, 0]])
    assert detector.regions(torch.rand(3, 90, 120)).class_boxes.shape[1:] == (4, 4)


def test_the_road_to_a_bank(featbank: Run, photos: Path) -> None:
    """The file is one of `featbank import-regions`; its classifier agrees with the detector's."""
    torch.save(made(MOBILE, 4).state_dict(), "detector.pth")
    command = ("extract-regions", "detector.pth", "--model", MOBILE, "--annotations", "ann.json")
    rest = ("--root", ".", "--dtype", "float16", "--no-class-boxes", "--device", "cpu")
    featbank(*command, *rest, "-o", "r.h5")
    assert "class_boxes" not in read_proposals(photos / "r.h5").arrays
    classifier = ("--classifier", "r.h5:weight", "r.h5:bias")
    featbank("import-regions", "--train", "r.h5", "ann.json", *classifier, "-o", "bank.h5")
    with Bank("bank.h5") as bank:
        assert [*bank.class_names] == ["ape", "cat", "bee", "background"]
        assert bank.dtype == "float16"
        assert bank.seen("train").all()


def test_frozen_norms(photos: Path) -> None:
    """Weights of frozen norms lack counters of batches; their ε is an option."""
    state = made(MOBILE, 4).state_dict()
    state = {name: x for name, x in state.items() if "num_batches_tracked" not in name}
    torch.save(state, photos / "detector.pth")
    truth = read_annotations(photos / "ann.json")
    detector = load_detector(MOBILE, photos / "detector.pth", truth, norm_eps=0.5, **ON_CPU)
    assert isinstance(detector, Detector)
    norms = [m for m in detector.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.5}


def test_errors(photos: Path) -> None:
    """One line with the remedy."""
    truth = read_annotations(photos / "ann.json")
    file = photos / "detector.pth"
    torch.save(made(MOBILE, 4).state_dict(), file)
    with pytest.raises(ConfigError, match=f"is no detector. Did you mean '{MOBILE}'"):
        load_detector(MOBILE[:-1], file, truth, **ON_CPU)
    with pytest.raises(DataError, match="does not fit|lacks"):
        load_detector("fasterrcnn_resnet50_fpn", file, truth, **ON_CPU)
    torch.save(made(MOBILE, 3).state_dict(), file)
    with pytest.raises(ConfigError, match="has 3 labels with the background"):
        load_detector(MOBILE, file, truth, **ON_CPU)
    torch.save({"fc.weight": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="Give the weights of a detector of torchvision"):
        load_detector(MOBILE, file, truth, **ON_CPU)


def test_images_that_cannot_be_read(featbank: Run, photos: Path) -> None:
    """One line, and no file."""
    torch.save(made(MOBILE, 4).state_dict(), "detector.pth")
    command = ("extract-regions", "detector.pth", "--model", MOBILE, "--annotations", "ann.json")
    more = ("--min-size", 96, "--device", "cpu", "-o", "r.h5")
    error = featbank(*command, "--root", "nowhere", *more, code=2).stderr
    assert error.strip().endswith("nowhere/a.png: no such image. Check --root.")
    (photos / "a.png").write_bytes(b"no image")
    assert "a.png" in featbank(*command, "--root", ".", *more, code=2).stderr
    document = json.loads(Path("ann.json").read_text())
    document["images"][0].pop("file_name")
    Path("ann.json").write_text(json.dumps(document))
    assert "image 5 has no file_name" in featbank(*command, "--root", ".", *more, code=2).stderr
    assert not Path("r.h5").exists()
    assert "does not end in .h5" in featbank(*command, "--root", ".", "-o", "r.npz", code=2).stderr
