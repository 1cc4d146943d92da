r"""The temperature T that suits a classifier best: of its logits on val [Guo et al. 2017 §4.2].

With a = 1/T and weights w_i of the rows, Σ w_i = 1, the negative log-likelihood

    L(a) = Σ_i w_i [log Σ_k exp(a z_ik) − a z_iy]

is convex in a; under p = softmax(a z_i) its derivatives are means and variances of logits::

    L'(a) = Σ_i w_i (E_p[z_i] − z_iy),    L''(a) = Σ_i w_i Var_p[z_i]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stage2.engine.gpu import temperature as gpu_temperature
from stage2.engine.gpu.available import available
from stage2.engine.rows import block_rows

BOUNDS = (1e-6, 1e6)
"""Range of a: where val is separable, the optimum lies at infinity."""

_CLOSE = 2e-3
"""Relative length of the last step. Newton's method leaves an error of its square."""

_REACH = 16.0
"""Factor within which a step stays: a confident softmax has almost no variance, and Newton's step
is far too long."""

_STEPS = 60
_SAMPLE = 8


class Fitted(NamedTuple):
    """1/T and the negative log-likelihood at T of C classifiers.

    Attributes
    ----------
    scale, nll
        a and L(a), [C] float64; NaN for logits that are not finite.
    losses
        −log p of the class of each row at T, [C, N] float16, cut off at its largest number.
    """

    scale: Tensor
    nll: Tensor
    losses: Tensor

    @staticmethod
    def joined(parts: Sequence[Fitted]) -> Fitted:
        """Those of several parts of the classifiers side by side."""
        return Fitted(*map(torch.cat, zip(*parts, strict=True)))

    def among(self, rows: Tensor) -> Fitted:
        """The same of more rows [M], of which those in `rows` [M] bool were fitted to; losses of
        others are NaN."""
        losses = self.losses.new_full((len(self.losses), len(rows)), torch.nan)
        losses[:, rows] = self.losses
        return self._replace(losses=losses)


def fit_temperature(z: Tensor, y: Tensor, weight: Tensor | None = None) -> Fitted:
    """Find the temperature of each of C classifiers by Newton's method.

    A step that leaves the bracket, or goes far, is replaced by the bracket's geometric mean. A
    sample of the rows gives the start: two passes over all rows are then mostly enough.

    Parameters
    ----------
    z, y
        Logits [N, C, K] float32 and labels [N].
    weight
        Weights of the rows [N]; equal ones by default.
    """
    share = torch.ones_like(y, dtype=torch.float64) if weight is None else weight.double()
    start = torch.ones(z.shape[1], dtype=torch.float64, device=z.device)
    if len(y) > _SAMPLE * z.shape[2]:
        start = _newton(z[::_SAMPLE], y[::_SAMPLE], share[::_SAMPLE], start).scale
    return _newton(z, y, share, start)


