"""Gaussians of classes, drawn from without their covariance matrices.

A draw from N(0, Σ) with Σ = X̄ᵀX̄/(n − 1), X̄ [n, D] the centred samples, is X̄ᵀε/√(n − 1) with
ε ~ N(0, I_n): exact, and n·D operations a draw. X̄ is not needed for it, because X̄ᵀε = Xᵀ(ε − ε̄).
Where n > D the R [D, D] of X̄ = QR takes its place, because RᵀR = X̄ᵀX̄; unlike Cholesky's factor
it exists where Σ is singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from featbank import errors
from stage2.methods.generators.drawing import draw_each, normals
from stage2.methods.generators.filling import Filling, Origins
from stage2.methods.generators.grouping import add_products
from stage2.methods.generators.interface import (
    Blend,
    Features,
    Generation,
    Generator,
    Settings,
)
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ROWS = 8192
"""Training rows whose statistics are taken at once."""

Map = Callable[["Tensor"], "Tensor"]


def unchanged(x: Tensor) -> Tensor:
    """x."""
    return x


class ClassGaussians:
    """μ_k and draws from N(0, Σ_k), Σ_k with 1/(n_k − 1), of mapped training features.

    Parameters
    ----------
    features
        The training features.
    samples
        The features [n_k, D] of a class k.
    space
        What features go through first, row by row.

    Attributes
    ----------
    means
        [K, D] float32; 0 for a class without samples.

    Raises
    ------
    NotFinite
        Where a class has a feature that is not a finite number.
    """

    def __init__(
        self, features: Features, samples: Callable[[int], Tensor], space: Map = unchanged
    ) -> None:
        self._samples, self._space = samples, space
        self._x, self._order = features.x, features.labels.argsort(stable=True)
        self._row_counts = torch.bincount(features.labels, minlength=len(features.counts))
        self._begin = self._row_counts.cumsum(0) - self._row_counts  # of a class in `_order`
        self._rows = self._row_counts.tolist()
        self._dim = features.x.shape[1]
        self._any_large = max(self._rows, default=0) > self._dim
        self._triangles: dict[int, Tensor] = {}
        self.means = _means(features, space)

    def rank(self, k: int) -> int:
        """Rows of `factor`."""
        return min(self._rows[k], self._dim) if self._rows[k] > 1 else 0

    def factor(self, k: int) -> Tensor:
        """F [rank, D] with FᵀF = Σ_k."""
        if not self.rank(k):
            return self.means.new_empty(0, self._dim)
        if k not in self._triangles:
            centred = self._space(self._samples(k)) - self.means[k]
            if self._rows[k] <= self._dim:
                return centred.div_(math.sqrt(self._rows[k] - 1))
            triangle = torch.linalg.qr(centred, mode="r").R
            self._triangles[k] = triangle.div_(math.sqrt(self._rows[k] - 1))
        return self._triangles[k]

    def add_draws(
        self, k: int, random: torch.Generator, *, to: Tensor, scale: Tensor | None = None
    ) -> None:
        """Add draws from N(0, Σ_k) to each row of `to` [n, D], multiplied by `scale` [n]."""
        if not self.rank(k):
            return
        if self._rows[k] > self._dim:
            factor = self.factor(k)
            noise = normals(len(to), len(factor), random)
        else:
            factor = self._space(self._samples(k))
            noise = normals(len(to), len(factor), random)
            noise.sub_(noise.mean(1, keepdim=True)).mul_(1 / math.sqrt(len(factor) - 1))
        if scale is not None:
            noise.mul_(scale[:, None])
        to.addmm_(noise, factor)

    def add_grouped(
        self,
        y: Tensor,
        count: Tensor,
        random: torch.Generator,
        *,
        to: Tensor,
        scale: Tensor | None = None,
    ) -> None:
        """`add_draws` of many classes at once, on a GPU.

        Parameters
        ----------
        y, count
            Classes [G] and the rows of each [G], which follow one another in `to` [Σ count, D].
        scale
            Factor of each row [Σ count].
        """
        rows = self._row_counts.index_select(0, y)
        small = (rows > 1) & (rows <= self._dim)
        begin = self._begin.index_select(0, y)

        def centred(noise: Tensor, groups: Tensor) -> Tensor:
            n = rows[groups][:, None, None]
            there = torch.arange(noise.shape[2], device=noise.device) < n
            noise.mul_(there)
            noise.sub_(noise.sum(2, keepdim=True) / n).mul_(there)
            return noise.mul_((n - 1).to(noise.dtype).rsqrt_())

        def samples(groups: Tensor, rank: int) -> Tensor:
            place = begin[groups, None] + torch.arange(rank, device=y.device)
            row = self._order[place.clamp_(max=len(self._order) - 1)]
            return self._space(self._x.index_select(0, row.view(-1))).view(*row.shape, -1)

        def triangles(groups: Tensor, rank: int) -> Tensor:
            return torch.stack([self.factor(k) for k in y[groups].tolist()])

        ranks = torch.where(small, rows, 0)
        add_products(to, count, ranks, samples, random, shaped=centred, scale=scale)
        if self._any_large:
            ranks = torch.where(rows > self._dim, self._dim, 0)
            add_products(to, count, ranks, triangles, random, scale=scale)


def _means(features: Features, space: Map) -> Tensor:
    """Class means, summed in float64."""
    x, labels, classes = features.x, features.labels, len(features.counts)
    total = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device)
    for part, y in zip(x.split(BLOCK_ROWS), labels.split(BLOCK_ROWS), strict=True):
        total.index_add_(0, y, space(part).double())
    rows = torch.bincount(labels, minlength=classes).clamp_min_(1)
    means = (total / rows[:, None]).float()
    if not bool(means.isfinite().all()):
        wrong = (~means.isfinite().all(1)).nonzero().view(-1).tolist()
        raise errors.NotFinite(
            f"The training features of {len(wrong)} classes are not finite, class {wrong[0]} among "
            "them: a generator has no statistics of them. Extract or import them anew."
        )
    return means


class Gaussian(Generator):
    """Every class is filled up from its own Gaussian N(μ_k, Σ_k); n_k = 1 repeats its sample."""

    description = "samples from one Gaussian per class"
    source = "gda"

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return OwnGaussians(features)


class OwnGaussians(Filling):
    """Made rows from the Gaussians of their classes.

    Parameters
    ----------
    statistics
        From features to the space of μ_k and Σ_k.
    plain
        From there to the space that heads see.
    last
        As for `Filling`.
    """

    def __init__(
        self,
        features: Features,
        statistics: Map = unchanged,
        plain: Map = unchanged,
        last: Tensor | None = None,
    ) -> None:
        super().__init__(features, last)
        self.gaussians = ClassGaussians(features, self.samples, statistics)
        self._plain = plain

    def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> Blend | None:
        if x.is_cuda:
            x.copy_(self.gaussians.means.index_select(0, origins.each(origins.y)))
            self.gaussians.add_grouped(*origins.by_class(), random, to=x)
            if self._plain is not unchanged:
                x.copy_(self._plain(x))
            return None

        def fill(k: int, rows: slice, random: torch.Generator) -> None:
            drawn = x[rows]
            drawn.copy_(self.gaussians.means[k])
            self.gaussians.add_draws(k, random, to=drawn)
            if self._plain is not unchanged:
                drawn.copy_(self._plain(drawn))

        draw_each(fill, list(origins.classes()), random, numbers=x.numel())
        return None
