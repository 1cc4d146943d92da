"""Gaussians of rare classes, calibrated with the statistics of the classes nearest to each sample.

A made row of a `tail` class y starts from one of its samples x. With S(x) the support classes of x
and weights ω_j that add to 1, it is lent a draw from

    N(center(x), Σ_{j∈S(x)} ω_j Σ_j + noise)

by two roads to the same distribution. `Kept` holds for every sample one factor F [r, D] with
FᵀF = Σ_j ω_j Σ_j + noise, so that a draw is center + εF with ε ~ N(0, I_r). Where these factors
would take too much memory, the draw is assembled by lenders instead: center + Σ_j √ω_j ε_j F_j
with independent ε_j, as a sum of independent Gaussians has the sum of their covariances.
"""

from __future__ import annotations

import itertools
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_facts import ClassFacts
from stage2.methods.generators import drawing
from stage2.methods.generators.drawing import by_class, draw_each, normals, spread
from stage2.methods.generators.filling import Origins
from stage2.methods.generators.gaussians import BLOCK_ROWS, Map, OwnGaussians, unchanged
from stage2.methods.generators.grouping import add_products
from stage2.methods.generators.interface import Blend, Features, Settings
from stage2.methods.generators.tukey import STAGE1, FeatureSpace, inverse_tukey, tukey
from stage2.methods.neighbors import supports
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

SUPPORT = Setting("support", 2, "nearest classes whose statistics calibrate a sample", low=1)
TUKEY = Setting("tukey", 0.5, "power λ of Tukey's transform sign(x)|x|^λ; 1 disables it", above=0)
STATISTICS = Setting(
    "statistics",
    "raw",
    "take class means and covariances before (paper) or after Tukey's transform",
    choices=("raw", "tukey"),
)
TAIL = Setting(
    "tail",
    "few",
    "groups to calibrate, a bank's or the usual; other classes are drawn from their own Gaussian",
    choices=("few", "medium+few"),
)
SPARE = 1.25
"""Most rows made per wanted row so that all origins of a class get equally many: their draws are
then one batched product."""

KEPT_BYTES = 64 << 20
"""Memory that `Kept` may take."""


def seen_space(settings: Settings) -> FeatureSpace:
    """The space that heads see by the settings ``output_space`` and ``tukey``."""
    return FeatureSpace(settings["tukey"]) if settings["output_space"] == "tukey" else STAGE1


def output_space(default: str) -> Setting:
    """The setting ``output_space`` with this default."""
    return Setting(
        "output_space",
        default,
        "feature space of the head: as stage 1 made them, or after Tukey's transform",
        choices=("raw", "tukey"),
    )


