"""Angles of training images to the weight of their class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stage1.backbones import Backbone, SingleBackbone, build_backbone
from stage1.training.angles import best_cosines, class_cosines
from stage2.engine import angles
from stage2.engine.rows import MemoryRows
from stage2.methods.heads import HEADS, Context, TrainedHead
from tests.stage2.compare import assert_close

LABELS = torch.tensor([0, 3, 1, 1, 0, 0, 3, 1, 0, 3, 0, 0])
"""Of five classes, two of them without an image."""


def model_and_images(experts: int, classifier: str) -> tuple[Backbone, Tensor]:
    torch.manual_seed(2)
    model = build_backbone(
        "resnet8", in_channels=1, num_classes=5, experts=experts, classifier=classifier
    )
    with torch.no_grad():
        for branch in model.branches:
            if branch.classifier.bias is not None:
                branch.classifier.bias.normal_()
    return model, torch.randn(len(LABELS), 1, 8, 8)


class Told(SingleBackbone):
    """Images [B, 1, 1, 2] are their own features; class k looks along axis k, with biases."""

    def __init__(self, bias: tuple[float, float]) -> None:
        super().__init__()
        self.dim = 2
        self.classifier = torch.nn.Linear(2, 2)
        self.classifier.weight.data = torch.eye(2)
        self.classifier.bias.data = torch.tensor(bias)

    def deep(self, maps: Tensor) -> Tensor:
        """The two pixels."""
        return maps.flatten(1)

    def last_stage(self) -> None:
        """There is none."""


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_best_cosines(experts: int, classifier: str, size: int) -> None:
    """Reference: a loop over images in float64, with batches of 1, 5 and all; mode stays."""
    model, images = model_and_images(experts, classifier)
    got = best_cosines(model, images.split(size), LABELS, 5)
    assert model.training
    assert not got.requires_grad
    model = model.double().eval()
    for e, branch in enumerate(model.branches):
        best, largest = np.zeros(5), [-math.inf] * 5
        x = branch.deep(branch.early(images.double())).detach()
        z = branch(images.double()).detach()
        for i, k in enumerate(LABELS.tolist()):
            w = branch.classifier.weight.detach()[k]
            if z[i, k] > largest[k]:
                best[k] = float(x[i] @ w / (x[i].norm() * w.norm()))
                largest[k] = float(z[i, k])
        assert_close(got[e], best, 1e-5, f"branch {e}")


def test_best_cosines_are_stage_2s() -> None:
    """Reference: `stage2.engine.angles.best_cosines` of a linear head on the features, as a bank
    would hold them."""
    for classifier in ("linear", "cosine"):
        model, images = model_and_images(3, classifier)
        got = best_cosines(model.eval(), [images], LABELS, 5)
        assert not model.training
        linear = HEADS["linear"]
        assert isinstance(linear, TrainedHead)
        with torch.no_grad():
            features = model.branch_features(images)
        for e, (weight, bias) in enumerate(model.linear_classifiers()):
            rows = MemoryRows(features[e], LABELS)
            counts = torch.bincount(LABELS, minlength=5).double().numpy()
            context = Context(counts, rows.dim, rows.device, rows.blocks)
            parameters = {"weight": weight[None].clone(), "bias": bias[None].clone()}
            expected = angles.best_cosines(linear, parameters, rows, context)
            assert_close(got[e], expected[0], 1e-6, f"{classifier}, branch {e}")


@pytest.mark.parametrize("size", [1, 2, 6])
def test_of_equal_logits_the_largest_cosine_counts(size: int) -> None:
    """Reference: by hand, in every order; a smaller logit's larger cosine does not count."""
    rows = [(3.0, 4.0), (3.0, 0.0), (3.0, -3.0), (2.0, 0.0), (0.0, -5.0), (4.0, -6.0)]
    labels = [0, 0, 0, 0, 1, 1]
    for order in (range(6), reversed(range(6)), (3, 1, 5, 0, 4, 2)):
        chosen = list(order)
        images = torch.tensor([rows[i] for i in chosen]).view(6, 1, 1, 2)
        y = torch.tensor([labels[i] for i in chosen])
        got = best_cosines(Told((0.5, 9.0)), images.split(size), y, 2)
        assert_close(got, [[1.0, -1.0]], 1e-6, f"order {chosen}")


def test_the_model_keeps_its_statistics_and_its_mode_after_an_error() -> None:
    """Reference: the state before; batches that fall short of the labels are an error."""
    model, images = model_and_images(3, "linear")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AssertionError, match="7 images for 12 labels"):
        best_cosines(model, [images[:7]], LABELS, 5)
    assert model.training
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_class_cosines() -> None:
    """Reference: the formula in float64, lengths of any size; 0 of zero vectors, no gradient."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(12, 6, generator=draws) * torch.logspace(-3, 3, 12)[:, None]
    w = torch.randn(5, 6, generator=draws) * torch.tensor([1e-2, 1, 1e2, 3, 5])[:, None]
    x[4], w[3] = 0, 0
    got = class_cosines(x.requires_grad_(), w, LABELS)
    assert not got.requires_grad
    a, b = x.detach().double(), w.double()[LABELS]
    lengths = a.norm(dim=1) * b.norm(dim=1)
    expected = torch.where(lengths > 0, (a * b).sum(1) / lengths.clamp_min(1e-300), 0)
    assert_close(got, expected, 1e-6, "cosines")
    assert (expected == 0).sum() == 4


def test_classifiers_of_one_direction_have_one_cosine() -> None:
    """Reference: the cosines of a linear classifier, of the same rows at the cosine one's scale."""
    linear, images = model_and_images(1, "linear")
    cosine, _ = model_and_images(1, "cosine")
    state = {n: x for n, x in linear.state_dict().items() if n != "classifier.bias"}
    cosine.load_state_dict(state)
    values = []
    for model in (linear.eval(), cosine.eval()):
        ((weight, _),) = model.linear_classifiers()
        values.append(class_cosines(model.features(images), weight, LABELS))
    assert_close(values[1], values[0], 1e-6, "cosines")
