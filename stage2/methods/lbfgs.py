"""Limited-memory BFGS over the full batch, for C independent problems at once.

Every problem has its own curvature pairs and step length and ends on its own; they share the
evaluations of the objective, each one pass over the data. The line search is the bisection of Lewis
& Overton 2013 for the weak Wolfe conditions: no interpolation, so no branches per problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from featbank.settings import Setting
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

ARMIJO, CURVATURE = 1e-4, 0.9
"""Constants of the weak Wolfe conditions [Nocedal & Wright 2006, eq. 3.6]."""

TRIALS = 40
"""Step lengths tried in one direction before a problem counts as stalled."""


class LBFGS:
    """The optimum instead of a schedule, ``optimiser=lbfgs``.

    The objective is the loss expected under the sampler's distribution, plus half the weight decay
    times the squared length of the parameters. It has one minimum only where the loss is convex in
    the logits and these are affine in the parameters; other recipes are refused. There are no
    batches, learning rates, epochs or seeds.
    """

    source = "lbfgs"
    description = "full-batch L-BFGS to a gradient norm, for convex recipes"
    full_batch: ClassVar[bool] = True
    settings = (
        Setting("gradient_norm", 1e-5, "largest gradient entry at convergence", above=0),
        Setting("max_iterations", 1000, "maximum number of iterations", low=1),
        Setting("history", 10, "number of curvature pairs kept", low=1),
    )


@dataclass(frozen=True)
class Minimum:
    """The ends of C minimisations.

    Attributes
    ----------
    point
        [C, P].
    values, norms
        Objective and largest gradient entry at the start and after each iteration, one list per
        problem, up to where it ended.
    """

    point: Tensor
    values: list[list[float]]
    norms: list[list[float]]


Objective = Callable[["Tensor"], "tuple[Tensor, Tensor]"]
"""Values [C] and gradients [C, P] at a point [C, P]."""

Subset = Callable[["Tensor"], Objective]
"""The objective of some of the problems, given by their indices."""

Metric = Callable[["Tensor", "Tensor"], "Tensor"]
"""Gradients [C', P] of the problems with the indices [C'], multiplied by a positive definite matrix
near the inverse of the Hessian."""


def minimise(
    function: Objective,
    start: Tensor,
    *,
    tolerance: Tensor,
    max_iterations: int,
    history: int,
    subset: Subset | None = None,
    metric: Metric | None = None,
    noise: float = 0.0,
) -> Minimum:
    """Minimise C functions of P variables.

    Parameters
    ----------
    function
        Values [C] and gradients [C, P] at a point [C, P].
    start
        [C, P]; float64 for tolerances below 1e-4.
    tolerance
        Largest gradient entry at which each problem ends, [C].
    max_iterations, history
        Iterations and curvature pairs at most.
    subset
        Makes the objective of some problems, so that those that have ended cost nothing; by default
        all are evaluated to the end of the last.
    metric
        The metric, the identity by default. It is scaled to the newest curvature pair.
    noise
        Relative rounding error of the values. A change below it does not show whether a step
        descends; the slope at its end then does [Hager & Zhang 2005, eq. 4.1].

    Returns
    -------
    Minimum
        A problem whose line search finds no improvement, or whose value is not finite, stays where
        it is; its last norm is then above the tolerance.
    """
    place = torch.arange(len(start), device=start.device)
    x, ends = start.clone(), start.clone()
    value, gradient = function(x)
    norm = gradient.abs().amax(1)
    pairs = _Pairs(history, x, metric)
    curves = [(place, value, norm)]
    ended = ~(norm > tolerance)
    for iteration in range(max_iterations):
        if bool(ended.all()):
            break
        if subset and bool(ended.any()):
            ends[place] = x
            left = (~ended).nonzero().squeeze(1)
            place, tolerance, ended = place[left], tolerance[left], ended[left]
            x, value, gradient = x[left], value[left], gradient[left]
            pairs.select(left)
            function = subset(place)
        direction = pairs.direction(gradient).masked_fill_(ended[:, None], 0)
        step = torch.ones_like(value)
        if iteration == 0 and metric is None:
            step = 1 / gradient.abs().sum(1).clamp_min(1)
        line = _Line(function, _within(subset, place), (x, value, gradient), direction, noise)
        (point, new, slope), moved = line.search(step)
        pairs.add(point - x, slope - gradient)
        x, value, gradient = point, new, slope
        norm = gradient.abs().amax(1)
        running = ~ended  # a problem that has ended has no further entries in its curves
        curves.append((place[running], value[running], norm[running]))
        ended = ended | ~moved | ~(norm > tolerance)
    ends[place] = x
    values, norms = _by_problem(curves, len(start))
    return Minimum(ends, values, norms)


def _within(subset: Subset | None, place: Tensor) -> Subset | None:
    """The same for indices among the problems at `place`."""
    return None if subset is None else lambda problems: subset(place[problems])


def _by_problem(
    curves: list[tuple[Tensor, Tensor, Tensor]], problems: int
) -> tuple[list[list[float]], list[list[float]]]:
    """The values and the norms of each problem, from those of each iteration."""
    values: list[list[float]] = [[] for _ in range(problems)]
    norms: list[list[float]] = [[] for _ in range(problems)]
    columns = [torch.cat(parts).tolist() for parts in zip(*curves, strict=True)]
    for place, value, norm in zip(*columns, strict=True):
        values[place].append(value)
        norms[place].append(norm)
    return values, norms


@dataclass
class _Line:
    """The points of C problems along a direction.

    Attributes
    ----------
    function, subset, noise
        As of `minimise`.
    start
        A point, its value and its gradient.
    direction
        [C, P]; 0 for a problem that stays where it is.
    """

    function: Objective
    subset: Subset | None
    start: tuple[Tensor, Tensor, Tensor]
    direction: Tensor
    noise: float

    def search(self, step: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """A point that meets the weak Wolfe conditions, per problem.

        A step that does not descend enough bounds the step length from above, one where the slope
        is still steep from below; it is doubled until there is an upper bound, and then bisected.

        Returns
        -------
        Point, value and gradient, and which problems moved [C].
        """
        x, value, gradient = self.start
        descent = (gradient * self.direction).sum(1)
        low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
        moving = descent < 0
        moved = torch.zeros_like(moving)
        best = x.clone(), value.clone(), gradient.clone()
        for _ in range(TRIALS):
            point, new, slope = self._at(step, moving)
            along = (slope * self.direction).sum(1)
            lower = new <= value + ARMIJO * step * descent
            if self.noise:
                same = new <= value + self.noise * value.abs()
                lower |= same & (along <= (2 * ARMIJO - 1) * descent)
            flat = along >= CURVATURE * descent
            better = moving & lower  # the best so far, should no step meet both conditions
            for kept, tried in zip(best, (point, new, slope), strict=True):
                kept[better] = tried[better]
            moved |= better
            moving = moving & ~(lower & flat)
            if not bool(moving.any()):
                break
            high = torch.where(moving & ~lower, step, high)
            low = torch.where(better & moving, step, low)
            step = torch.where(moving, torch.where(high.isinf(), 2 * step, (low + high) / 2), step)
        return best, moved

    def _at(self, step: Tensor, moving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The points at these step lengths, their values and gradients; of problems that are not
        moving, those of the start."""
        point = self.start[0] + torch.where(moving, step, 0)[:, None] * self.direction
        if self.subset is None or bool(moving.all()):
            return point, *self.function(point)
        value, gradient = self.start[1].clone(), self.start[2].clone()
        problems = moving.nonzero().squeeze(1)
        if len(problems):
            value[problems], gradient[problems] = self.subset(problems)(point[problems])
        return point, value, gradient


