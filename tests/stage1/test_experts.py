"""Deep branches over shared early layers."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featbank import errors
from stage1.backbones import Backbone, Experts, build_backbone, load_weights
from stage1.inference.batchnorm import batchnorm_statistics
from tests.stage2.compare import assert_close, assert_relative

NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")

SHARED = {
    "resnet8": ("stem.", "stem_norm.", "blocks.0."),
    "resnet14": ("stem.", "stem_norm.", "blocks.0.", "blocks.1."),
    "resnet10": ("net.conv1.", "net.bn1.", "net.layer1.", "net.layer2."),
    "cifar-resnet34": ("net.conv1.", "net.bn1.", "net.layer1.", "net.layer2."),
    "torchvision:wide_resnet50_2": ("net.conv1.", "net.bn1.", "net.layer1.", "net.layer2."),
}
"""Modules that the experts of a backbone share: names by hand, after the layout of RIDE."""


def experts(name: str = "resnet8", count: int = 3, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, in_channels=1, num_classes=5, experts=count, **options)


@pytest.mark.parametrize("name", SHARED)
def test_early_layers_are_shared(name: str) -> None:
    """Reference: names by hand; the parameters of one backbone, its deep ones three times."""
    with torch.device("meta"):
        model, single = experts(name), experts(name, count=1)
    assert isinstance(model, Experts)
    assert model.branch_names == ("expert0", "expert1", "expert2")
    first, second, third = (dict(branch.named_parameters()) for branch in model.branches)
    for key, weight in first.items():
        shared = key.startswith(SHARED[name])
        assert (second[key] is weight) == (third[key] is weight) == shared, key
    sizes = {key: weight.numel() for key, weight in single.named_parameters()}
    expected = sum(n * (1 if k.startswith(SHARED[name]) else 3) for k, n in sizes.items())
    assert sum(weight.numel() for weight in model.parameters()) == expected
    assert (model.dim, model.name) == (single.dim, name)


def test_experts_begin_apart() -> None:
    """Reference: no two of their convolutions and classifiers are equal."""
    one, two, three = (branch.state_dict() for branch in experts().branches)
    for key in ("blocks.1.conv1.weight", "blocks.2.conv2.weight", "classifier.weight"):
        assert not one[key].equal(two[key]), key
        assert not two[key].equal(three[key]), key


@pytest.mark.parametrize("name", ["resnet8", "resnet10"])
@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_outputs(name: str, classifier: str) -> None:
    """Reference: each expert as a backbone by itself, on one batch for all and on its own; the
    logits by the classifiers that a bank stores."""
    model = experts(name, classifier=classifier).eval()
    batches = [torch.randn(4, 1, 32, 32) for _ in range(3)]
    with torch.no_grad():
        for images in ([batches[0]], batches):
            got = model.outputs(*images)
            features = model.branch_features(*images)
            stored = model.linear_classifiers()
            assert len(got.features) == len(got.logits) == len(stored) == 3
            for e, branch in enumerate(model.branches):
                own = images[e % len(images)]
                assert_relative(got.features[e], branch.features(own), 1e-6, f"features of {e}")
                assert_relative(got.logits[e], branch(own), 1e-6, f"logits of {e}")
                assert features[e].equal(got.features[e])
                weight, bias = stored[e]
                linear = F.linear(got.features[e], weight, bias)
                assert_relative(linear, got.logits[e], 1e-6, f"stored classifier of {e}")


def test_shared_layers_run_once_for_one_batch() -> None:
    """Reference: calls counted: once, or once for each of three batches."""
    model, calls = experts().eval(), [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    model.branches[0].get_submodule("stem").register_forward_hook(count)
    images = torch.randn(2, 1, 8, 8)
    for given, expected in (((images,), 1), ((images,) * 3, 3)):
        calls[0] = 0
        model.outputs(*given)
        assert calls == [expected]
    with pytest.raises(ValueError, match="zip"):
        model.outputs(images, images)


def test_logits_are_the_log_of_the_mean_softmax() -> None:
    """Reference: the softmax outputs of the experts, averaged in float64."""
    model, images = experts().double().eval(), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        mean = sum(branch(images).softmax(1) for branch in model.branches) / 3
        assert_close(model(images), mean.log(), 1e-12, "logits")
        assert_close(model(images).softmax(1), mean, 1e-12, "softmax")
        spread = model(1e4 * images)
    assert spread.isfinite().all(), "an expert is sure of a class that another excludes"


def test_shared_layers_learn_from_every_expert() -> None:
    """Reference: the sum of the experts' own gradients, each of a backward by itself."""
    model = experts().double().eval()
    images, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 5
    stem = model.branches[0].get_submodule("stem").weight
    parts = []
    for branch in model.branches:
        (slope,) = torch.autograd.grad(F.cross_entropy(branch(images), labels), stem)
        assert slope.abs().max() > 0
        parts.append(slope)
    total = sum(F.cross_entropy(z, labels) for z in model.outputs(images).logits)
    total.backward()
    assert_relative(stem.grad, sum(parts), 1e-10, "slope of the stem")


