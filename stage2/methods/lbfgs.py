"""Limited-memory BFGS over the full batch, for C independent problems at once.

Every problem has its own curvature pairs, step length and end; what they share is the evaluation of
the objective, one pass over the data for all. The line search is the bisection of Lewis & Overton
2013 for the weak Wolfe conditions, which needs no interpolation and so no branches per problem.
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
    """What a recipe states with ``optimiser=lbfgs``: the optimum instead of a schedule.

    The objective is the loss expected under the sampler's distribution, plus half the weight decay
    times the squared length of the parameters. It has one minimum only where the loss is convex in
    the logits and these are affine in the parameters, so other recipes are refused. Batches,
    learning rates, epochs and seeds do not exist for it.
    """

    source = "lbfgs"
    description = "full-batch L-BFGS to a gradient norm, for convex recipes"
    full_batch: ClassVar[bool] = True
    settings = (
        Setting("gradient_norm", 1e-5, "largest entry of the gradient at the end", above=0),
        Setting("max_iterations", 1000, "iterations after which it gives up", low=1),
        Setting("history", 10, "curvature pairs kept", low=1),
    )


@dataclass(frozen=True)
class Minimum:
    """Where C minimisations ended.

    Attributes
    ----------
    point
        [C, P].
    values, norms
        Objective and largest gradient entry at the start and after each iteration, one list per
        problem, up to its own end.
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
        [C, P], float64 where tolerances below 1e-4 are to be met.
    tolerance
        Largest gradient entry at which each problem ends, [C].
    max_iterations, history
        Bounds of iterations and of curvature pairs.

    Returns
    -------
    Minimum
        A problem that its line search cannot improve, or whose value is not finite, stays where it
        is; its last norm tells.
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
        begin = x, value, gradient
        (point, new, slope), moved = _line_search(function, begin, direction, step)
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
    begin: tuple[Tensor, Tensor, Tensor],
    direction: Tensor,
    step: Tensor,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A point along `direction` that meets the weak Wolfe conditions, per problem.

    From a point, its value and its gradient, `begin`, to those of the new one, and which problems
    moved.
    """
    x, value, gradient = begin
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
        for kept, found in zip(best, (point, new, slope), strict=True):
            kept[better] = found[better]
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
        """Keep a pair; for a problem without positive curvature along it, as if it were not."""
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
