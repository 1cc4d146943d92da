"""Whole maps of a bank, classified by an exported head and measured at their labels' resolution."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from featbank import Bank, errors, write_bank
from featbank.bank.class_names import match_classes
from featbank.bank.maps import MapArrays
from stage2.export.facts import HeadFacts
from stage2.export.forms import Affine, HeadModule
from stage2.export.headfile import load_head, save_head
from stage2.export.headprior import HeadPrior
from stage2.export.map_figures import figures_of
from stage2.export.maps import MapClassifier, largest
from tests.conftest import SHARED, Run

NAMES = ["road", "tree", "car", "sign"]
SIZES = [(24, 30, 8, 10), (16, 9, 4, 5), (7, 7, 7, 7)]
"""H, W, h and w: labels three times as fine, of no whole ratio, and on the same grid."""
MRI = SHARED / "data/mri-aal-dense-squeezenet.npz"
IDS = np.array([7, 21, 8, 300])


def make_bank(path: Path, names: list[str] = NAMES, **changed: Any) -> Path:
    """A bank with maps of test; `sign` is in none of them, and some pixels are ignored."""
    rng = np.random.default_rng(0)
    classes = len(names)
    labels = [rng.integers(-1, classes - 1, size[:2]) for size in SIZES]
    x = [rng.normal(size=(*size[2:], 3)) for size in SIZES]
    rows = np.repeat(np.arange(classes), [200, 90, 30, 5][:classes])
    maps = {"test": MapArrays(np.array([4, 9, 12]), labels, {"instance": x})}
    features = {"train": {"instance": rng.normal(size=(len(rows), 3))}}
    options = {"class_names": names, "maps": maps, "map_ids": IDS[:classes], **changed}
    write_bank(path, features, {"train": rows}, overwrite=True, **options)
    return path


def make_head(path: Path, bank: Path, **facts: Any) -> Path:
    """A linear head of random weights for the bank."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(NAMES), 3, generator=generator)
    empty = torch.zeros(len(NAMES), dtype=torch.bool)
    tensors = {"weight": weight, "bias": torch.zeros(len(NAMES)), "empty": empty}
    with Bank(bank) as opened:
        told = HeadFacts(
            class_names=NAMES,
            views=["instance"],
            dim=3,
            bank=opened.fingerprint,
            recipe={"id": "ce-1", "name": "ce", "settings": {}},
            seed=0,
            epoch="last",
            metrics={},
            groups={},
            version="0",
        )
    save_head(path, HeadModule(Affine(tensors, {"parts": 0})), replace(told, **facts))
    return path


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank with maps."""
    return make_bank(tmp_path / "bank.h5")


@pytest.fixture
def head(bank: Path, tmp_path: Path) -> Path:
    """A head for it."""
    return make_head(tmp_path / "head.safetensors", bank)


def predicted(head: Path, bank: Path, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and predictions of a map, as PyTorch makes them of the whole map at once."""
    with Bank(bank) as opened, torch.no_grad():
        maps = opened.maps("test")
        x = torch.from_numpy(maps.features(m)).float().permute(2, 0, 1)[None]
        y = maps.labels(m)
        z = interpolate(load_head(head)(x), y.shape, mode="bilinear", align_corners=False)
        return y, z[0].argmax(0).numpy()


def test_predictions_are_those_of_upsampled_logits(head: Path, bank: Path) -> None:
    """Reference: `load_head` on [1, D, h, w], and PyTorch's bilinear upsampling of all classes."""
    with Bank(bank) as opened:
        for m, each in enumerate(MapClassifier(load_head(head), opened)):
            truth, classes = predicted(head, bank, m)
            np.testing.assert_array_equal(each.truth, truth)
            np.testing.assert_array_equal(each.predicted, classes)