def test_state_dict_and_copies() -> None:
    """Reference: the saved model's logits; sharing survives a copy, and there is one set of
    BatchNorm statistics of each layer."""
    model, other = experts().eval(), experts(count=3).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)
    images = torch.randn(3, 1, 8, 8)
    other.load_state_dict(model.state_dict())
    assert other(images).equal(model(images))
    copied = copy.deepcopy(model)
    stems = {id(branch.get_submodule("stem")) for branch in copied.branches}
    assert len(stems) == 1
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(batchnorm_statistics(model)) == len(norms) == 1 + 2 + 3 * 4


def test_weights_of_experts_or_of_one_backbone() -> None:
    """Reference: the saved tensors, in their place or in every expert's."""
    source, model = experts(), experts()
    with torch.no_grad():
        for weight in source.parameters():
            weight.mul_(1.5)
    load_weights(model, source.state_dict(), source="w.pt")
    assert all(model.state_dict()[n].equal(x) for n, x in source.state_dict().items())
    single = experts(count=1)
    load_weights(model, single.state_dict(), source="w.pt")
    for branch in model.branches:
        assert all(branch.state_dict()[n].equal(x) for n, x in single.state_dict().items())


def _without_a_tensor(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x for name, x in state.items() if name != "experts.2.blocks.2.conv1.weight"}


@pytest.mark.parametrize(
    ("count", "change", "fault"),
    [
        (2, dict, "missing (stem.weight, stem_norm.weight, stem_norm.bias, …)"),
        (4, dict, "unexpected (experts.3.stem.weight, "),
        (3, _without_a_tensor, ": 1 missing (blocks.2.conv1.weight)."),
    ],
)
def test_weights_that_do_not_fit(
    count: int, change: Callable[[dict[str, torch.Tensor]], Any], fault: str
) -> None:
    """Reference: the fault by hand; nothing is loaded, not into an expert that it fits either."""
    model, source = experts(), experts(count=count)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = change({name: tensor + 1 for name, tensor in source.state_dict().items()})
    with pytest.raises(errors.DataError) as caught:
        load_weights(model, state, source="w.pt")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("name", "last"), [("resnet8", "blocks.2."), ("resnet10", "net.layer4.")])
def test_freezing_leaves_the_last_stage_of_each(name: str, last: str) -> None:
    """Reference: names by hand, of what takes gradients and of what is in training mode."""
    model = experts(name)
    model.freeze_but_last_block()
    assert model.frozen
    prefixes = tuple(f"experts.{e}.{part}" for e in range(3) for part in (last, "classifier."))
    for key, weight in model.named_parameters():
        assert weight.requires_grad == key.startswith(prefixes), key
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    norms = {key: m for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(norm.training == key.startswith(prefixes) for key, norm in norms.items())
    assert model.training


def test_images_are_checked() -> None:
    """Reference: a backbone's own sentence; mode and statistics stay."""
    model = experts("resnet10")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.check_images((1, 40, 32))
    with pytest.raises(errors.ConfigError, match="'resnet10' takes no images of 2×32×32"):
        model.check_images((2, 32, 32))
    assert model.training
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("name", "count", "sentence"),
    [
        (
            "torchvision:alexnet",
            3,
            "Backbone 'torchvision:alexnet' has no residual stages, so no early layers that "
            "experts could share. Take a ResNet: of CIFAR, torchvision or timm.",
        ),
        ("resnet8", 0, "A backbone needs at least 1 expert, got 0. Take 1 for none beside it."),
    ],
)
def test_refusals(name: str, count: int, sentence: str) -> None:
    """Reference: the sentences."""
    with torch.device("meta"), pytest.raises(errors.ConfigError) as caught:
        build_backbone(name, in_channels=3, num_classes=2, experts=count)
    assert str(caught.value) == sentence


@NEEDS_TIMM
def test_experts_of_timms_resnets() -> None:
    """Reference: timm's own model with the weights of each expert."""
    import timm

    model = build_backbone("timm:resnet10t", in_channels=3, num_classes=5, experts=2).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = model.outputs(images).logits
        for branch, got in zip(model.branches, logits, strict=True):
            single = timm.create_model("resnet10t", num_classes=5).eval()
            own = branch.state_dict()
            single.load_state_dict({k: own[n] for k, n in branch.original_names().items()})
            torch.testing.assert_close(got, single(images))