def fit_streamed(blocks: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]]) -> Fitted:
    """`fit_temperature` to rows that are too many to hold: each step is a pass over all blocks, of
    which the first gives the start. No losses are kept, [C, 0].

    Parameters
    ----------
    blocks
        Called for each pass; yields logits [n, C, K], labels [n] and weights [n] float64, which sum
        to 1 over all blocks.
    """
    z, y, weight = next(blocks())
    start = fit_temperature(z, y, weight).scale.nan_to_num(1.0).clamp(1 / _REACH, _REACH)

    def evaluate(a: Tensor, configs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = torch.zeros(3, len(a), dtype=a.dtype, device=a.device)
        for z, y, weight in blocks():
            loss, slope, curvature = _derivatives(z, y, weight, a, configs)
            sums += torch.stack([loss.double() @ weight, slope, curvature])
        value, slope, curvature = sums
        return value, slope, curvature

    a, nll = _minimum(evaluate, start)
    return Fitted(a, nll, start.new_empty(len(a), 0, dtype=torch.float16))


def _newton(z: Tensor, y: Tensor, weight: Tensor, start: Tensor) -> Fitted:
    """The minimum of L from `start` [C]."""
    share = weight / weight.sum()
    losses = z.new_empty(len(start), len(y), dtype=torch.float16)

    def evaluate(a: Tensor, configs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, slope, curvature = _derivatives(z, y, share, a, configs)
        losses[configs] = loss.clamp_max(torch.finfo(torch.float16).max).half()
        return loss.double() @ share, slope, curvature

    return Fitted(*_minimum(evaluate, start), losses)


def _minimum(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], start: Tensor
) -> tuple[Tensor, Tensor]:
    """1/T and L there [C] from `start` [C]; `evaluate` gives L, L' and L'' at a [C'] of the
    classifiers that are not there yet, by their numbers [C']."""
    a, nll = start.clone(), torch.full_like(start, torch.nan)
    low, high = torch.full_like(a, BOUNDS[0]), torch.full_like(a, BOUNDS[1])
    moving = torch.arange(len(a), device=a.device)
    for _ in range(_STEPS):
        now = a[moving]
        value, slope, curvature = evaluate(now, moving)
        low[moving] = torch.where(slope < 0, now, low[moving])
        high[moving] = torch.where(slope > 0, now, high[moving])
        least, most = low[moving].max(now / _REACH), high[moving].min(now * _REACH)
        wanted = torch.where(slope == 0, now, now - slope / curvature)
        beyond = (slope != 0) & ((wanted <= least) | (wanted >= most))
        wanted = torch.where(beyond, (least * most).sqrt(), wanted)
        step = wanted - now
        a[moving] = wanted
        nll[moving] = (value + step * slope + step.square() * curvature / 2).clamp_min(0)
        moving = moving[(step.abs() > _CLOSE * now) & value.isfinite()]
        if not len(moving):
            break
    return a.where(nll.isfinite(), torch.nan), nll


def class_balanced(y: Tensor, classes: int) -> Tensor:
    """Weights of rows with labels y [N] that give every class with rows the same share, Σ = 1."""
    return equal_shares(torch.bincount(y, minlength=classes))[y]


def equal_shares(rows: Tensor) -> Tensor:
    """The weight [K] of a row of each class that gives every class the same share, by the rows [K]
    of each; infinite for none."""
    return 1 / (rows.count_nonzero() * rows.double())


def _derivatives(
    z: Tensor, y: Tensor, share: Tensor, a: Tensor, configs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of the rows [C', N], and L' and L'' [C'] float64, at a [C'] of the classifiers
    `configs` [C']."""
    scale = a.float()
    if available(z.device) and (each := gpu_temperature.moments(z, y, scale, configs)) is not None:
        loss, first, second = each
        return loss.t(), share @ first.double(), share @ second.double()
    slope, curvature = torch.zeros_like(a), torch.zeros_like(a)
    losses = []
    every = len(configs) == z.shape[1]
    size = block_rows(len(configs) * z.shape[2], z.device)
    for rows, labels, weight in zip(z.split(size), y.split(size), share.split(size), strict=True):
        loss, first, second = moments(rows if every else rows[:, configs], labels, scale)
        losses.append(loss)
        slope += weight @ first.double()
        curvature += weight @ second.double()
    return torch.cat(losses).t(), slope, curvature


def moments(z: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """−log p_y of p = softmax(a·z), E_p[z] − z_y and Var_p[z] of each row, [B, C].

    Parameters
    ----------
    z, y
        Logits [B, C, K] and labels [B].
    scale
        a of each classifier, [C].
    """
    zy = z.gather(2, y[:, None, None].expand(-1, z.shape[1], 1)).squeeze(2)
    top = z.amax(2, keepdim=True)
    gap = z - top  # ≤ 0
    p = (gap * scale[:, None]).exp_()
    total = p.sum(2)
    first = p.mul_(gap).sum(2) / total
    second = p.mul_(gap).sum(2) / total
    below = zy - top.squeeze(2)
    return total.log() - scale * below, first - below, second - first.square()
