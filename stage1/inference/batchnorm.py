"""BatchNorm statistics: read, and re-estimated for the `balanced` view."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from featbank import errors
from stage1.augment import augmented, cuts_of
from stage1.backbones import Backbone
from stage1.data.images import Preprocessing, Split, batches_of, on_device

BATCH = 128
"""Images per class-balanced batch."""


def default_batches(train_size: int) -> int:
    """Class-balanced batches M for N training images: one pass over them, at least 64."""
    return max(64, train_size // BATCH)


def batchnorm_statistics(model: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Running mean and variance, float32, of each BatchNorm layer by its name."""
    return {
        name: (layer.running_mean.cpu().numpy(), layer.running_var.cpu().numpy())
        for name, layer in _layers(model).items()
        if layer.running_mean is not None and layer.running_var is not None
    }


@torch.no_grad()
def rebalanced(
    model: Backbone,
    split: Split,
    *,
    preprocessing: Preprocessing,
    batches: int,
    seed: int,
) -> Backbone:
    """A copy of `model` with BatchNorm statistics of class-balanced batches [MiSLAS §3.3, AdaBN].

    Statistics are reset, then averaged over `batches` batches with equal weight; images are
    augmented as in training, dropout is off. All weights stay, those of BatchNorm too. MiSLAS does
    this while it trains stage 2; here it is done once, before.

    Parameters
    ----------
    model
        Not changed.
    split
        Training images; each draw takes a class that occurs, then one of its images.
    batches
        M ≥ 1 batches of `BATCH` images.
    seed
        Seed of the draws and the augmentation.

    Returns
    -------
    The copy, in eval mode, on the model's device.

    Raises
    ------
    ConfigError
        For a model without BatchNorm.
    """
    model = copy.deepcopy(model).eval()
    layers = _layers(model)
    if not layers:
        raise errors.ConfigError(
            "This backbone has no BatchNorm, so it has no 'balanced' view. Use --views instance."
        )
    for layer in layers.values():
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over all batches
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    labels = split.labels.to(device)
    rows = [draw_by_class(labels, BATCH, generator=generator) for _ in range(batches)]
    crops = np.random.default_rng(seed)
    cuts = cuts_of(split.images, preprocessing.augmentation, lambda rows: crops)
    for images in batches_of(on_device(split.images, device), rows, device, cuts):
        model.branch_features(*augmented(images, preprocessing, generator=generator))
    return model.eval()


def draw_by_class(
    labels: torch.Tensor, size: int, *, generator: torch.Generator, power: float = 0.0
) -> torch.Tensor:
    """Draw rows [size] of `labels` [N]: a class, by p(class) ∝ n_k^`power`, then one of its rows.

    Classes without rows are never drawn. A `power` of 0 draws the others uniformly, ½ by the square
    root of their counts [cRT §3.1].
    """
    by_class = labels.argsort(stable=True)
    _, counts = labels.unique(return_counts=True)
    first = counts.cumsum(0) - counts
    if power:
        drawn = (counts**power).multinomial(size, replacement=True, generator=generator)
    else:
        drawn = torch.randint(len(counts), (size,), generator=generator, device=labels.device)
    place = torch.rand(size, generator=generator, device=labels.device, dtype=torch.float64)
    return by_class[first[drawn] + (place * counts[drawn]).long()]


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