class _Pairs:
    """The curvature pairs (s, y) of C problems, the newest `history` of each."""

    def __init__(self, history: int, like: Tensor, metric: Metric | None = None) -> None:
        self._history, self._metric = history, metric
        self._place = torch.arange(len(like), device=like.device)
        self._s: list[Tensor] = []
        self._y: list[Tensor] = []
        self._rho: list[Tensor] = []
        self._scale = torch.ones_like(like[:, 0])

    def add(self, s: Tensor, y: Tensor) -> None:
        """Add a pair; it has no effect on problems without positive curvature along it."""
        along = (s * y).sum(1)
        size = y.square().sum(1)
        positive = along > 1e-12 * size
        self._s.append(s)
        self._y.append(y)
        self._rho.append(torch.where(positive, 1 / along, 0))
        if self._metric:
            size = (y * self._metric(y, self._place)).sum(1)
        self._scale = torch.where(positive, along / size, self._scale)
        for kept in (self._s, self._y, self._rho):
            del kept[: -self._history]

    def select(self, problems: Tensor) -> None:
        """Keep the pairs of some problems."""
        for kept in (self._s, self._y, self._rho):
            for i, values in enumerate(kept):
                kept[i] = values[problems]
        self._scale, self._place = self._scale[problems], self._place[problems]

    def direction(self, gradient: Tensor) -> Tensor:
        """−H·gradient by the two-loop recursion [Nocedal & Wright 2006, algorithm 7.4]."""
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(list(zip(self._s, self._y, self._rho, strict=True))):
            alpha = rho * (s * q).sum(1)
            q.addcmul_(y, alpha[:, None], value=-1)
            alphas.append(alpha)
        q = self._metric(q, self._place) if self._metric else q
        q.mul_(self._scale[:, None])
        for s, y, rho, alpha in zip(self._s, self._y, self._rho, reversed(alphas), strict=True):
            q.addcmul_(s, (alpha - rho * (y * q).sum(1))[:, None])
        return q.neg_()
