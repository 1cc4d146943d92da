"""CIFAR ResNets and the names of backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featbank import errors
from stage1.backbones import CifarResNet, build_backbone
from stage1.training.checkpoint import load_checkpoint

SUMS = {
    "stem.weight": 6.99818847,
    "blocks.2.conv2.weight": 10.2480534,
    "classifier.weight": -0.787082512,
    "classifier.bias": 0.179486528,
}


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66)]
)
def test_parameter_counts_are_the_papers(name: str, millions: float) -> None:
    """Against table 6 of He et al. 2016 (10 classes), and depth 6n+2 by counting layers."""
    model = build_backbone(name, in_channels=3, num_classes=10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    assert f"resnet{layers}" == name


def test_weights_of_a_seed_stay() -> None:
    """Reference: sums of weights of the first version, by the generator's seed 0."""
    torch.manual_seed(0)
    weights = build_backbone("resnet8", in_channels=3, num_classes=10).state_dict()
    assert len(weights) == 44
    sums = {name: weights[name].double().sum().item() for name in SUMS}
    assert sums == pytest.approx(SUMS, rel=1e-6)


@pytest.mark.parametrize("depth", [8, 50])
def test_every_depth_6n_plus_2_is_a_cifar_resnet(depth: int) -> None:
    """Reference: `CifarResNet` of n blocks; of bare names, 50 and 152 are torchvision's."""
    with torch.device("meta"):
        model = build_backbone(f"cifar-resnet{depth}", in_channels=3, num_classes=10)
        reference = CifarResNet((depth - 2) // 6, in_channels=3, num_classes=10)
        bare = build_backbone(f"resnet{depth}", in_channels=3, num_classes=10)
    shapes = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert bare.dim == (64 if depth < 50 else 2048)


def test_a_checkpoint_from_before_torchvisions_names(digits_run: Path, tmp_path: Path) -> None:
    """Reference: a CIFAR ResNet-50 saved as `resnet50`, with the settings of the first version."""
    document = torch.load(digits_run / "checkpoint.pt", weights_only=True)
    model = build_backbone("cifar-resnet50", in_channels=1, num_classes=10)
    document["weights"] = model.state_dict()
    document["settings"]["backbone"] = "resnet50"
    for setting in ("weights", "weights_sha256", "freeze_but_last_block"):
        del document["settings"][setting]
    torch.save(document, tmp_path / "old.pt")
    _, checkpoint = load_checkpoint(tmp_path / "old.pt")
    assert checkpoint.settings.backbone == "cifar-resnet50"
    x = torch.randn(2, 1, 8, 8)
    assert checkpoint.model()(x).equal(model.eval()(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 12, 17)])
def test_logits_are_the_classifier_on_the_features(shape: tuple[int, int, int]) -> None:
    """Against classifier(features(x)); features have size D and any image size works."""
    model = build_backbone("resnet8", in_channels=shape[0], num_classes=7).eval()
    x = torch.randn(2, *shape)
    features = model.features(x)
    assert features.shape == (2, model.dim)
    torch.testing.assert_close(model(x), F.linear(features, *model.classifier.parameters()))


def test_shortcuts_have_no_parameters() -> None:
    """With residual branches off, the blocks are option A: x[::2, ::2] between zero channels."""
    model = build_backbone("resnet14", in_channels=3, num_classes=2).eval()
    for name, module in model.named_modules():
        if name.endswith("norm2"):
            nn.init.zeros_(module.weight)
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 64, 2, 2)
    expected[:, 24:40] = x[:, :, ::4, ::4]
    assert model.blocks(x).equal(expected)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet17", "Did you mean 'resnet18'?"),
        ("resnet33", "Did you mean 'resnet32'?"),
        ("resnet51", "Did you mean 'resnet50'?"),
        ("resnet9999", "Did you mean 'resnet9998'?"),
        ("cifar-resnet18", "Did you mean 'cifar-resnet20'?"),
        ("cifar-resnet35", "Did you mean 'cifar-resnet34'?"),
        ("resnext50_32", "Did you mean 'resnext50_32x4d'?"),
        ("resnet33", "(50 and 152 are written cifar-resnet50, cifar-resnet152)"),
        ("Resnet32", "Did you mean 'resnet32'?"),
        ("resnet2", "Did you mean 'resnet8'?"),
        ("vgg", "Choose from: resnet8, "),
        ("resnet032", "Did you mean 'resnet32'?"),
    ],
)
def test_wrong_names_get_the_closest(name: str, meant: str) -> None:
    """The sentence names what was meant."""
    with pytest.raises(errors.ConfigError) as caught:
        build_backbone(name, in_channels=3, num_classes=2)
    assert meant in str(caught.value)
