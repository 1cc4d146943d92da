"""Gaussians of rare classes, calibrated with the statistics of the classes near to each sample."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from featbank.bank import GROUPS, class_groups
from featbank.settings import Setting
from stage2.methods.generators.filling import Filling
from stage2.methods.generators.gaussians import ClassGaussians
from stage2.methods.generators.interface import Blend, Features, Settings
from stage2.methods.generators.tukey import inverse_tukey, tukey
from stage2.methods.neighbors import supports

SUPPORT = Setting("support", 2, "classes nearest to a sample that lend it their statistics", low=1)
TUKEY = Setting("tukey", 0.5, "power λ of Tukey's transform sign(x)|x|^λ; 1 is none", above=0)
STATISTICS = Setting(
    "statistics",
    "raw",
    "class means and covariances of features as they are (paper) or after Tukey's transform",
    choices=("raw", "tukey"),
)
TAIL = Setting(
    "tail",
    "few",
    "classes that are calibrated; others are drawn from their own Gaussian",
    choices=("few", "medium+few"),
)
Map = Callable[[Tensor], Tensor]


def output_space(default: str) -> Setting:
    """The setting ``output_space`` with this default."""
    return Setting(
        "output_space",
        default,
        "what heads see: features as stage 1 made them, or after Tukey's transform",
        choices=("raw", "tukey"),
    )


def unchanged(x: Tensor) -> Tensor:
    """x."""
    return x


@dataclass(frozen=True)
class Spaces:
    """The spaces features go through, as maps of rows [n, D].

    Attributes
    ----------
    sample
        From features to where a sample x̂ is calibrated.
    statistics
        From features to where μ_k and Σ_k are taken.
    real
        From features to what heads see.
    finish
        From calibrated draws to what heads see, elementwise.
    plain
        From draws of a class's own Gaussian to what heads see.
    """

    sample: Map
    statistics: Map
    real: Map
    finish: Map
    plain: Map

    @staticmethod
    def of(settings: Settings) -> Spaces:
        """Those of the settings ``tukey``, ``statistics`` and ``output_space``."""
        there = partial(tukey, power=settings["tukey"])
        back = partial(inverse_tukey, power=settings["tukey"])
        raw_statistics = settings["statistics"] == "raw"
        if settings["output_space"] == "raw":
            plain = unchanged if raw_statistics else back
            return Spaces(there, unchanged if raw_statistics else there, unchanged, back, plain)
        plain = there if raw_statistics else unchanged
        return Spaces(there, unchanged if raw_statistics else there, there, unchanged, plain)


class Calibrated(Filling):
    """Made rows of the classes `tail` are calibrated, those of others from their own Gaussian.

    Parameters
    ----------
    name
        The generator, for warnings.
    features, spaces
        The training features and what they go through.
    tail
        Classes [K] bool.
    support
        Classes that each sample is calibrated with, where there are so many.
    among
        ``larger``: of those that have more samples than its own; ``all``: its own included.
    """

    def __init__(
        self,
        name: str,
        features: Features,
        spaces: Spaces,
        tail: Tensor,
        *,
        support: int,
        among: str = "larger",
    ) -> None:
        super().__init__(features)
        self.spaces, self._tail = spaces, tail
        self._gaussians = ClassGaussians(features, self.samples, spaces.statistics)
        sources = (tail & (self.missing > 0))[features.labels].nonzero().view(-1)
        self._place = torch.full_like(features.labels, -1)  # of a training row among the sources
        self._place[sources] = torch.arange(len(sources), device=sources.device)
        y = features.labels[sources]
        counts = torch.from_numpy(features.counts).to(y.device)
        distance, self._support = supports(
            spaces.sample(features.x[sources]),
            y,
            self._gaussians.means,
            counts,
            support,
            among=among,
        )
        found = self._support >= 0
        self._weight = self.weights(distance, counts[self._support], found).float()
        self._lenders = found.sum(1)
        _warn_of_few(name, y, found, support)

    @abstractmethod
    def weights(self, distance: Tensor, counts: Tensor, found: Tensor) -> Tensor:
        """ω of the support classes of each source [n, S], float64, from their distances and
        training counts; rows add to 1 over those that were `found`, bool, and are 0 elsewhere."""

    @abstractmethod
    def calibrated(
        self, y: Tensor, source: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Draws of the classes `y` [T] from the training rows `source` [T]: base and direction,
        each [T, D], or the draws themselves and None."""

    def space(self, x: Tensor) -> Tensor:
        return self.spaces.real(x)

    def draw(
        self, y: Tensor, source: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Blend | None]:
        x = self.features.x.new_empty(len(y), self.features.x.shape[1])
        tail = self._tail[y]
        others, places = (~tail).nonzero().view(-1), tail.nonzero().view(-1)
        x[others] = self.spaces.plain(self._gaussians.draw(y[others], random))
        base, direction = self.calibrated(y[places], source[places], random)
        if direction is None:
            x[places] = self.spaces.finish(base)
            return x, None
        slot = torch.full_like(y, -1)
        slot[places] = torch.arange(len(places), device=y.device)
        return x, Blend(slot, base, direction, self.spaces.finish)

    def lenders(self, source: Tensor) -> Tensor:
        """How many support classes the training rows [T] have, [T]."""
        return self._lenders[self._place[source]]

    def sample(self, source: Tensor) -> Tensor:
        """x̂ of the training rows [T], [T, D]."""
        return self.spaces.sample(self.features.x.index_select(0, source))

    def own_deviation(self, y: Tensor, random: torch.Generator) -> Tensor:
        """Draws from N(0, Σ_y), [T, D]."""
        drawn = self.features.x.new_zeros(len(y), self.features.x.shape[1])
        self._gaussians.add_deviations(drawn, y, random)
        return drawn

    def lent_mean(self, source: Tensor) -> Tensor:
        """Σ_j ω_j μ_j over the support of each source, [T, D]."""
        place, means = self._place[source], self._gaussians.means
        total = means.new_zeros(len(source), means.shape[1])
        for support, weight in zip(self._support.t(), self._weight.t(), strict=True):
            total.addcmul_(means[support[place]], weight[place, None])
        return total

    def add_lent_deviation(self, x: Tensor, source: Tensor, random: torch.Generator) -> None:
        """Add draws from N(0, Σ_j ω_j Σ_j) over the support of each source to `x` [T, D]."""
        place = self._place[source]
        weight = self._weight[place]
        row, slot = (weight > 0).nonzero(as_tuple=True)
        self._gaussians.add_deviations(
            x, self._support[place][row, slot], random, into=row, scale=weight[row, slot].sqrt()
        )


