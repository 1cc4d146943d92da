"""Gaussians of rare classes, calibrated with the statistics of the classes near to each sample."""

from __future__ import annotations

import itertools
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from featbank.bank import GROUPS, class_groups
from featbank.settings import Setting
from stage2.methods.generators import drawing
from stage2.methods.generators.drawing import by_class, draw_each, normals, spread
from stage2.methods.generators.filling import Sources
from stage2.methods.generators.gaussians import BLOCK_ROWS, Map, OwnGaussians, unchanged
from stage2.methods.generators.interface import Blend, Features, Settings
from stage2.methods.generators.tukey import STAGE1, Space, inverse_tukey, tukey
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
SPARE = 1.25
"""Rows made for one that is wanted, at most, so that all sources of a class have as many: then
their draws are one product."""

KEPT_BYTES = 64 << 20
"""What `Kept` may take."""


def seen_space(settings: Settings) -> Space:
    """The space that heads see by the settings ``output_space`` and ``tukey``."""
    return Space(settings["tukey"]) if settings["output_space"] == "tukey" else STAGE1


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
        statistics = unchanged if settings["statistics"] == "raw" else there
        real = seen_space(settings)
        if settings["output_space"] == "raw":
            plain = unchanged if statistics is unchanged else back
            return Spaces(there, statistics, real, back, plain)
        plain = there if statistics is unchanged else unchanged
        return Spaces(there, statistics, real, unchanged, plain)


