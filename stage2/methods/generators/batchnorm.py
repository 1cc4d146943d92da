"""Features normalised by their batch, as BatchNorm in train mode normalises them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage2.methods.generators.interface import Features, Generation, Generator, Made, Settings
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-5
"""Added to variances, as BatchNorm does."""


class BatchNorm(Generator):
    """x ↦ (x − m)·s̄/s + m̄ with the mean m and deviation s of a batch [BatchNorm alg. 1], in each
    dimension.

    Code that re-runs a frozen backbone in train mode trains on features that are normalised by
    their batch, and is tested under running averages. Here the last layer does so alone: m̄ is the
    mean of m over the batches of a window, s̄² that of s², so that features as they are, those of
    val and test, are those under the averages.
    """

    description = "rows normalised by their batch, as in a backbone in train mode"
    source = "batchnorm"
    fills = False

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return NormalisedBatches(features)


class NormalisedBatches(Generation):
    """Batches of items, each normalised by its own moments."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.labels = features.items

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        rows = draws.flatten()
        x = self.features.x[rows].view(*draws.shape, -1)  # [steps, B, D]
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        ratio = ((variance.mean(0) + EPS) / (variance + EPS)).sqrt_()
        x = x.sub_(mean).mul_(ratio).add_(mean.mean(0))
        places = torch.arange(len(rows), device=rows.device)
        return Made(x.flatten(0, 1), places, self.features.labels[rows])