def tail_classes(name: str, features: Features, tail: str) -> Tensor:
    """The classes [K] bool of the groups `tail`; warns where there is none."""
    groups, names = class_groups(features.counts), tail.split("+")
    wanted = np.any([groups[group] for group in names], axis=0) & (features.counts > 0)
    if not wanted.any():
        rules = " or ".join(GROUPS[group] for group in names)
        warnings.warn(
            f"Generator {name!r} calibrates no class: none has {rules}. All are filled from their "
            "own Gaussians."
        )
    return torch.from_numpy(wanted).to(features.x.device)


def noise(
    x: Tensor, random: torch.Generator, *, diagonal: float = 0.0, full: float = 0.0
) -> Tensor:
    """Draws from N(0, diagonal·I + full·11ᵀ) shaped as `x` [T, D], or broadcastable to it."""
    rows, dim = x.shape
    drawn = x.new_zeros(rows, 1)
    if full:
        drawn = torch.randn(rows, 1, device=x.device, generator=random).mul_(math.sqrt(full))
    if diagonal:
        own = torch.randn(rows, dim, device=x.device, generator=random)
        drawn = own.mul_(math.sqrt(diagonal)).add_(drawn)
    return drawn


def _warn_of_few(name: str, y: Tensor, found: Tensor, support: int) -> None:
    """Say of which classes the samples have fewer support classes than were asked for."""
    short = found.sum(1) < support
    if not bool(short.any()):
        return
    classes = y[short].unique().tolist()
    warnings.warn(
        f"Generator {name!r} finds fewer than support={support} classes to calibrate class "
        f"{classes[0]} with, of {len(classes)} such classes; it uses what there is."
    )
