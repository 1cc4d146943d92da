"""Views of inner layers, against the libraries' own ways to them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from featbank import errors
from stage1.backbones import build_backbone
from stage1.backbones.base import Backbone
from stage1.backbones.layers import Layers, layers_of
from stage1.backbones.libraries import LibraryBackbone
from stage1.inference.options import TOKENS

NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


def moved(model: Backbone) -> Backbone:
    """In eval mode, with parameters and buffers away from their initial values, so that no layer is
    an identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for values in model.state_dict().values():
            if values.is_floating_point():
                values.add_(torch.randn_like(values), alpha=0.05)
    return model.eval()


@torch.no_grad()
def recorded(model: Backbone, layers: Layers, x: Tensor) -> dict[str, Tensor]:
    """Views of a batch."""
    with layers.recorded(model) as views:
        model.branch_features(x)
    assert {name: tuple(view.shape[1:]) for name, view in views.items()} == layers.shapes
    return views


@NEEDS_TIMM
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("name", "side", "prefix", "class_token"),
    [
        ("test_vit", 160, 1, True),
        ("deit_tiny_distilled_patch16_224", 224, 2, True),  # a class and a distillation token
        ("vit_small_patch16_dinov3", 256, 5, True),  # four registers
        ("cait_xxs24_224", 224, 0, False),  # the class token joins after the blocks
        ("mixer_s32_224", 224, 0, False),
    ],
)
def test_tokens_are_timms(name: str, side: int, prefix: int, class_token: bool, norm: bool) -> None:
    """Reference: `forward_intermediates` of timm, its class token, and the mean of its patches."""
    model = moved(build_backbone(f"timm:{name}", in_channels=3, num_classes=4))
    layers = layers_of(model, ["-1", "1", "-2"], TOKENS, (3, side, side), norm=norm)
    assert (layers.prefix, layers.class_token) == (prefix, class_token)
    x = torch.randn(2, 3, side, side)
    views = recorded(model, layers, x)
    net: Any = model.net
    numbers = [1, len(net.blocks) - 2, len(net.blocks) - 1]
    assert list(layers.modules) == [f"layer{number}" for number in numbers]
    options = {"norm": norm, "output_fmt": "NLC", "intermediates_only": True}
    with torch.no_grad():
        if prefix:
            options["return_prefix_tokens"] = True
        reference = net.forward_intermediates(x, numbers, **options)
    for number, made in zip(numbers, reference, strict=True):
        patches, before = made if prefix else (made, None)
        assert views[f"layer{number}/patch"].equal(patches)
        expected = before[:, 0] if class_token else patches.mean(1)
        torch.testing.assert_close(views[f"layer{number}/mean"], patches.mean(1))
        torch.testing.assert_close(views[f"layer{number}/cls"], expected)


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "side", "first"),
    [
        ("test_resnet", 64, 1),
        ("test_convnext", 64, 0),
        ("test_efficientnet", 64, 0),
        ("regnetx_002", 64, 1),
        ("swin_tiny_patch4_window7_224", 224, 0),  # maps with channels last
    ],
)
def test_maps_are_timms(name: str, side: int, first: int) -> None:
    """Reference: `forward_intermediates` of timm; widths and positions differ between stages."""
    model = moved(build_backbone(f"timm:{name}", in_channels=3, num_classes=4))
    layers = layers_of(model, ["all"], TOKENS, (3, side, side))
    x = torch.randn(2, 3, side, side)
    views = recorded(model, layers, x)
    net: Any = model.net
    with torch.no_grad():
        reference = net.forward_intermediates(x, intermediates_only=True)[first:]
    assert list(layers.modules) == [f"layer{first + i}" for i in range(len(reference))]
    for layer, maps in zip(layers.modules, reference, strict=True):
        assert views[f"{layer}/patch"].equal(maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(views[f"{layer}/mean"], maps.mean((2, 3)))
        assert views[f"{layer}/cls"].equal(views[f"{layer}/mean"])


def torchvision_vit() -> Backbone:
    """torchvision's vision transformer, small."""
    net = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=5, num_heads=2, hidden_dim=12, mlp_dim=8
    )
    net.heads = nn.Identity()  # type: ignore[assignment]
    return LibraryBackbone(net, nn.Linear(12, 3), head="heads.head")


@pytest.mark.parametrize("norm", [False, True])
def test_tokens_are_torchvisions(norm: bool) -> None:
    """Reference: torchvision's `create_feature_extractor`, and its `encoder.ln` as a function."""
    model = moved(torchvision_vit())
    name = "encoder.layers.encoder_layer_2"
    layers = layers_of(model, ["-1", name], TOKENS, (3, 32, 32), norm=norm)
    assert list(layers.modules) == ["layer2", "layer4"]
    x = torch.randn(2, 3, 32, 32)
    views = recorded(model, layers, x)
    net: Any = model.net
    nodes = {f"encoder.layers.encoder_layer_{i}": f"layer{i}" for i in (2, 4)}
    with torch.no_grad():
        outputs = create_feature_extractor(net, nodes)(x)
        features = model.features(x)
    for layer, output in outputs.items():
        tokens = net.encoder.ln(output).detach() if norm else output
        torch.testing.assert_close(views[f"{layer}/cls"], tokens[:, 0])
        torch.testing.assert_close(views[f"{layer}/mean"], tokens[:, 1:].mean(1))
        torch.testing.assert_close(views[f"{layer}/patch"], tokens[:, 1:])
    assert views["layer4/cls"].equal(features) is norm