@dataclass(frozen=True)
class Kept:
    """What is kept of n sources where that is little: then a draw takes r ≤ D numbers whatever the
    sizes of the lenders.

    Attributes
    ----------
    center
        [n, 1, D]: `Calibrated.center`.
    factor
        [n, r, D]: F with FᵀF = Σ_j ω_j Σ_j with the noise that is added to it.
    """

    center: Tensor
    factor: Tensor

    def draw(self, drawn: Tensor, place: Tensor, count: Tensor, random: torch.Generator) -> None:
        """Draw from N(center, FᵀF) of the sources `place` [G], `count` [G] rows of each, to `drawn`
        [T, D]."""
        rank, dim = self.factor.shape[1:]
        lots = self._lots(place, count)

        def lot(number: int, random: torch.Generator) -> None:
            most = max(sources * each for _, sources, each, _ in lots[number])
            noise = drawn.new_empty(most, rank)
            for first, sources, each, row in lots[number]:
                rows = sources * each
                torch.baddbmm(
                    self.center[first : first + sources],
                    noise[:rows].normal_(generator=random).view(sources, each, rank),
                    self.factor[first : first + sources],
                    out=drawn[row : row + rows].view(sources, each, dim),
                )

        spread(lot, len(lots), random)

    def _lots(self, place: Tensor, count: Tensor) -> list[list[tuple[int, int, int, int]]]:
        """Products to be done together: the first of sources that follow one another, how many,
        how many rows of each, and the first of these rows."""
        same = (place[1:] == place[:-1] + 1) & (count[1:] == count[:-1])
        cuts = [0, *((~same).nonzero().view(-1) + 1).tolist(), len(place)]
        firsts, rows = place.tolist(), (count.cumsum(0) - count).tolist()
        rank, each = self.factor.shape[1], count.tolist()
        products = []
        for a, b in itertools.pairwise(cuts):
            most = max(1, drawing.CHUNK // (each[a] * rank))
            for i in range(a, b, most):
                products.append((firsts[i], min(most, b - i), each[i], rows[i]))
        lots = itertools.groupby(products, lambda product: product[-1] * rank // drawing.CHUNK)
        return [list(lot) for _, lot in lots]


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
    noise
        Of what is lent, as for `add_noise`.
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
        noise: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(features, spaces.statistics, spaces.plain, last=tail)
        self.spaces, self._tail, self._noise = spaces, tail, noise
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
        self._kept = self._small_enough(sources)

    @abstractmethod
    def weights(self, distance: Tensor, counts: Tensor, found: Tensor) -> Tensor:
        """ω of the support classes of each source [n, S], float64, from their distances and
        training counts; rows add to 1 over those that were `found`, bool, and are 0 elsewhere."""

    @abstractmethod
    def center(self, source: Tensor) -> Tensor:
        """The mean of what is lent to the training rows `source` [n], [n, D]."""

    @abstractmethod
    def calibrated(
        self, sources: Sources, lent: Tensor, random: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draws of new rows: the base and the direction of each, [T, D], or the draws alone.

        `lent` [T, D] are draws from N(center, Σ_j ω_j Σ_j) with noise, to be overwritten.
        """

    def space(self, x: Tensor) -> Tensor:
        return self.spaces.real(x)

    def rounded(self, sources: Sources) -> Sources:
        if not self._kept:
            return sources
        most = torch.zeros_like(self.missing).scatter_reduce_(0, sources.y, sources.count, "amax")
        count = torch.where(self._tail, most, 0).index_select(0, sources.y).maximum(sources.count)
        few = int(count.sum()) <= SPARE * int(sources.count.sum())
        return replace(sources, count=count) if few else sources

    def draw(self, x: Tensor, sources: Sources, random: torch.Generator) -> Blend | None:
        others = int((~self._tail[sources.y]).sum())
        plain, rare = sources[:others], sources[others:]
        first = int(plain.count.sum())
        if first:
            super().draw(x[:first], plain, random)
        if not len(rare.row):
            return None
        drawn = x[first:]
        lent = drawn
        if self.blended is not None:
            lent = x.new_empty(int(rare.count.sum()), x.shape[1])
        self._lend(lent, rare, random)
        base, *direction = self.calibrated(rare, lent, random)
        if direction:
            return Blend(base, direction[0], rare.each(rare.y), self.spaces.finish)
        if self.spaces.finish is not unchanged:
            drawn.copy_(self.spaces.finish(base))
        return None

    def sample(self, source: Tensor) -> Tensor:
        """x̂ of the training rows [n], [n, D]."""
        return self.spaces.sample(self.features.x.index_select(0, source))

    def _lend(self, lent: Tensor, sources: Sources, random: torch.Generator) -> None:
        """Draw what is lent to `sources`, to `lent` [T, D]."""
        place = self.place(sources.row)
        if self._kept:
            self._kept.draw(lent, place, sources.count, random)
        else:
            lent.copy_(sources.each(self.center(sources.row)))
            self._add_lent(lent, sources.each(place), random)
            add_noise(lent, random, **self._noise)

    def place(self, source: Tensor) -> Tensor:
        """Where the training rows [n] are among the sources, [n]."""
        return self._place.index_select(0, source)

    def lent_mean(self, source: Tensor) -> Tensor:
        """Σ_j ω_j μ_j over the support of the training rows [n], [n, D]."""
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

    def _small_enough(self, sources: Tensor) -> Kept | None:
        """What is kept of the training rows `sources` [n]; None if much."""
        dim, supports_of = self.features.x.shape[1], self._support.tolist()
        ranks = [sum(self.gaussians.rank(k) for k in of if k >= 0) for of in supports_of]
        more = dim if self._noise.get("diagonal") else bool(self._noise.get("full"))
        rank = min(dim, max(ranks, default=0) + more)
        if 4 * len(ranks) * (rank + 1) * dim > KEPT_BYTES:
            return None
        noise = noise_factor(dim, **self._noise).to(self.features.x)
        factors = self.features.x.new_zeros(len(ranks), rank, dim)
        scales = self._weight.sqrt().tolist()
        for place, (of, scale) in enumerate(zip(supports_of, scales, strict=True)):
            lent = [s * self.gaussians.factor(k) for k, s in zip(of, scale, strict=True) if s]
            factor = torch.cat([*lent, noise])
            if len(factor) > dim:
                factor = torch.linalg.qr(factor, mode="r").R
            factors[place, : len(factor)] = factor
        return Kept(self.center(sources)[:, None], factors)


def classes_of(tail: str, counts: np.ndarray) -> np.ndarray:
    """The classes [K] bool with samples in the groups `tail`, joined by +."""
    groups = class_groups(counts)
    return np.any([groups[name] for name in tail.split("+")], axis=0) & (counts > 0)


def tail_classes(name: str, features: Features, tail: str) -> Tensor:
    """`classes_of` the training counts; warns where there is none."""
    wanted = classes_of(tail, features.counts)
    if not wanted.any():
        rules = " or ".join(GROUPS[group] for group in tail.split("+"))
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


def noise_factor(dim: int, *, diagonal: float = 0.0, full: float = 0.0) -> Tensor:
    """F with FᵀF = diagonal·I + full·11ᵀ, of as many rows as it takes, [r, dim]."""
    rows = [torch.full((1, dim), math.sqrt(full))] if full else []
    if diagonal:
        rows.append(math.sqrt(diagonal) * torch.eye(dim))
    return torch.cat([torch.empty(0, dim), *rows])


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
