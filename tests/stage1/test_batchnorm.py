"""BatchNorm statistics of the `balanced` view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featbank import errors
from stage1.augment import augment
from stage1.backbones import CifarResNet
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, ImageDataset
from stage1.inference.batchnorm import (
    BATCH,
    batchnorm_statistics,
    default_batches,
    draw_by_class,
    rebalanced,
)
from stage1.training.checkpoint import load_checkpoint


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_draws_follow_a_power_of_the_counts(power: float) -> None:
    """Reference: p(class) ∝ n_k^q and uniform rows within, in four deviations; METHODS.md §2.

    The class between the others has no row, and is never drawn.
    """
    counts = torch.tensor([400, 0, 100, 4], dtype=torch.float64)
    labels = torch.arange(4).repeat_interleave(counts.long())
    labels = labels[torch.randperm(504, generator=torch.Generator().manual_seed(1))]
    generator = torch.Generator().manual_seed(0)
    rows = draw_by_class(labels, 40_000, generator=generator, power=power)
    expected = counts**power / (counts**power).sum()
    got = labels[rows].bincount(minlength=4) / 40_000
    assert ((got - expected).abs() <= 4 * (expected * (1 - expected) / 40_000).sqrt()).all()
    per_row = rows.bincount(minlength=504)[labels == 2].double()
    mean = 40_000 * expected[2] / 100
    assert ((per_row - mean).abs() < 5 * mean.sqrt()).all()


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset(DatasetSettings("digits-lt"))


@pytest.fixture
def model(digits_run: object) -> CifarResNet:
    return load_checkpoint(str(digits_run))[1].model()


def _rebalanced(model: CifarResNet, digits: ImageDataset, *, seed: int = 3) -> CifarResNet:
    split, pre = digits.splits["train"], digits.preprocessing
    return rebalanced(model, split, preprocessing=pre, batches=5, seed=seed)


def test_statistics_match_a_slow_reference(model: CifarResNet, digits: ImageDataset) -> None:
    """Against float64 means of per-batch mean and unbiased variance of each layer's input."""
    seen: dict[str, list[torch.Tensor]] = {}
    split, generator = digits.splits["train"], torch.Generator().manual_seed(3)
    reference = load_checkpoint_copy(model).train()
    for name, layer in reference.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, x, name=name: seen.setdefault(name, []).append(x[0].detach().double())
            )
    drawn = [draw_by_class(split.labels, BATCH, generator=generator) for _ in range(5)]
    for rows in drawn:
        reference(augment(split.images[rows], digits.preprocessing, generator=generator))
    statistics = batchnorm_statistics(_rebalanced(model, digits))
    assert set(statistics) == set(seen)
    for name, inputs in seen.items():
        mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
        variance = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
        np.testing.assert_allclose(statistics[name][0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(statistics[name][1], variance, rtol=1e-4)


def load_checkpoint_copy(model: CifarResNet) -> CifarResNet:
    copy = CifarResNet(1, in_channels=1, num_classes=10)
    copy.load_state_dict(model.state_dict())
    return copy


def test_the_model_and_all_weights_stay(model: CifarResNet, digits: ImageDataset) -> None:
    """Against the state before: only running statistics differ, and only in the copy."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = _rebalanced(model, digits)
    assert not model.training
    assert not copy.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    changed = {name for name, tensor in copy.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {name for name in before if "running" in name or "num_batches" in name}


def test_statistics_are_deterministic_for_a_seed(model: CifarResNet, digits: ImageDataset) -> None:
    """Two runs of one seed agree to the bit; another seed does not."""
    first, again, other = (
        batchnorm_statistics(_rebalanced(model, digits, seed=seed)) for seed in (3, 3, 4)
    )
    assert all((first[name][0] == again[name][0]).all() for name in first)
    assert all((first[name][0] != other[name][0]).any() for name in first)


def test_a_backbone_without_batchnorm_is_reported(digits: ImageDataset) -> None:
    """It has no balanced view, and the sentence says so."""
    model = CifarResNet(1, in_channels=1, num_classes=10)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    with pytest.raises(errors.ConfigError, match=r"no BatchNorm.* Use --views instance"):
        _rebalanced(model, digits)


def test_draws_are_uniform_over_classes_then_images() -> None:
    """Against 1/(K·n_k) for each row, within five standard errors; an empty class never comes."""
    labels = torch.tensor([3, 0, 0, 3, 3, 5, 0, 0])  # counts: 0 → 4, 3 → 3, 5 → 1
    draws = 60_000
    rows = draw_by_class(labels, draws, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(rows, minlength=8).double() / draws
    counts = {0: 4, 3: 3, 5: 1}
    expected = torch.tensor([1 / (3 * counts[k]) for k in labels.tolist()], dtype=torch.float64)
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_default_batches_are_a_pass_over_the_data_at_least_64() -> None:
    """Against ⌊N/128⌋ and the floor of 64."""
    assert [default_batches(n) for n in (328, 64 * 128, 10847)] == [64, 64, 84]
