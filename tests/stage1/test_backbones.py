"""CIFAR ResNets."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featbank import errors
from stage1.backbones import build_backbone


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66)]
)
def test_parameter_counts_are_the_papers(name: str, millions: float) -> None:
    """Against table 6 of He et al. 2016 (10 classes), and depth 6n+2 by counting layers."""
    model = build_backbone(name, in_channels=3, num_classes=10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    assert f"resnet{layers}" == name


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
        ("resnet18", "Did you mean 'resnet20'?"),
        ("resnet33", "Did you mean 'resnet32'?"),
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
