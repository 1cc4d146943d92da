"""Backbones of torchvision and timm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from featbank import errors
from featbank.bank import Bank
from stage1.backbones import build_backbone, load_weights
from stage1.data.images import DatasetSettings
from stage1.extraction.extract import extract
from stage1.training.settings import default_settings
from stage1.training.train import train
from tests.stage1.conftest import MakeLists

NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("resnet34", 512),
        ("resnet50", 2048),
        ("resnet101", 2048),
        ("resnet152", 2048),
        ("resnext50_32x4d", 2048),
        ("resnext101_32x8d", 2048),
    ],
)
def test_resnets_are_torchvisions(name: str, dim: int) -> None:
    """Reference: torchvision's model of that name: tensors by name and shape, built unallocated."""
    with torch.device("meta"):
        model = build_backbone(name, in_channels=3, num_classes=1000)
        reference = models.get_model(name, weights=None)
    assert model.dim == model.classifier.in_features == dim
    names, own = model.original_names(), model.state_dict()
    expected = {key: tensor.shape for key, tensor in reference.state_dict().items()}
    assert {key: own[names[key]].shape for key in names} == expected
    assert set(names.values()) == set(own)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 33),
        ("torchvision:shufflenet_v2_x0_5", 32),
        ("torchvision:mobilenet_v3_small", 32),
        ("torchvision:mnasnet0_5", 32),
        ("torchvision:googlenet", 32),
    ],
)
def test_logits_are_torchvisions(name: str, side: int) -> None:
    """Reference: torchvision's model with the same state dict; and classifier(features(x))."""
    torch.manual_seed(0)
    plain = name.removeprefix("torchvision:")
    extra = {"aux_logits": False, "init_weights": False} if plain == "googlenet" else {}
    reference = models.get_model(plain, weights=None, num_classes=11, **extra).eval()
    model = build_backbone(name, in_channels=3, num_classes=11).eval()
    load_weights(model, reference.state_dict(), source="here")
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (2, model.dim)
        torch.testing.assert_close(model(x), reference(x))
        torch.testing.assert_close(model(x), F.linear(features, *model.classifier.parameters()))


def test_resnet10_is_resnet18_without_its_second_blocks() -> None:
    """Reference: torchvision's ResNet-18, the second block of each stage the identity."""
    model = build_backbone("resnet10", in_channels=3, num_classes=5).eval()
    reference = models.resnet18(weights=None, num_classes=5).eval()
    for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        stage[1] = nn.Identity()
    load_weights(model, reference.state_dict(), source="here")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x))


