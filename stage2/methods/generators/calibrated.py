"""Gaussians of rare classes, calibrated with the statistics of the classes near to each sample."""

from __future__ import annotations

import itertools
import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from featbank.bank import GROUPS, class_groups
from featbank.settings import Setting
from stage2.methods.generators.drawing import by_class, draw_each, normals, runs
from stage2.methods.generators.gaussians import BLOCK_ROWS, Map, OwnGaussians, unchanged
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
KEPT_BYTES = 64 << 20
"""What `Kept` may take."""


def output_space(default: str) -> Setting:
    """The setting ``output_space`` with this default."""
    return Setting(
        "output_space",
        default,
        "what heads see: features as stage 1 made them, or after Tukey's transform",
        choices=("raw", "tukey"),
    )


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
        From calibrated draws to what heads see; elementwise where these depend on β.
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


@dataclass(frozen=True)
class Kept:
    """What is kept of n sources where that is little: then a draw takes r ≤ D numbers whatever the
    sizes of the lenders, and a class one product.

    Attributes
    ----------
    label
        Their classes [n], ascending.
    factor
        [n, r + 1, D]: F with FᵀF = Σ_j ω_j Σ_j, and under it `Calibrated.center`: (ε, 1) times it
        is a draw.
    classes
        K.
    """

    label: Tensor
    factor: Tensor
    classes: int

    def arranged(self, place: Tensor) -> Tensor:
        """An order of rows from the sources `place` [T]: by class, and within a class as many of
        each source as all have, source by source, then the rest."""
        order = place.argsort(stable=True)
        sources, counts = place.index_select(0, order).unique_consecutive(return_counts=True)
        label = self.label.index_select(0, sources)
        least = counts.new_full((self.classes,), len(place))
        least.scatter_reduce_(0, label, counts, "amin")
        excess = counts - least[label]
        # Of a source with c rows, of which e are too many, the last e.
        end = counts.cumsum(0).repeat_interleave(counts)
        rest = end - torch.arange(len(place), device=end.device) <= excess.repeat_interleave(counts)
        key = 2 * label.repeat_interleave(counts) + rest
        return order.index_select(0, key.argsort(stable=True))

    def draw(self, drawn: Tensor, place: Tensor, random: torch.Generator) -> None:
        """Draw from N(center, FᵀF) of the sources `place` [T], as `arranged`, to `drawn` [T, D]."""
        noise = normals(len(place), self.factor.shape[1], random)
        noise[:, -1] = 1
        sources, counts = place.unique_consecutive(return_counts=True)
        # Sources of one class that follow one another with as many rows are one product.
        label = self.label.index_select(0, sources)
        same = (label[1:] == label[:-1]) & (counts[1:] == counts[:-1])
        same &= sources[1:] == sources[:-1] + 1
        cuts = [0, *((~same).nonzero().view(-1) + 1).tolist(), len(sources)]
        starts, firsts = counts.cumsum(0).sub_(counts).tolist(), sources.tolist()
        sizes = counts.tolist()
        for a, b in itertools.pairwise(cuts):
            rows = slice(starts[a], starts[a] + (b - a) * sizes[a])
            shape = (b - a, sizes[a], -1)
            factor = self.factor[firsts[a] : firsts[a] + b - a]
            torch.bmm(noise[rows].view(shape), factor, out=drawn[rows].view(shape))


