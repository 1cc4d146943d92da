"""The cosine classifier of stage 1."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from featbank import errors
from stage1.backbones import Backbone, CosineClassifier, build_backbone, load_weights
from tests.stage2.compare import assert_close, assert_relative


def cosine_model(name: str = "resnet8", num_classes: int = 7) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, in_channels=1, num_classes=num_classes, classifier="cosine").eval()


@pytest.mark.parametrize("name", ["resnet8", "resnet10", "torchvision:mobilenet_v3_small"])
def test_logits_are_30_cosines(name: str) -> None:
    """Reference: a linear twin with the same layers, its features and the formula in float64."""
    model = cosine_model(name)
    twin = build_backbone(name, in_channels=1, num_classes=7).eval()
    state = {n: x for n, x in model.state_dict().items() if not n.startswith("classifier.")}
    load_weights(twin, state, source="here")
    images = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        x = twin.features(images).double()
        w = model.classifier.weight.double()
        expected = 30 * (x @ w.T) / (x.norm(dim=1, keepdim=True) * w.norm(dim=1))
        assert_close(model(images), expected, 3e-5, "logits")
        features = model.features(images)
    assert_close(features, 30**0.5 * x / x.norm(dim=1, keepdim=True), 1e-5, "features")


def test_what_a_bank_stores_gives_the_logits() -> None:
    """Reference: the model's logits, to float32's rounding; of both kinds, the bias 0 of one."""
    images = torch.randn(5, 1, 8, 8)
    for kind in ("linear", "cosine"):
        model = build_backbone("resnet8", in_channels=1, num_classes=4, classifier=kind).eval()
        outputs = model.outputs(images)
        ((weight, bias),) = model.linear_classifiers()
        assert not weight.requires_grad
        assert not bias.requires_grad
        assert_relative(outputs.features[0] @ weight.T + bias, outputs.logits[0], 1e-6, kind)
        assert outputs.logits[0].equal(model(images))
        assert outputs.features[0].equal(model.branch_features(images)[0])
        assert bool(bias.any()) == (kind == "linear")
        assert model.branch_names == ("",)


def test_weights_begin_as_ldams() -> None:
    """Reference: rows of length 1; before that uniform in (−1, 1), so no entry is far larger than
    the others: within √3 of the root mean square, the ends of a uniform law."""
    torch.manual_seed(0)
    weight = CosineClassifier(2000, 3).weight.detach()
    assert_close(weight.norm(dim=1), torch.ones(3), 1e-6, "lengths")
    ends = weight.abs().amax(1) * (2000 / 3) ** 0.5
    assert_close(ends, torch.ones(3), 0.05, "largest entries, of √(3/D)")
    assert_close(weight.mean(1), torch.zeros(3), 5 / 2000, "means within 5 σ of 1/D")


def test_gradients_are_those_of_the_cosine() -> None:
    """Reference: autograd of s·⟨w/‖w‖, x/‖x‖⟩ written out in float64."""
    torch.manual_seed(1)
    classifier = CosineClassifier(6, 4, scale=16).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(5, 4, dtype=torch.float64)
    (classifier(classifier.scaled(x)) * pull).sum().backward()
    y, w = x.detach().clone().requires_grad_(), classifier.weight.detach().clone().requires_grad_()
    dots = torch.einsum("bd,kd->bk", y, w)
    lengths = y.pow(2).sum(1, keepdim=True).sqrt() * w.pow(2).sum(1).sqrt()
    (16 * dots / lengths * pull).sum().backward()
    assert_relative(x.grad, y.grad, 1e-12, "slope of x")
    assert_relative(classifier.weight.grad, w.grad, 1e-12, "slope of w")


def test_zero_vectors_have_the_cosine_0() -> None:
    """Reference: 0 for a zero feature and a zero row of the weight, and slopes without NaN."""
    classifier = CosineClassifier(4, 3)
    with torch.no_grad():
        classifier.weight[1] = 0
    x = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4]], requires_grad=True)
    z = classifier(classifier.scaled(x))
    assert z[0].tolist() == [0, 0, 0]
    assert z[1, 1] == 0
    F.cross_entropy(z, torch.tensor([0, 1])).backward()
    assert x.grad is not None
    assert classifier.weight.grad is not None
    assert x.grad.isfinite().all()
    assert classifier.weight.grad.isfinite().all()


def test_under_autocast_features_are_float32() -> None:
    """Reference: the same without autocast, to bfloat16's 2⁻⁸ of 30."""
    model, images = cosine_model(), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model.outputs(images)
    assert outputs.features[0].dtype == torch.float32
    lengths = outputs.features[0].norm(dim=1)
    assert_close(lengths, torch.full((4,), 30**0.5), 1e-5, "lengths")
    assert_close(outputs.logits[0].float(), expected, 30 * 4 * 2**-8, "logits")


def test_weights_from_a_file() -> None:
    """Reference: the saved model. A linear classifier stays out of a cosine model and the other
    way round; a cosine one of as many classes comes along."""
    source = cosine_model()
    images = torch.randn(3, 1, 8, 8)
    torch.manual_seed(5)
    other = build_backbone("resnet8", in_channels=1, num_classes=7, classifier="cosine").eval()
    load_weights(other, source.state_dict(), source="w.pt")
    assert other(images).equal(source(images))
    linear = build_backbone("resnet8", in_channels=1, num_classes=7).eval()
    torch.manual_seed(6)
    third = build_backbone("resnet8", in_channels=1, num_classes=7, classifier="cosine")
    for model, state in ((other, linear.state_dict()), (linear, third.state_dict())):
        head = copy.deepcopy(model.classifier.state_dict())
        load_weights(model, state, source="w.pt")
        assert all(model.classifier.state_dict()[n].equal(x) for n, x in head.items())
        for name, tensor in state.items():
            if not name.startswith("classifier."):
                assert model.state_dict()[name].equal(tensor)


def test_freezing_trains_the_cosine_classifier() -> None:
    """Reference: names by hand."""
    model = cosine_model()
    model.freeze_but_last_block()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"blocks", "classifier"}
    assert all(name.startswith(("blocks.2.", "classifier.weight")) for name in trained)


def test_an_unknown_classifier() -> None:
    """Reference: the sentence."""
    with pytest.raises(errors.ConfigError, match="Unknown classifier 'cosin'. Did you mean 'cosi"):
        build_backbone("resnet8", in_channels=1, num_classes=2, classifier="cosin")
