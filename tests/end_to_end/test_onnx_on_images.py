"""An exported ONNX file on its backbone classifies images as the head does the bank's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from featbank import Bank
from stage1.data.datasets import load_dataset
from stage1.data.settings import DatasetSettings
from stage1.training.checkpoint import load_checkpoint
from tests.conftest import Run

TRAIN = ("train", "--dataset", "digits-lt", "--imbalance", 20, "--epochs", 1, "--device", "cpu")
IMAGES = 20


@pytest.fixture
def runtime() -> Any:
    """ONNX Runtime, where the packages are."""
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path: Path) -> DatasetSettings:
    """A data set of 24×20 images, a colour per class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for k, name in enumerate(("ant", "bee", "cow")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (20, 24, 3), np.uint8)
                pixels[..., k] += 120
                Image.fromarray(pixels).save(place / f"{i}.png")
    return DatasetSettings("folder", root=str(tmp_path / "images"))


def agree(featbank: Run, runtime: Any, images: torch.Tensor, bank: str = "bank.h5") -> None:
    """Logits of model.onnx for images are those of `featbank predict` for the bank's rows."""
    featbank("predict", "head.safetensors", bank, "--split", "test", "-o", "p.npz")
    session = runtime.InferenceSession("model.onnx")
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape[1:] == list(images.shape[1:])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(logits, np.load("p.npz")["logits"][: len(images)], atol=2e-4)


@pytest.mark.parametrize(
    ("experts", "view"), [(1, "balanced"), (2, "balanced"), (1, "layer1/mean")]
)
def test_a_run(experts: int, view: str, featbank: Run, runtime: Any) -> None:
    """Reference: `featbank predict` on the bank; the BatchNorm statistics are the bank's."""
    featbank(*TRAIN, *(("--experts", experts) if experts > 1 else ()), "-o", "runs/digits")
    layers = ("--layers", "1", "--tokens", "mean") if view.startswith("layer") else ()
    featbank("extract", "runs/digits", "-o", "bank.h5", "--device", "cpu", *layers)
    settings = ("--set", f"view={view}", "--set", "epochs=1", "--seeds", 0)
    featbank("sweep", "bank.h5", "--recipe", "crt", *settings)
    export = ("export", "results.sqlite", "crt", "-o", "head.safetensors", "--onnx", "model.onnx")
    done = featbank(*export, "--backbone", "runs/digits")
    assert "Wrote head.safetensors and model.onnx." in done.stdout
    _, checkpoint = load_checkpoint("runs/digits")
    images = load_dataset(checkpoint.settings.dataset).splits["test"].images[torch.arange(IMAGES)]
    agree(featbank, runtime, images)


def test_pretrained_weights(
    featbank: Run, runtime: Any, folder: DatasetSettings, tmp_path: Path
) -> None:
    """Reference: `featbank predict` on a bank that was split: two views averaged, three of several
    sizes put together, and all patches. ImageNet's moments are in the graph."""
    torch.manual_seed(0)
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    data = ("--dataset", "folder", "--root", folder.root, "--views", "instance")
    layers = ("--layers", "-1,2", "--tokens")
    weights = ("--weights", "w.pth", "--backbone", "resnet10", *data, *layers)
    featbank("extract", *weights, "mean,patch", "-o", "whole.h5", "--device", "cpu")
    featbank("split", "whole.h5", "--val-per-class", 1, "-o", "bank.h5")
    images = load_dataset(folder).splits["test"].images[torch.arange(IMAGES // 2)]
    for recipe, view in (
        ("attentive", "layer2/patch"),
        ("crt", "2*layer2/mean|layer4/patch:max|instance"),
        ("ncm", "instance+layer4/mean"),
    ):
        short = () if recipe == "ncm" else ("--set", "epochs=1")
        featbank("sweep", "bank.h5", "--recipe", recipe, "--set", f"view={view}", *short)
        export = ("export", "results.sqlite", recipe, "-o", "head.safetensors")
        export += ("--onnx", "model.onnx")
        featbank(*export, "--backbone", "w.pth")
        agree(featbank, runtime, images)
    with Bank("whole.h5") as bank:
        assert bank.provenance["image_shape"] == [3, *images.shape[2:]]
    torch.save(models.resnet18().state_dict(), tmp_path / "other.pth")
    torch.save({**net.state_dict(), "fc.bias": torch.ones(7)}, tmp_path / "near.pth")
    for other, words in (
        ("other.pth", "does not fit backbone 'resnet10'"),
        ("near.pth", "bank.h5 was not extracted with near.pth: their digests differ. Give the run"),
        ("gone.pth", "gone.pth: no such file of weights"),
    ):
        error = featbank(*export, "--backbone", other, code=2).stderr
        assert words in error
        assert error.count("\n") == 1


def test_refusals(featbank: Run, runtime: Any, toy_bank: Path) -> None:
    """Reference: one line each, before anything is trained."""
    featbank("sweep", toy_bank, "--recipe", "crt", "--set", "epochs=1", "--seeds", 0)
    export = ("export", "results.sqlite", "crt", "-o", "head.safetensors", "--backbone", "w.pth")
    error = featbank(*export, code=2).stderr
    assert "--backbone is for an ONNX file. Add --onnx model.onnx." in error
    error = featbank(*export, "--onnx", "model.onnx", code=2).stderr
    assert "does not say that `featbank extract` made it, so its backbone is unknown." in error
    assert error.count("\n") == 1
    assert not Path("head.safetensors").exists()