@pytest.mark.parametrize(
    ("backbone", "side", "chosen", "nodes", "channels_last"),
    [
        ("resnet10", 64, ["layer2", "-1"], {"layer2": 2, "layer4": 4}, False),
        ("torchvision:densenet121", 32, ["-1"], {"features.denseblock4": 4}, False),
        ("torchvision:shufflenet_v2_x0_5", 32, ["2"], {"stage2": 2}, False),
        ("torchvision:regnet_y_400mf", 32, ["-4"], {"trunk_output.block1": 1}, False),
        ("torchvision:swin_t", 32, ["5"], {"features.5": 5}, True),
    ],
)  # fmt: skip
def test_maps_are_torchvisions(
    backbone: str, side: int, chosen: list[str], nodes: dict[str, int], channels_last: bool
) -> None:
    """Reference: torchvision's `create_feature_extractor`."""
    model = moved(build_backbone(backbone, in_channels=3, num_classes=4))
    layers = layers_of(model, chosen, TOKENS, (3, side, side))
    x = torch.randn(2, 3, side, side)
    views = recorded(model, layers, x)
    net: Any = model.net
    with torch.no_grad():
        outputs = create_feature_extractor(net, {n: f"layer{i}" for n, i in nodes.items()})(x)
    assert list(layers.modules) == list(outputs)
    for layer, output in outputs.items():
        maps = output.permute(0, 3, 1, 2) if channels_last else output
        assert views[f"{layer}/patch"].equal(maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(views[f"{layer}/mean"], maps.mean((2, 3)))


def test_a_model_may_change_its_tensors_in_place() -> None:
    """Reference: the output of the layer by itself; the ReLU behind it works in place."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages:
                x = stage(x).relu_()
            return x.mean((2, 3))

    model = LibraryBackbone(Net(), nn.Linear(4, 2), head="head").eval()
    x = torch.randn(2, 3, 8, 8)
    views = recorded(model, layers_of(model, ["0"], ["patch"], (3, 8, 8)), x)
    with torch.no_grad():
        first: Any = model.net.stages[0]  # type: ignore[index, union-attr]
        expected = first(x).flatten(2).transpose(1, 2)
    assert expected.min() < 0
    torch.testing.assert_close(views["layer0/patch"], expected)


def test_hooks_are_gone_afterwards() -> None:
    """Reference: the count of hooks before; also after an error."""
    model = build_backbone("resnet10", in_channels=3, num_classes=2).eval()
    layers = layers_of(model, ["-1"], ["mean"], (3, 32, 32))
    with pytest.raises(KeyError), layers.recorded(model):
        raise KeyError
    assert not any(module._forward_hooks for module in model.modules())


def test_the_last_map_of_a_cifar_resnet_is_its_feature() -> None:
    """Reference: the pooled feature; blocks of this backbone are numbered through all stages."""
    model = moved(build_backbone("resnet8", in_channels=1, num_classes=3))
    x = torch.randn(2, 1, 8, 8)
    views = recorded(model, layers_of(model, ["-1", "blocks.0"], ["mean"], (1, 8, 8)), x)
    with torch.no_grad():
        torch.testing.assert_close(views["layer2/mean"], model.features(x))
    assert views["layer0/mean"].shape == (2, 16)


@pytest.mark.parametrize(
    ("backbone", "chosen", "options", "sentence"),
    [
        (
            "resnet10", ["list"], {},
            "Backbone 'resnet10' has no layer 'list'. It has layer1, layer2, layer3, layer4 (4, "
            "the last 4 or -1). Give numbers or names of these.",
        ),
        ("resnet10", ["-5"], {}, "has no layer '-5'"),
        ("resnet10", ["layer1.0"], {}, "has no layer 'layer1.0'"),
        ("resnet10", ["all", "1"], {}, "has no layer 'all'"),
        ("resnet10", ["1"], {"norm": True}, "has no final norm of tokens. Leave --layer-norm out."),
        ("torchvision:swin_t", ["1"], {"norm": True}, "are maps, which its final norm is not"),
        ("torchvision:googlenet", ["1"], {}, "has neither blocks nor stages"),
    ],
)  # fmt: skip
def test_refusals(backbone: str, chosen: list[str], options: dict[str, Any], sentence: str) -> None:
    """Reference: one line with a remedy."""
    model = build_backbone(backbone, in_channels=3, num_classes=2).eval()
    with pytest.raises(errors.ConfigError) as caught:
        layers_of(model, chosen, ["mean"], (3, 32, 32), **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_experts_have_no_layers_of_their_own() -> None:
    """Reference: one line."""
    model = build_backbone("resnet8", in_channels=1, num_classes=2, experts=2).eval()
    with pytest.raises(errors.ConfigError, match="A model of 2 experts has no layers that all"):
        layers_of(model, ["-1"], ["mean"], (1, 8, 8))


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (lambda x: (x, x), "The output of layer0 of backbone 'LibraryBackbone' is neither tokens"),
        (None, "does not run net.blocks.0 as one module"),
    ],
)
def test_outputs_that_are_no_tokens(
    output: Callable[[Tensor], object] | None, sentence: str
) -> None:
    """Reference: one line, for a tuple and for a block that the model reaches into."""

    class Block(nn.Module):
        def forward(self, x: Tensor) -> object:
            assert output is not None
            return output(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            if output is not None:
                self.blocks[0](x)
            return x.mean((2, 3))

    model = LibraryBackbone(Net(), nn.Linear(3, 2), head="head").eval()
    with pytest.raises(errors.ConfigError) as caught:
        layers_of(model, ["0"], ["mean"], (3, 8, 8))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