@dataclass(frozen=True)
class Spaces:
    """Maps between the spaces of features, on rows [n, D].

    Attributes
    ----------
    sample
        From features to the space in which a sample x̂ is calibrated.
    statistics
        From features to the space of μ_k and Σ_k.
    real
        From features to the space that heads see.
    finish
        From calibrated draws to the space that heads see; elementwise where these depend on β.
    plain
        From draws of a class's own Gaussian to the space that heads see.
    """

    sample: Map
    statistics: Map
    real: Map
    finish: Map
    plain: Map

    @staticmethod
    def of(settings: Settings) -> Spaces:
        """The maps for the settings ``tukey``, ``statistics`` and ``output_space``."""
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
    """Means and factors of n origins, where these are small: a draw then takes r ≤ D numbers,
    whatever the sizes of the lenders.

    Attributes
    ----------
    center
        [n, 1, D]: `Calibrated.center`.
    factor
        [n, r, D]: F with FᵀF = Σ_j ω_j Σ_j + noise.
    """

    center: Tensor
    factor: Tensor

    def draw(self, drawn: Tensor, place: Tensor, count: Tensor, random: torch.Generator) -> None:
        """Write draws from N(center, FᵀF) to `drawn` [T, D], `count` [G] rows of each of the
        origins `place` [G]."""
        rank, dim = self.factor.shape[1:]
        if drawn.is_cuda:
            center = self.center[:, 0].index_select(0, place)
            drawn.copy_(center.repeat_interleave(count, dim=0, output_size=len(drawn)))
            ranks = torch.full_like(count, rank)
            add_products(drawn, count, ranks, lambda of, _: self.factor[place[of]], random)
            return
        lots = self._lots(place, count)

        def lot(number: int, random: torch.Generator) -> None:
            most = max(origins * each for _, origins, each, _ in lots[number])
            noise = drawn.new_empty(most, rank)
            for first, origins, each, row in lots[number]:
                rows = origins * each
                torch.baddbmm(
                    self.center[first : first + origins],
                    noise[:rows].normal_(generator=random).view(origins, each, rank),
                    self.factor[first : first + origins],
                    out=drawn[row : row + rows].view(origins, each, dim),
                )

        spread(lot, len(lots), random)

    def _lots(self, place: Tensor, count: Tensor) -> list[list[tuple[int, int, int, int]]]:
        """Batched products, in lots for one thread each. A product is of adjacent origins with
        equal counts: its first origin, their number, the rows of each, and its first row."""
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
    """Made rows of the classes `tail` are calibrated; those of others follow their own Gaussian.

    Parameters
    ----------
    name
        Of the generator, for warnings.
    features, spaces
        The training features and their maps.
    tail
        Classes [K] bool.
    support
        Classes that each sample is calibrated with, if there are as many.
    among
        Candidates: ``larger``, the classes with more samples than its own, or ``all``, its own
        included.
    noise
        Added to what is lent, as by `add_noise`.
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
        origins = self.order[(tail & (self.missing > 0))[features.labels[self.order]]]
        self._place = torch.full_like(features.labels, -1)  # index of a training row in `origins`
        self._place[origins] = torch.arange(len(origins), device=origins.device)
        y = features.labels[origins]
        counts = torch.from_numpy(features.counts).to(y.device)
        near = [
            supports(self.sample(rows), label, self.gaussians.means, counts, support, among=among)
            for rows, label in zip(origins.split(BLOCK_ROWS), y.split(BLOCK_ROWS), strict=True)
        ]
        distance, self._support = (torch.cat(of) for of in zip(*near, strict=True))
        eligible = self._support >= 0
        self._weight = self.weights(distance, counts[self._support], eligible).float()
        self.lenders = eligible.sum(1)
        _warn_of_few(name, y, eligible, support)
        self._kept = self._small_enough(origins)

    @abstractmethod
    def weights(self, distance: Tensor, counts: Tensor, eligible: Tensor) -> Tensor:
        """ω of the support classes of each origin [n, S], float64, from their distances and
        training counts. Each row adds to 1 over the classes that were `eligible`, bool, and is 0
        elsewhere."""

    @abstractmethod
    def center(self, rows: Tensor) -> Tensor:
        """The mean of what is lent to the training `rows` [n], [n, D]."""

    @abstractmethod
    def calibrated(
        self, origins: Origins, lent: Tensor, random: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draws of new rows [T, D], or where these depend on β, a base and a direction of each.

        `lent` [T, D] holds draws from N(center, Σ_j ω_j Σ_j + noise) and may be overwritten.
        """

    def space(self, x: Tensor) -> Tensor:
        return self.spaces.real(x)

    def rounded(self, origins: Origins) -> Origins:
        if not self._kept:
            return origins
        most = torch.zeros_like(self.missing).scatter_reduce_(0, origins.y, origins.count, "amax")
        count = torch.where(self._tail, most, 0).index_select(0, origins.y).maximum(origins.count)
        few = int(count.sum()) <= SPARE * int(origins.count.sum())
        return replace(origins, count=count) if few else origins

    def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> Blend | None:
        others = int((~self._tail[origins.y]).sum())  # they come first, by `last` of `Filling`
        plain, rare = origins[:others], origins[others:]
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

    def sample(self, rows: Tensor) -> Tensor:
        """x̂ of the training `rows` [n], [n, D]."""
        return self.spaces.sample(self.features.x.index_select(0, rows))

    def _lend(self, lent: Tensor, origins: Origins, random: torch.Generator) -> None:
        """Write draws of what is lent to `origins` to `lent` [T, D]."""
        place = self.place(origins.row)
        if self._kept:
            self._kept.draw(lent, place, origins.count, random)
        else:
            lent.copy_(origins.each(self.center(origins.row)))
            self._add_lent(lent, origins.each(place), random)
            add_noise(lent, random, **self._noise)

    def place(self, rows: Tensor) -> Tensor:
        """The indices of the training `rows` [n] among the origins, [n]."""
        return self._place.index_select(0, rows)

    def lent_mean(self, rows: Tensor) -> Tensor:
        """Σ_j ω_j μ_j over the support of the training `rows` [n], [n, D]."""
        place, means = self.place(rows), self.gaussians.means
        weight, support = self._weight[place], self._support[place]
        total = means.new_zeros(len(place), means.shape[1])
        for slot in range(support.shape[1]):
            total.addcmul_(means[support[:, slot]], weight[:, slot, None])
        return total

    def _add_lent(self, drawn: Tensor, place: Tensor, random: torch.Generator) -> None:
        """Add draws from N(0, Σ_j ω_j Σ_j) over the support of each row's origin, `place` [T], to
        `drawn` [T, D]."""
        # √ω_j ε F_j is drawn lender by lender, one product for all rows a class lends to. Each is
        # written to the slot of the support in which the lender stands, so that threads never meet
        # in one row; the slots are then added in a fixed order.
        support, scale = self._support[place], self._weight[place].sqrt_()
        dim = self.features.x.shape[1]
        slots = self.features.x.new_zeros(support.shape[1], len(place), dim)
        row, slot = (scale > 0).nonzero(as_tuple=True)
        lender, scale = support[row, slot], scale[row, slot]
        if drawn.is_cuda:
            order = lender.argsort(stable=True)
            draws = drawn.new_zeros(len(row), dim)
            y, count = lender[order].unique_consecutive(return_counts=True)
            self.gaussians.add_grouped(y, count, random, to=draws, scale=scale[order])
            slots[slot[order], row[order]] = draws
            drawn.add_(slots.sum(0))
            return

        def lend(k: int, loans: Tensor, random: torch.Generator) -> None:
            draws = slots.new_zeros(len(loans), dim)
            self.gaussians.add_draws(k, random, to=draws, scale=scale[loans])
            slots[slot[loans], row[loans]] = draws

        draw_each(lend, list(by_class(lender)), random, numbers=len(row) * dim)
        for draws in slots:
            drawn.add_(draws)

    def _small_enough(self, origins: Tensor) -> Kept | None:
        """Means and factors of the training rows `origins` [n]; None beyond `KEPT_BYTES`."""
        # The stack of all √ω_j F_j and the noise's factor is F, as FᵀF = Σ_j ω_j F_jᵀF_j + noise.
        # Where it has more than D rows, R of F = QR takes its place: RᵀR = FᵀF.
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
        return Kept(self.center(origins)[:, None], factors)