def test_the_resnet34_for_cifar() -> None:
    """Reference: torchvision's ResNet-34, its count corrected by the stem; 4×4 pooling by hand."""
    model = build_backbone("cifar-resnet34", in_channels=3, num_classes=100).eval()
    reference = models.resnet34(weights=None, num_classes=100).eval()
    expected = sum(p.numel() for p in reference.parameters()) - 64 * 3 * (7 * 7 - 3 * 3)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.dim == 512
    state = reference.state_dict()
    state["conv1.weight"] = torch.randn(64, 3, 3, 3) / 5
    load_weights(model, state, source="here")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        y = F.relu(reference.bn1(F.conv2d(x, state["conv1.weight"], padding=1)))
        assert y.shape[2:] == (32, 32)
        for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            y = stage(y)
        features = F.avg_pool2d(y, 4).flatten(1)
        torch.testing.assert_close(model.features(x), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10", "torchvision:mobilenet_v3_small"])
def test_grey_images(name: str) -> None:
    """Reference: the stem with three channels has the same geometry, so features have one shape."""
    grey = build_backbone(name, in_channels=1, num_classes=2).eval()
    coloured = build_backbone(name, in_channels=3, num_classes=2).eval()
    with torch.no_grad():
        one, three = grey(torch.randn(2, 1, 32, 32)), coloured(torch.randn(2, 3, 32, 32))
    assert one.shape == three.shape == (2, 2)


def test_convolutions_are_channels_last() -> None:
    """Reference: the memory format of each kernel larger than 1×1."""
    model = build_backbone("resnet10", in_channels=3, num_classes=2)
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert len(kernels) == 9
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("torchvision:squeezenet1_1", "has no linear classifier (its head is a convolution)"),
        (
            "torchvision:resnet5O",
            "Unknown backbone 'torchvision:resnet5O'. Did you mean 'resnet50'",
        ),
        ("torchvision:xyz", "Choose a name of torchvision.models.list_models."),
        ("torchvision:", "Unknown backbone 'torchvision:': CIFAR ResNets have"),
    ],
)
def test_what_is_no_backbone_of_torchvision(name: str, sentence: str) -> None:
    """Reference: one line that names why."""
    with pytest.raises(errors.ConfigError) as caught:
        build_backbone(name, in_channels=3, num_classes=2)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_reported() -> None:
    """Reference: a ViT takes 224 pixels only; the check leaves mode and buffers as they are."""
    with torch.device("meta"):
        model = build_backbone("torchvision:vit_b_32", in_channels=3, num_classes=2)
    with pytest.raises(errors.ConfigError, match="takes no images of 3×32×32") as caught:
        model.check_images((3, 32, 32))
    assert "\n" not in str(caught.value)
    model = build_backbone("resnet10", in_channels=3, num_classes=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.check_images((3, 40, 32))
    assert model.training
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_training_and_extraction(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: a second run, whatever the global generator, which dropout draws from, did."""
    labels = [0, 0, 0, 1, 1, 2, 0, 0]
    dataset = DatasetSettings("lists", **make_lists(train=labels, test=[0, 1, 2]))
    name = "torchvision:mobilenet_v3_small"
    settings = default_settings(dataset, epochs=1, backbone=name, batch_size=4)
    first, again = tmp_path / "first", tmp_path / "again"
    checkpoint = torch.load(train(settings, first), weights_only=True)
    torch.rand(7)
    repeated = torch.load(train(settings, again), weights_only=True)
    for key, tensor in checkpoint["weights"].items():
        assert repeated["weights"][key].equal(tensor), f"{key} depends on the caller's generator"
    extract(first, tmp_path / "bank.h5", balanced_batches=1)
    extract(again, tmp_path / "again.h5", balanced_batches=1)
    with Bank(tmp_path / "bank.h5") as bank, Bank(tmp_path / "again.h5") as other:
        for view in ("instance", "balanced"):
            features = bank.load("test", view)[0]
            assert np.isfinite(features).all()
            assert np.array_equal(features, other.load("test", view)[0])


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: without it, one line with the command that installs it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("cifar10-lt", backbone="timm:resnet18")
    assert str(caught.value) == (
        "Backbone 'timm:resnet18' needs timm, which is not installed. "
        "Run: pip install 'featbank[timm]'"
    )


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet10t", 32), ("vit_tiny_patch16_224", 224), ("mobilenetv3_small_050", 32)],
)
def test_logits_are_timms(name: str, side: int) -> None:
    """Reference: timm's own model with the same state dict; its pre-logits are the features."""
    import timm

    reference = timm.create_model(name, num_classes=9).eval()
    model = build_backbone(f"timm:{name}", in_channels=3, num_classes=9).eval()
    load_weights(model, reference.state_dict(), source="here")
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert model.features(x).shape == (2, model.dim)
        torch.testing.assert_close(model(x), reference(x))


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "patch", "fitted"),
    [("deit_tiny_patch16_224", 16, True), ("test_vit", 16, False), ("resnet10t", 32, False)],
)
def test_a_vit_is_fitted_to_other_images(name: str, patch: int, fitted: bool) -> None:
    """Reference: timm's model made for such images, with timm's own filter of checkpoints. Models
    of any size are left as they are."""
    import timm

    weights = timm.create_model(name, num_classes=9).eval().state_dict()
    model = build_backbone(f"timm:{name}", in_channels=3, num_classes=9).eval()
    load_weights(model, weights, source="here")
    size = (3, 4 * patch, 6 * patch)
    told = model.branches[0].fit_images(size)
    if not fitted:
        assert told == ""
        return
    assert told == "Position embeddings for images of 224×224 were resampled to 64×96."
    assert model.branches[0].fit_images(size) == ""
    reference = timm.create_model(name, num_classes=9, img_size=size[1:]).eval()
    made = timm.models.vision_transformer.checkpoint_filter_fn(weights, reference)
    reference.load_state_dict(made)
    x = torch.randn(2, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x))


@NEEDS_TIMM
def test_names_timm_does_not_know() -> None:
    """Reference: the closest name, or where names are."""
    for name, sentence in (("resnet5O", "Did you mean 'resnet50'?"), ("@", "timm.list_models")):
        with pytest.raises(errors.ConfigError, match=r"Unknown backbone 'timm:") as caught:
            build_backbone(f"timm:{name}", in_channels=3, num_classes=2)
        assert sentence in str(caught.value)
