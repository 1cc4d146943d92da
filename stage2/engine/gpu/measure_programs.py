"""The Triton program of `stage2.engine.gpu.measure`.

A program processes consecutive rows b, one after the other, of ROWS consecutive configurations, and
holds a row of logits in registers. Its results are those of `stage2/engine/native/measure.cpp`.
"""

# ruff: noqa: PLR0917, PLR0124 - Triton has no keyword-only parameters, and no test for NaN.

from __future__ import annotations

import triton
import triton.language as tl

from stage2.engine.gpu.loss_programs import _picked

TINY: tl.constexpr = tl.constexpr(1.1754943508222875e-38)
"""The least positive normal number."""


# One compilation serves tiles of any B and C.
@triton.jit(do_not_specialize=["batch", "configs"])
def measure_kernel(
    z: tl.tensor,  # [B, C, K]
    y: tl.tensor,  # [B]
    rank: tl.tensor,  # [B, C], a result, as are the others up to `high`
    own: tl.tensor,
    top: tl.tensor,  # None for rank and own alone
    partition: tl.tensor,
    norm: tl.tensor,
    predicted: tl.tensor,
    total: tl.tensor,  # [P, C, K]
    low: tl.tensor,
    high: tl.tensor,
    place: tl.tensor,  # [K], or None for no bounds
    log_prior: tl.tensor,  # [C, K] or None
    far: tl.tensor,
    batch: tl.tensor,  # B
    configs: tl.tensor,  # C
    SPAN: tl.constexpr,  # rows b of a program
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Measure the rows b of a program, and sum their logits."""
    groups = tl.cdiv(configs, ROWS)
    part = tl.program_id(0) // groups
    c = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK)
    known = (k < K)[None, :]
    here = c[:, None] * K + k[None, :]
    stride = configs.to(tl.int64) * K
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in range(SPAN):
        b = part * SPAN + step
        alive = (c < configs) & (b < batch)
        inside = alive[:, None] & known
        u = tl.load(z + b * stride + here, mask=inside, other=-float("inf"))
        label = tl.load(y + b, mask=b < batch, other=0).to(tl.int32)
        at = b * configs.to(tl.int64) + c
        u_y = _picked(u, label + tl.zeros([ROWS], tl.int32), k)
        gap = u - u_y[:, None]
        # z_k − z_y < 0 before the label and ≤ 0 from it on; NaN stands before every number.
        bound = tl.where(k[None, :] >= label, TINY, 0.0)
        after = tl.sum(tl.where(known & (gap < bound), 1.0, 0.0), 1)
        tl.store(rank + at, K - after, mask=alive)
        tl.store(own + at, u_y, mask=alive)
        if top is not None:
            _measure_softmax(
                u, k, known, top + at, partition + at, norm + at, predicted + at, alive
            )
            sums += tl.where(inside, u, 0.0)
        if place is not None:
            prior_y = 0.0
            if log_prior is not None:
                gap -= tl.load(log_prior + here, mask=inside, other=0.0)
                prior_y = tl.load(log_prior + c * K + label, mask=alive, other=0.0)[:, None]
            behind = tl.load(place + k[None, :], mask=known, other=0.0) - tl.load(place + label)
            _measure_bounds(gap + prior_y, behind, known, far, low + at, high + at, alive)
    if top is not None:
        tl.store(total + part * stride + here, sums, mask=(c < configs)[:, None] & known)


@triton.jit
def _measure_softmax(
    u: tl.tensor,
    k: tl.tensor,
    known: tl.tensor,
    top: tl.tensor,
    partition: tl.tensor,
    norm: tl.tensor,
    predicted: tl.tensor,
    alive: tl.tensor,
) -> None:
    """max u, Σe and ‖e‖ for e = exp(u − max u), and the first class of the largest logit."""
    BLOCK: tl.constexpr = u.shape[1]
    most = tl.max(u, 1)
    # A NaN is the largest logit; its classes are counted from −BLOCK.
    index = tl.where(u == most[:, None], k[None, :], BLOCK)
    index = tl.where(u != u, k[None, :] - BLOCK, index)
    first = tl.min(index, 1)
    e = tl.exp(u - most[:, None])
    e = tl.where(known, e, 0.0)
    tl.store(predicted, tl.where(first < 0, first + BLOCK, first), mask=alive)
    tl.store(top, tl.where(first < 0, float("nan"), most), mask=alive)
    tl.store(partition, tl.sum(e, 1), mask=alive)
    tl.store(norm, tl.sqrt(tl.sum(e * e, 1)), mask=alive)


@triton.jit
def _measure_bounds(
    gap: tl.tensor,  # u_k − u_y under equal shares
    behind: tl.tensor,  # place_k − place_y
    known: tl.tensor,
    far: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    alive: tl.tensor,
) -> None:
    """The bounds on λ of `stage2.engine.shifting`."""
    bound = gap * tl.where(behind == 0, 0.0, 1 / behind)
    lost = bound != bound  # NaN, which maxima and minima here leave out
    bound = tl.minimum(tl.maximum(bound, -far), far)
    bound += tl.where(behind > 0, 4 * far, tl.where(behind < 0, -4 * far, 0.0))
    infinity = float("inf")
    least = tl.max(tl.where(known, tl.where(lost, infinity, bound), -infinity), 1)
    most = tl.min(tl.where(known, bound, infinity), 1)
    nothing = least == infinity
    tl.store(low, tl.where(nothing, float("nan"), least - 4 * far), mask=alive)
    tl.store(high, tl.where(nothing, float("nan"), most + 4 * far), mask=alive)