class Calibrated(OwnGaussians):
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
        super().__init__(features, spaces.statistics, spaces.plain)
        self.spaces, self._tail = spaces, tail
        sources = self.order[(tail & (self.missing > 0))[features.labels[self.order]]]
        self._place = torch.full_like(features.labels, -1)  # of a training row among the sources
        self._place[sources] = torch.arange(len(sources), device=sources.device)
        y = features.labels[sources]
        counts = torch.from_numpy(features.counts).to(y.device)
        near = [
            supports(self.sample(rows), label, self.gaussians.means, counts, support, among=among)
            for rows, label in zip(sources.split(BLOCK_ROWS), y.split(BLOCK_ROWS), strict=True)
        ]
        distance, self._support = (torch.cat(of) for of in zip(*near, strict=True))
        found = self._support >= 0
        self._weight = self.weights(distance, counts[self._support], found).float()
        self.lenders = found.sum(1)
        _warn_of_few(name, y, found, support)
        self._kept = self._small_enough(sources, y)

    @abstractmethod
    def weights(self, distance: Tensor, counts: Tensor, found: Tensor) -> Tensor:
        """ω of the support classes of each source [n, S], float64, from their distances and
        training counts; rows add to 1 over those that were `found`, bool, and are 0 elsewhere."""

    @abstractmethod
    def center(self, source: Tensor) -> Tensor:
        """The mean of what is lent to the training rows `source` [T], [T, D]."""

    @abstractmethod
    def calibrated(
        self, y: Tensor, source: Tensor, lent: Tensor, random: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draws of the classes `y` [T], ascending, from the training rows `source` [T]: the base
        and the direction of each, [T, D], or the draws alone.

        `lent` [T, D] are draws from N(center, Σ_j ω_j Σ_j), to be overwritten.
        """

    def space(self, x: Tensor) -> Tensor:
        return self.spaces.real(x)

    def arranged(self, y: Tensor, source: Tensor) -> Tensor:
        tail = self._tail.index_select(0, y)
        others, rare = (~tail).nonzero().view(-1), tail.nonzero().view(-1)
        others = others.index_select(0, y.index_select(0, others).argsort(stable=True))
        place = self.place(source.index_select(0, rare))
        order = self._kept.arranged(place) if self._kept else place.argsort(stable=True)
        return torch.cat([others, rare.index_select(0, order)])

    def draw(self, x: Tensor, y: Tensor, source: Tensor, random: torch.Generator) -> Blend | None:
        others = len(y) - int(self._tail.index_select(0, y).sum())
        super().draw(x[:others], y[:others], source[:others], random)
        rare, y, source = x[others:], y[others:], source[others:]
        if not len(y):
            return None
        lent = rare if self.blended is None else x.new_empty(len(y), x.shape[1])
        self._lend(lent, source, random)
        base, *direction = self.calibrated(y, source, lent, random)
        if direction:
            return Blend(base, direction[0], y, self.spaces.finish)
        if self.spaces.finish is not unchanged:
            rare.copy_(self.spaces.finish(base))
        return None

    def add_own(self, drawn: Tensor, y: Tensor, random: torch.Generator) -> None:
        """Add draws from N(0, Σ_y) for the classes `y` [T], as `arranged`, to `drawn` [T, D]."""
        for k, rows in runs(y):
            self.gaussians.add_draws(k, random, to=drawn[rows])

    def sample(self, source: Tensor) -> Tensor:
        """x̂ of the training rows [T], [T, D]."""
        return self.spaces.sample(self.features.x.index_select(0, source))

    def _lend(self, lent: Tensor, source: Tensor, random: torch.Generator) -> None:
        """Draw from N(center, Σ_j ω_j Σ_j) for the training rows `source` [T], to `lent` [T, D]."""
        place = self.place(source)
        if self._kept:
            self._kept.draw(lent, place, random)
        else:
            lent.copy_(self.center(source))
            self._add_lent(lent, place, random)

    def place(self, source: Tensor) -> Tensor:
        """Where the training rows [T] are among the sources, [T]."""
        return self._place.index_select(0, source)

    def lent_mean(self, source: Tensor) -> Tensor:
        """Σ_j ω_j μ_j over the support of the training rows [T], [T, D]."""
        place, means = self.place(source), self.gaussians.means
        weight, support = self._weight[place], self._support[place]
        total = means.new_zeros(len(place), means.shape[1])
        for slot in range(support.shape[1]):
            total.addcmul_(means[support[:, slot]], weight[:, slot, None])
        return total

    def _add_lent(self, drawn: Tensor, place: Tensor, random: torch.Generator) -> None:
        """Add draws from N(0, Σ_j ω_j Σ_j) over the support of each source [T] to `drawn` [T, D]:
        one product for all that a class lends."""
        support, scale = self._support[place], self._weight[place].sqrt_()
        dim = self.features.x.shape[1]
        slots = self.features.x.new_zeros(support.shape[1], len(place), dim)
        row, slot = (scale > 0).nonzero(as_tuple=True)
        lender, scale = support[row, slot], scale[row, slot]

        def lend(k: int, those: Tensor, random: torch.Generator) -> None:
            own = slots.new_zeros(len(those), dim)
            self.gaussians.add_draws(k, random, to=own, scale=scale[those])
            slots[slot[those], row[those]] = own

        draw_each(lend, list(by_class(lender)), random, numbers=len(row) * dim)
        for one in slots:
            drawn.add_(one)

    def _small_enough(self, sources: Tensor, y: Tensor) -> Kept | None:
        """What is kept of the training rows `sources` [n], of the classes `y` [n]; None if much."""
        dim, supports_of = self.features.x.shape[1], self._support.tolist()
        ranks = [sum(self.gaussians.rank(k) for k in of if k >= 0) for of in supports_of]
        rank = min(dim, max(ranks, default=0))
        if 4 * len(ranks) * (rank + 1) * dim > KEPT_BYTES:
            return None
        factors = self.features.x.new_zeros(len(ranks), rank + 1, dim)
        factors[:, -1] = self.center(sources)
        scales = self._weight.sqrt().tolist()
        for place, (of, scale) in enumerate(zip(supports_of, scales, strict=True)):
            lent = [s * self.gaussians.factor(k) for k, s in zip(of, scale, strict=True) if s]
            factor = torch.cat(lent) if lent else factors.new_empty(0, dim)
            if len(factor) > dim:
                factor = torch.linalg.qr(factor, mode="r").R
            factors[place, : len(factor)] = factor
        return Kept(y, factors, len(self.features.counts))


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


def add_noise(
    drawn: Tensor, random: torch.Generator, *, diagonal: float = 0.0, full: float = 0.0
) -> Tensor:
    """Add draws from N(0, diagonal·I + full·11ᵀ) to `drawn` [T, D]."""
    if full:
        drawn.add_(normals(len(drawn), 1, random), alpha=math.sqrt(full))
    if diagonal:
        drawn.add_(normals(len(drawn), drawn.shape[1], random), alpha=math.sqrt(diagonal))
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
