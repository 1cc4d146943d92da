"""Probes of large banks: a bounded number of passes in float32, and how far off they end.

In float64 a probe takes a hundred to three hundred passes over the features. Where these take
minutes or hours, a probe is trained in float32, and for no more than `allowed` iterations.

With x̂ of mean 0 and p_k ≈ 1/K, the Hessian of softmax regression is near, for every class,

    (1/K)·Σ + λ   for w_k, Σ = (1/N) Σᵢ x̂ᵢx̂ᵢᵀ,        1/K   for b_k,

so its inverse makes a good first metric for L-BFGS: one eigendecomposition of Σ [D, D].

The distance from the optimum comes from duality. Where ∂L/∂b = 0, p = softmax(Wx̂ + b) is a point of
the dual problem, whose objective lies ‖∂L/∂W‖²/(2λ) below that of W and b, and the optimum lies
between the two. ∂L/∂b is not quite 0: as convexity has it, the optimum may lie ⟨∂L/∂b, b − b*⟩
lower, for which ‖∂L/∂b‖₁ times the spread of b stands. The objective of a cosine probe is not
convex: the fall of its last iterations stands for a distance, without being a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2.methods.lbfgs import minimise

LARGE = 1 << 32
"""N·D·K from which on a probe is trained in float32: in float64 it would take minutes there."""

WORK, LEAST, MOST = 12 * 10**12, 20, 1000
"""Bound of iterations times N·D·K, and the iterations that are allowed at least and at most. On
ImageNet-LT with D = 2,048 that is 50."""

NOISE = 1e-6
"""Relative rounding error of a mean loss in float32."""

HISTORY = 10
"""Curvature pairs."""

RECENT = 10
"""Iterations whose fall of the objective shows how near its end a probe is that has no bound."""

Parts = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Iterates over rows [n, D] float32 and labels [n]."""


@dataclass(frozen=True)
class Fit:
    """An account of the training of a probe.

    Attributes
    ----------
    passes
        Evaluations of the objective, each a pass over the features.
    seconds
        Its duration.
    gradient, tolerance
        Largest gradient entry at the end, and the one aimed at.
    excess
        The most that the objective is above its optimum, in nats; None where this is not known.
    fell
        The fall of the objective over the last `RECENT` iterations, in nats; None where `excess`
        says more, or the tolerance was reached.
    """

    passes: int
    seconds: float
    gradient: float
    tolerance: float
    excess: float | None = None
    fell: float | None = None

    def __str__(self) -> str:
        """``53 passes in 240 s, largest gradient entry 9e-05 (aim 1e-06), loss at most 0.0008 above
        the optimum``."""
        above = "" if self.excess is None else f", loss at most {self.excess:.1g} above the optimum"
        if self.fell is not None:
            above = f", loss fell by {self.fell:.1g} over the last {RECENT} iterations"
        return (
            f"{self.passes} passes in {self.seconds:.0f} s, largest gradient entry "
            f"{self.gradient:.1g} (aim {self.tolerance:.1g}){above}"
        )


def is_large(rows: int, dim: int, classes: int) -> bool:
    """Whether a probe of N rows, D features and K classes is trained in float32."""
    return rows * dim * classes >= LARGE


def allowed(rows: int, dim: int, classes: int) -> int:
    """Iterations that a probe of a large bank may take."""
    return max(LEAST, min(MOST, WORK // (rows * dim * classes)))


def descend(
    parts: Parts, counts: Tensor, dim: int, *, decay: float, tolerance: float, iterations: int
) -> Descent:
    """Softmax regression on x̂ of mean 0 and variance 1, in float32.

    Parameters
    ----------
    parts
        The training rows x̂.
    counts
        Rows of each class [K] float64.
    dim
        D.
    decay
        λ.
    tolerance
        Largest gradient entry at the end, should it be reached.
    iterations
        At most so many, each one pass over the features or slightly more.

    Returns
    -------
    Descent
    """
    rows, classes = int(counts.sum()), len(counts)
    objective = _Softmax(parts, rows, (classes, dim), decay)
    start = counts.new_zeros(1, classes * (dim + 1))
    start[0, classes * dim :] = ((counts + 1) / (rows + classes)).log()
    minimum = minimise(
        objective,
        start,
        tolerance=counts.new_full((1,), tolerance),
        max_iterations=iterations,
        history=HISTORY,
        metric=_Metric(parts, rows, (classes, dim), decay),
        noise=NOISE,
    )
    weight, bias = minimum.point[0].split([classes * dim, classes])
    (values,), (norms,) = minimum.values, minimum.norms
    excess = max(0.0, values[-1] - objective.lower)
    ends = weight.view(classes, dim).float(), bias.float()
    return Descent(*ends, objective.passes, norms[-1], excess)


@dataclass(frozen=True)
class Descent:
    """The end of `descend`: W [K, D] and b [K] float32; the others are those of `Fit`."""

    weight: Tensor
    bias: Tensor
    passes: int
    gradient: float
    excess: float


class _Softmax:
    """Value [1] and gradient [1, K·(D+1)] of (1/N) Σ CE(Wx + b) + (λ/2)‖W‖², products in float32.

    Attributes
    ----------
    passes
        Evaluations so far.
    lower
        Lower bound of the optimum, the best of all evaluations.
    """

    def __init__(self, parts: Parts, rows: int, shape: tuple[int, int], decay: float) -> None:
        self._parts, self._rows, self._shape, self._decay = parts, rows, shape, decay
        self.passes, self.lower = 0, -float("inf")

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        classes, dim = self._shape
        double, bias = point[0].split([classes * dim, classes])
        weight, shift = double.view(self._shape).float().t(), bias.float()
        value = self._decay / 2 * double.square().sum()
        slope = torch.zeros_like(point[0])
        to_weight, to_bias = slope[: classes * dim].view(self._shape), slope[classes * dim :]
        for x, y in self._parts():
            z = torch.addmm(shift, x, weight)
            own = y[:, None]
            log_sum = z.logsumexp(1, keepdim=True)
            value = value + (log_sum - z.gather(1, own)).sum(dtype=torch.float64) / self._rows
            p = z.sub_(log_sum).exp_()
            p.scatter_add_(1, own, -torch.ones_like(log_sum))
            to_weight += p.t() @ x
            to_bias += p.sum(0)
        slope /= self._rows
        to_weight += self._decay * double.view(self._shape)
        self.passes += 1
        gap = to_weight.square().sum() / (2 * self._decay)
        gap += to_bias.abs().sum() * (bias.max() - bias.min())
        self.lower = max(self.lower, float(value - gap))
        return value[None], slope[None]


class _Metric:
    """The inverse of the Hessian where all p_k = 1/K, applied to gradients [1, K·(D+1)]."""

    def __init__(self, parts: Parts, rows: int, shape: tuple[int, int], decay: float) -> None:
        self._shape = shape
        moment = None
        for x, _ in parts():
            part = (x.t() @ x).double()
            moment = part if moment is None else moment.add_(part)
        assert moment is not None
        values, self._axes = torch.linalg.eigh(moment / rows)
        self._curvature = 1 / shape[0]
        self._along = 1 / (self._curvature * values.clamp_min_(0) + decay)

    def __call__(self, gradient: Tensor, problems: Tensor) -> Tensor:
        classes, dim = self._shape
        weight, bias = gradient[0].split([classes * dim, classes])
        turned = weight.view(self._shape) @ self._axes
        moved = turned.mul_(self._along) @ self._axes.t()
        return torch.cat([moved.flatten(), bias / self._curvature])[None]