def classes_of(tail: str, counts: np.ndarray, facts: ClassFacts) -> np.ndarray:
    """The classes [K] bool that have samples and belong to the groups `tail`, joined by +."""
    return facts.members(tail, counts) & (counts > 0)


def tail_classes(name: str, features: Features, tail: str) -> Tensor:
    """`classes_of` the training counts; warns if there is none."""
    counts, facts = features.counts, features.facts
    wanted = classes_of(tail, counts, facts)
    if not wanted.any():
        stated = facts.groups_of(counts).stated
        rules = " or ".join(stated[group] for group in tail.split("+"))
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
    """F [r, dim] with FᵀF = diagonal·I + full·11ᵀ; r is 0, 1, dim or dim + 1."""
    rows = [torch.full((1, dim), math.sqrt(full))] if full else []
    if diagonal:
        rows.append(math.sqrt(diagonal) * torch.eye(dim))
    return torch.cat([torch.empty(0, dim), *rows])


def _warn_of_few(name: str, y: Tensor, eligible: Tensor, support: int) -> None:
    """Warn of the classes whose samples have fewer support classes than were asked for."""
    short = eligible.sum(1) < support
    if not bool(short.any()):
        return
    classes = y[short].unique().tolist()
    warnings.warn(
        f"Generator {name!r} finds fewer than support={support} classes to calibrate class "
        f"{classes[0]} with, of {len(classes)} such classes; it uses what there is."
    )
