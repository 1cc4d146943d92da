"""Feature mixup and Remix: batches of convex combinations of two samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.generators.interface import (
    Features,
    Generation,
    Generator,
    Made,
    Second,
    Settings,
)
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = Setting("alpha", 1.0, "α of λ ~ Beta(α, α); small leaves rows nearly unmixed", above=0)


class Mixup(Generator):
    """λx_i + (1−λ)x_j with the loss λL(y_i) + (1−λ)L(y_j) [mixup §2], on features.

    As released: one λ ~ Beta(α, α) a batch, and x_j is the batch in another order. α = 1 is the
    release's default and what [MiSLAS] takes on CIFAR-LT; on ImageNet both papers take 0.2.
    """

    description = "convex combinations of two samples and of their losses"
    source = "mixup"
    settings = (ALPHA,)
    fills = False
    mixes = True

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return Mixing(features, settings["alpha"])


class Remix(Generator):
    """Mixup whose loss counts the rarer class alone where the classes differ enough in size.

    The share of y_i [Remix eq. 10] is 0 where n_i/n_j ≥ κ and λ < τ, 1 where n_i/n_j ≤ 1/κ and
    1−λ < τ, λ otherwise. Where both hold (κ = 1, τ > ½, n_i = n_j) the first counts. Defaults are
    the paper's; τ = 0 is mixup.
    """

    description = "mixup that labels a mixed row with the rarer class"
    source = "remix"
    settings = (
        ALPHA,
        Setting("kappa", 3.0, "κ, least ratio of class counts that favours the rarer", low=1),
        Setting("tau", 0.5, "τ, bound on the other class's share for that", low=0, high=1),
    )
    fills = False
    mixes = True

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return Mixing(features, settings["alpha"], settings["kappa"], settings["tau"])


class Mixing(Generation):
    """Batches of items, mixed with themselves in another order."""

    def __init__(
        self, features: Features, alpha: float, kappa: float = 1.0, tau: float = 0.0
    ) -> None:
        self.features = features
        self.labels = features.items
        self._counts = torch.from_numpy(features.counts).to(features.x.device)
        self._alpha, self._kappa, self._tau = alpha, kappa, tau

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        x, labels = self.features.x, self.features.labels
        keys = torch.rand(draws.shape, generator=random, device=x.device, dtype=torch.float64)
        rows, partners = draws.flatten(), draws.gather(1, keys.argsort(1)).flatten()
        part = _beta(self._alpha, len(draws), random).repeat_interleave(draws.shape[1])  # λ
        y, other = labels[rows], labels[partners]
        mixed = x[rows].lerp_(x[partners], (1 - part).to(x.dtype)[:, None])
        second = Second(other, self.share(part, y, other).to(x.dtype))
        return Made(mixed, torch.arange(len(y), device=y.device), y, second=second)

    def share(self, part: Tensor, y: Tensor, other: Tensor) -> Tensor:
        """The weight of y_i in the loss, λ_y [R], where x_i is the `part` λ [R] of the features."""
        n_i, n_j = self._counts[y], self._counts[other]
        common = (n_i / n_j >= self._kappa) & (part < self._tau)
        rare = (n_j / n_i >= self._kappa) & (1 - part < self._tau)  # as n_i/n_j ≤ 1/κ, but exact
        return part.masked_fill(rare, 1).masked_fill(common, 0)


def _beta(alpha: float, size: int, random: torch.Generator) -> Tensor:
    """Numbers ~ Beta(α, α), [size] float64, on the device of `random`.

    By NumPy, because PyTorch's takes no generator.
    """
    device = random.device
    seed = int(torch.randint(2**63 - 1, (), generator=random, device=device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, size)).to(device)