def test_classes_are_upsampled_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: all at once; the first of equal logits wins."""
    z = torch.randn(11, 5, 6)
    z[7] = z[2]
    expected = largest(z, (13, 17))
    monkeypatch.setattr("stage2.export.maps.BLOCK_BYTES", 4 * 13 * 17 * 3)
    np.testing.assert_array_equal(largest(z, (13, 17)), expected)


def by_a_loop(truth: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """mIoU, mean accuracy and pixel accuracy in percent, class by class."""
    ious, accuracies = [], []
    truth, classes = truth[truth >= 0], classes[truth >= 0]
    for k in range(len(NAMES)):
        mine, said = truth == k, classes == k
        if (mine | said).any():
            ious.append((mine & said).sum() / (mine | said).sum())
        if mine.any():
            accuracies.append((mine & said).sum() / mine.sum())
    figures = {"miou": ious, "mean_accuracy": accuracies, "pixel_accuracy": truth == classes}
    return {name: 100 * float(np.mean(values)) for name, values in figures.items()}


def test_figures_agree_with_a_loop_and_torchmetrics(head: Path, bank: Path, featbank: Run) -> None:
    """Of the command's JSON; `sign` is predicted and nowhere, so its IoU is 0 and it has no
    accuracy."""
    (row,) = json.loads(featbank("evaluate", head, bank, "--format", "json").stdout)
    pairs = [predicted(head, bank, m) for m in range(len(SIZES))]
    truth, classes = (
        np.concatenate([each.ravel() for each in side]) for side in zip(*pairs, strict=True)
    )
    for name, value in by_a_loop(truth, classes).items():
        assert row[name] == pytest.approx(value, rel=1e-12), name
    sign = row["classes"][3]
    assert (sign["pixels"], sign["iou"], sign["accuracy"]) == (0, 0, None)
    metrics = pytest.importorskip("torchmetrics").classification
    y, p = torch.from_numpy(truth), torch.from_numpy(classes)
    options = {"num_classes": len(NAMES), "ignore_index": -1}
    for name, metric in {
        "miou": metrics.MulticlassJaccardIndex(average="macro", **options),
        "pixel_accuracy": metrics.MulticlassAccuracy(average="micro", **options),
    }.items():
        assert row[name] == pytest.approx(100 * float(metric(p, y)), rel=1e-6), name
    by_class = metrics.MulticlassJaccardIndex(average="none", **options)(p, y)
    ious = [each["iou"] for each in row["classes"]]
    np.testing.assert_allclose(ious, 100 * by_class.numpy(), rtol=1e-6)
    groups = {"miou_many": ious[:1], "miou_medium": ious[1:3], "miou_few": ious[3:]}
    for name, values in groups.items():
        assert row[name] == pytest.approx(np.mean(values)), name


def test_the_table_and_the_rows(head: Path, bank: Path, featbank: Run) -> None:
    """A bank's groups are shown; there are no rows to measure in place of maps."""
    table = featbank("evaluate", head, bank).stdout
    assert "mIoU" in table
    assert "ce-1 on 3 whole maps of test" in table
    assert "has no rows of test" in featbank("evaluate", head, bank, "--rows", code=2).stderr
    csv = featbank("evaluate", head, bank, "--format", "csv").stdout.splitlines()
    assert csv[0].startswith("prior,miou,miou_many,")


def test_classes_are_matched_by_name(head: Path, tmp_path: Path, featbank: Run) -> None:
    """Reference: the same maps under the head's own numbers; a class that the head does not have
    is in no figure."""
    with Bank(make_bank(tmp_path / "bank.h5")) as opened:
        expected = figures_of(
            MapClassifier(load_head(head), opened), match_classes(NAMES, NAMES, "it"), None
        )
    names = ["road", "bush", "car", "sign"]
    other = make_bank(tmp_path / "other.h5", names)
    pixels = expected.confusion.sum(1)
    with pytest.warns(UserWarning, match=f"{pixels[1]} pixels are of classes that the head does"):
        (row,) = json.loads(featbank("evaluate", head, other, "--format", "json").stdout)
    assert [each["pixels"] for each in row["classes"]] == [pixels[0], 0, *pixels[2:]]
    kept = featbank("evaluate", head, other, "--restrict-classes", "--format", "json").stdout
    (row,) = json.loads(kept)
    assert row["classes"][1]["iou"] is None  # never predicted


def test_a_prior_moves_the_logits(bank: Path, tmp_path: Path, featbank: Run) -> None:
    """Reference: the logits plus log π_t − log π_s; no prior is estimated from maps."""
    source = [0.4, 0.3, 0.2, 0.1]
    prior = HeadPrior(source, [], [9] * 4, [5] * 4, True, [0.0] * 4, torch.eye(4))
    head = make_head(tmp_path / "head.safetensors", bank, prior=prior)
    with Bank(bank) as opened:
        plain = MapClassifier(load_head(head), opened)
        moved = MapClassifier(load_head(head), opened, prior="1,2,3,4")
        shift = np.log(np.array([0.1, 0.2, 0.3, 0.4]) / source)
        expected = plain.logits(0) + torch.from_numpy(shift)[:, None, None]
        torch.testing.assert_close(moved.logits(0).double(), expected)
    rows = json.loads(
        featbank("evaluate", head, bank, "--prior", "uniform", "--format", "json").stdout
    )
    assert [row["prior"] for row in rows] == ["as exported", "uniform"]
    error = featbank("evaluate", head, bank, "--prior", "em", code=2).stderr
    assert "A prior is not estimated from whole maps, and em would." in error


