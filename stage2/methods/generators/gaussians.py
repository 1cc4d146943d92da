"""Gaussians of classes, drawn from without their covariance matrices.

A draw from N(0, Σ) with Σ = X̄ᵀX̄/(n − 1), X̄ [n, D] the centred samples, is X̄ᵀε/√(n − 1) with
ε ~ N(0, I_n): exact, and n·D operations a draw. Where n > D the R [D, D] of X̄ = QR takes the place
of X̄, because RᵀR = X̄ᵀX̄; unlike Cholesky's it exists where Σ is singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from featbank import errors
from stage2.methods.generators.filling import Filling
from stage2.methods.generators.interface import (
    Blend,
    Features,
    Generation,
    Generator,
    Settings,
)

BLOCK_ROWS = 8192
"""Training rows that class means take in float64 at once."""


class ClassGaussians:
    """μ_k and draws from N(0, Σ_k), Σ_k with 1/(n_k − 1), of mapped training features.

    Parameters
    ----------
    features
        The training features.
    samples
        The rows [n_k] of a class k.
    space
        What features go through first.

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
        self,
        features: Features,
        samples: Callable[[int], Tensor],
        space: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self._x, self._samples, self._space = features.x, samples, space
        self._factors: dict[int, Tensor] = {}
        self.means = _means(features, space)

    def deviations(self, k: int, count: int, random: torch.Generator) -> Tensor:
        """Draws [count, D] from N(0, Σ_k); 0 where the class has one sample."""
        rows, dim = len(samples := self._samples(k)), self._x.shape[1]
        if rows < 2:
            return self._x.new_zeros(count, dim)
        factor = self._factors.get(k)
        if factor is None:
            factor = self._space(self._x.index_select(0, samples)).sub_(self.means[k])
            if rows > dim:
                factor = self._factors[k] = torch.linalg.qr(factor, mode="r").R
        noise = torch.randn(count, len(factor), device=self._x.device, generator=random)
        return noise.mul_(1 / math.sqrt(rows - 1)) @ factor

    def draw(self, y: Tensor, random: torch.Generator) -> Tensor:
        """A draw from N(μ_k, Σ_k) for each of the classes `y` [R], [R, D]."""
        x = self.means.index_select(0, y)
        self.add_deviations(x, y, random)
        return x

    def add_deviations(
        self,
        x: Tensor,
        y: Tensor,
        random: torch.Generator,
        *,
        into: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        """Add a draw from N(0, Σ_k) for each of the classes `y` [P] to rows of `x` [R, D].

        Parameters
        ----------
        into
            The row of each [P]; row i for i if not given.
        scale
            What a draw is multiplied with first, [P].
        """
        for k, places in by_class(y):
            drawn = self.deviations(k, len(places), random)
            if scale is not None:
                drawn.mul_(scale[places, None])
            x.index_add_(0, places if into is None else into[places], drawn)


def by_class(y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes of labels [R], ascending, and the places of each."""
    order = y.argsort(stable=True)
    classes, counts = y[order].unique_consecutive(return_counts=True)
    yield from zip(classes.tolist(), order.split(counts.tolist()), strict=True)


def _means(features: Features, space: Callable[[Tensor], Tensor]) -> Tensor:
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

    description = "each class from its own Gaussian"
    source = "gda"

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return _OwnGaussians(features)


class _OwnGaussians(Filling):
    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self._gaussians = ClassGaussians(features, self.samples)

    def draw(
        self, y: Tensor, source: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Blend | None]:
        return self._gaussians.draw(y, random), None
