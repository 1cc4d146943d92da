"""Limited-memory BFGS over the full batch, for C independent problems at once.

Every problem has its own curvature pairs and step length and ends on its own; they share the
evaluations of the objective, each one pass over the data. The line search is the bisection of Lewis
& Overton 2013 for the weak Wolfe conditions: no interpolation, so no branches per problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featbank.settings import Setting

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


def minimise(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    *,
    tolerance: Tensor,
    max_iterations: int,
    history: int,
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

    Returns
    -------
    Minimum
        A problem whose line search finds no improvement, or whose value is not finite, stays where
        it is; its last norm is then above the tolerance.
    """
    x = start.clone()
    value, gradient = function(x)
    pairs = _Pairs(history, x)
    values, norms = [value], [gradient.abs().amax(1)]
    ended = ~(norms[0] > tolerance)
    ends = [ended]
    for iteration in range(max_iterations):
        if bool(ended.all()):
            break
        direction = pairs.direction(gradient).masked_fill_(ended[:, None], 0)
        step = torch.ones_like(value)
        if iteration == 0:
            step = 1 / gradient.abs().sum(1).clamp_min(1)
        start_of_line = x, value, gradient
        (point, new, slope), moved = _line_search(function, start_of_line, direction, step)
        pairs.add(point - x, slope - gradient)
        x, value, gradient = point, new, slope
        values.append(value)
        norms.append(gradient.abs().amax(1))
        ended = ended | ~moved | ~(norms[-1] > tolerance)
        ends.append(ended)
    lengths = (~torch.stack(ends)).sum(0).add_(1).clamp_max_(len(values)).tolist()
    return Minimum(x, _cut(values, lengths), _cut(norms, lengths))


def _cut(curve: list[Tensor], lengths: list[int]) -> list[list[float]]:
    columns = torch.stack(curve, 1).tolist()
    return [column[:length] for column, length in zip(columns, lengths, strict=True)]


def _line_search(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: tuple[Tensor, Tensor, Tensor],
    direction: Tensor,
    step: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A point along `direction` that meets the weak Wolfe conditions, per problem.

    A step that does not descend enough bounds the step length from above, one where the slope is
    still steep from below; it is doubled until there is an upper bound, and then bisected.

    Parameters
    ----------
    start
        A point, its value and its gradient.

    Returns
    -------
    The same of the new point, and which problems moved [C].
    """
    x, value, gradient = start
    descent = (gradient * direction).sum(1)
    low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
    moving = descent < 0
    moved = torch.zeros_like(moving)
    best = x.clone(), value.clone(), gradient.clone()
    for _ in range(TRIALS):
        point = x + torch.where(moving, step, 0)[:, None] * direction
        new, slope = function(point)
        lower = new <= value + ARMIJO * step * descent
        flat = (slope * direction).sum(1) >= CURVATURE * descent
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


class _Pairs:
    """The curvature pairs (s, y) of C problems, the newest `history` of each."""

    def __init__(self, history: int, like: Tensor) -> None:
        self._history = history
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
        self._scale = torch.where(positive, along / size, self._scale)
        for kept in (self._s, self._y, self._rho):
            del kept[: -self._history]

    def direction(self, gradient: Tensor) -> Tensor:
        """−H·gradient by the two-loop recursion [Nocedal & Wright 2006, algorithm 7.4]."""
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(list(zip(self._s, self._y, self._rho, strict=True))):
            alpha = rho * (s * q).sum(1)
            q.addcmul_(y, alpha[:, None], value=-1)
            alphas.append(alpha)
        q.mul_(self._scale[:, None])
        for s, y, rho, alpha in zip(self._s, self._y, self._rho, reversed(alphas), strict=True):
            q.addcmul_(s, (alpha - rho * (y * q).sum(1))[:, None])
        return q.neg_()