def test_label_maps(head: Path, bank: Path, tmp_path: Path, featbank: Run) -> None:
    """PNG by source group, with the numbers that the labels had: 16 bits where one needs them."""
    done = featbank("predict", head, bank, "--maps", "predicted")
    assert "Classified 3 maps of test." in done.stdout
    paths = sorted((tmp_path / "predicted").iterdir())
    assert [path.name for path in paths] == ["04.png", "09.png", "12.png"]
    for m, path in enumerate(paths):
        stored = np.array(Image.open(path))
        np.testing.assert_array_equal(stored, IDS[predicted(head, bank, m)[1]])
    small = make_bank(tmp_path / "small.h5", map_ids=np.arange(4))
    featbank("predict", head, small, "--maps", "small")
    assert Image.open(tmp_path / "small" / "04.png").mode == "L"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "Give -o predictions.npz or --maps FOLDER, one of the two."),
        (["predict", "--maps", "m", "-o", "p.npz"], "one of the two"),
        (["predict", "--maps", "bank.h5"], "bank.h5 is a file."),
        (["predict", "--maps", "m", "--split", "val"], "has no whole maps of val."),
        (["predict", "--maps", "m", "--view", "other"], "has no view 'other'"),
        (["predict", "--maps", "m", "--prior", "em"], "not estimated from whole maps"),
        (["evaluate", "--view", "other"], "has no view 'other'"),
        (["evaluate", "--prior", "em", "--prior-output", "p.csv"], "is not for whole maps."),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, head: Path, bank: Path, featbank: Run
) -> None:
    """One line each, and exit 2."""
    command, *options = arguments
    error = featbank(command, head, "bank.h5", *options, code=2).stderr
    assert message in error
    assert error.count("\n") == 1


def test_maps_take_a_bank_and_its_classes(head: Path, tmp_path: Path, featbank: Run) -> None:
    """Arrays have no maps; a class without a number can be left out."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    assert (
        "Whole maps are those of a bank."
        in featbank("predict", head, "x.npy", "--maps", "m", code=2).stderr
    )
    few = make_bank(tmp_path / "few.h5", ["road", "tree", "car"])
    error = featbank("predict", head, few, "--maps", "m", code=2).stderr
    assert "has no number for sign of the head. Give --restrict-classes." in error
    featbank("predict", head, few, "--maps", "m", "--restrict-classes")
    assert set(np.unique(Image.open(tmp_path / "m" / "04.png"))) <= set(IDS[:3])


def test_a_number_that_no_png_holds(head: Path, tmp_path: Path, featbank: Run) -> None:
    """More than 16 bits."""
    make_bank(tmp_path / "bank.h5", map_ids=IDS + 70_000)
    error = featbank("predict", head, "bank.h5", "--maps", "m", code=2).stderr
    assert "Class numbers go up to 70300, a PNG holds 16 bits." in error


def test_maps_without_a_label(head: Path, tmp_path: Path, featbank: Run) -> None:
    """One line; predictions are made all the same."""
    x = {"instance": [np.ones((2, 3, 3))]}
    maps = {"test": MapArrays(np.arange(1), [np.full((4, 6), -1)], x)}
    make_bank(tmp_path / "bank.h5", maps=maps)
    error = featbank("evaluate", head, "bank.h5", code=2).stderr
    assert "No pixel of the maps has a label of a class that the head has." in error
    featbank("predict", head, "bank.h5", "--maps", "m")
    assert Image.open(tmp_path / "m" / "0.png").size == (6, 4)


def test_other_features_are_refused(head: Path, tmp_path: Path) -> None:
    """D is that of the head."""
    rng = np.random.default_rng(0)
    maps = {
        "test": MapArrays(np.arange(1), [np.zeros((2, 2), int)], {"instance": [np.ones((2, 2, 5))]})
    }
    rows = {"train": {"instance": rng.normal(size=(8, 5))}}
    write_bank(
        tmp_path / "wide.h5", rows, {"train": np.arange(8) % 4}, class_names=NAMES, maps=maps
    )
    with (
        Bank(tmp_path / "wide.h5") as opened,
        pytest.raises(errors.ConfigError, match="has features of D = 5, the head takes D = 3"),
    ):
        MapClassifier(load_head(head), opened)


@pytest.mark.skipif(not MRI.exists(), reason="needs the MRI")
def test_maps_of_an_mri_agree_with_its_rows(featbank: Run) -> None:
    """Where every pixel is a row and the grids are the same, figures of maps are those of rows."""
    with np.load(MRI) as stored:
        x, y, part = stored["x"][..., :16], stored["y_bilateral"], stored["slice_split"]
    arrays = {
        f"{name}_{split}": array[part == code]
        for split, code in (("train", 0), ("test", 2))
        for name, array in (("x", x), ("y", y))
    }
    np.savez("mri.npz", **arrays)
    featbank("import", "mri.npz", "--maps", "--ignore-label", "0", "--seen", "none", "-o", "mri.h5")
    featbank("sweep", "mri.h5", "--recipe", "lda", "-o", "mri.sqlite")
    featbank("export", "mri.sqlite", "lda", "-o", "lda.safetensors")
    evaluate = ("evaluate", "lda.safetensors", "mri.h5", "--format", "json")
    (maps,) = json.loads(featbank(*evaluate).stdout)
    (rows,) = json.loads(featbank(*evaluate, "--rows").stdout)
    names = {"miou": "miou", "mean_accuracy": "macro", "pixel_accuracy": "top1"}
    names |= {f"miou_{group}": f"miou_{group}" for group in ("many", "medium")}
    for name, of_rows in names.items():
        assert maps[name] == pytest.approx(rows[of_rows], rel=1e-9), name
