"""The Triton programs of `stage2.engine.gpu.binary`.

A program processes ROWS rows (b, c) of the logits, in memory order, and holds what it works on in
registers. The algebra is that of `stage2.engine.terms.softmax_bce` and `sigmoid_focal`.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl

from stage2.engine.gpu.loss_programs import _picked, _weight


# One compilation serves tiles of any B and C.
@triton.jit(do_not_specialize=["count", "configs"])
def softmax_bce_kernel(
    z: tl.tensor,  # [B, C, K], overwritten by the gradient
    loss: tl.tensor,  # [B, C]
    y: tl.tensor,  # [B]
    weight: tl.tensor,  # [K, C] or None, as may be those that say so
    weight_sum: tl.tensor,  # Σω of the batch, [C], or None
    by_weights: tl.tensor,  # [C]
    kappa: tl.tensor,  # [B, C] or None
    row_weight: tl.tensor,  # [B] or None
    size: tl.tensor,  # divisor of an average over the batch
    count: tl.tensor,  # B·C
    configs: tl.tensor,  # C
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,  # at least K
) -> None:
    """−log p_y − Σ_{k≠y} log(1−p_k) of ROWS rows; * is the class of the largest logit."""
    row, alive, label, factor = _rows(
        y, weight, weight_sum, by_weights, kappa, row_weight, size, count, configs, K, ROWS
    )
    k = tl.arange(0, BLOCK)
    mask = alive[:, None] & (k < K)[None, :]
    place = z + row.to(tl.int64)[:, None] * K + k[None, :]
    u = tl.load(place, mask=mask, other=-float("inf")).to(tl.float32)

    # The softmax s without *, and its share 1−p_* of the whole.
    top = tl.max(u, 1)
    first = tl.min(tl.where(u == top[:, None], k[None, :], BLOCK), 1)
    right = first == label
    is_top = k[None, :] == first[:, None]
    u_y = _picked(u, label, k)
    u = tl.where(is_top, -float("inf"), u)
    second = tl.max(u, 1)
    s = tl.exp(u - second[:, None])
    partition = tl.sum(s, 1)
    s = s / partition[:, None]
    others = tl.log(partition) + second
    log_top, log_rest = _log_sigmoid(top - others), _log_sigmoid(others - top)
    p_top, rest = tl.exp(log_top), tl.exp(log_rest)

    s_y = _picked(s, label, k)  # 0 where y = *, as is p_y
    p_y = s_y * rest
    p = s * rest[:, None]
    odds = p / (1 - p)
    total_odds = tl.sum(odds, 1) - p_y / (1 - p_y)
    missed = _log1p(-p_y) - tl.sum(_log1p(-p), 1)
    value = missed - tl.where(right, log_top, u_y - others + 2 * log_rest)
    tl.store(loss + row, factor * value, mask=alive)

    wrong = tl.where(right, 0.0, p_top)
    slope = rest * (2 - total_odds) - wrong
    at_y = p_y * (1 - total_odds) - wrong * s_y - 1
    at_y = tl.where(right, -rest - p_top * total_odds, at_y)
    gradient = s * slope[:, None] + odds * p
    gradient = tl.where(is_top, (p_top * (2 - total_odds))[:, None], gradient)
    gradient = tl.where(k[None, :] == label[:, None], at_y[:, None], gradient)
    tl.store(place, factor[:, None] * gradient, mask=mask)


@triton.jit(do_not_specialize=["count", "configs"])
def sigmoid_focal_kernel(
    z: tl.tensor,  # [B, C, K], overwritten by the gradient
    loss: tl.tensor,  # [B, C]
    y: tl.tensor,  # [B]
    weight: tl.tensor,  # [K, C] or None, as may be those that say so
    weight_sum: tl.tensor,  # Σω of the batch, [C], or None
    by_weights: tl.tensor,  # [C]
    gamma: tl.tensor,  # [C] or None
    kappa: tl.tensor,  # [B, C] or None
    row_weight: tl.tensor,  # [B] or None
    size: tl.tensor,  # divisor of an average over the batch
    count: tl.tensor,  # B·C
    configs: tl.tensor,  # C
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """−Σ_k p^γ log(1−p) of ROWS rows for p = sigmoid(x_k) with x_y = −z_y and else x_k = z_k."""
    row, alive, label, factor = _rows(
        y, weight, weight_sum, by_weights, kappa, row_weight, size, count, configs, K, ROWS
    )
    total = tl.zeros([ROWS], tl.float32)
    if gamma is not None:
        exponent = tl.load(gamma + row % configs)[:, None]
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        known = (k < K)[None, :]
        mask = alive[:, None] & known
        place = z + row.to(tl.int64)[:, None] * K + k[None, :]
        u = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        at_y = k[None, :] == label[:, None]
        x = tl.where(at_y, -u, u)
        e = tl.exp(-tl.abs(x))
        apart = _log1p(e)
        term = tl.maximum(x, 0.0) + apart
        inverse = 1 / (1 + e)
        slope = tl.where(x > 0, inverse, e * inverse)
        if gamma is not None:
            focus = tl.exp(exponent * (tl.minimum(x, 0.0) - apart))
            miss = tl.where(x > 0, e * inverse, inverse)
            slope = (miss * exponent * term + slope) * focus
            term *= focus
        total += tl.sum(tl.where(known, term, 0.0), 1)
        tl.store(place, factor[:, None] * tl.where(at_y, -slope, slope), mask=mask)
    tl.store(loss + row, factor * total, mask=alive)


@triton.jit
def _rows(
    y: tl.tensor,
    weight: tl.tensor,
    weight_sum: tl.tensor,
    by_weights: tl.tensor,
    kappa: tl.tensor,
    row_weight: tl.tensor,
    size: tl.tensor,
    count: tl.tensor,
    configs: tl.tensor,
    K: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """The rows of a program, which of them there are, their labels and factors, [ROWS] each."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = row < count
    b, c = row // configs, row % configs
    label = tl.load(y + b, mask=alive, other=0).to(tl.int32)
    own = label * configs + c
    factor = _weight(weight, weight_sum, by_weights, row_weight, size, own, b, c, alive)
    if kappa is not None:
        factor *= tl.load(kappa + row, mask=alive, other=0.0)
    return row, alive, label, factor


@triton.jit
def _log_sigmoid(x: tl.tensor) -> tl.tensor:
    """Logarithm of 1/(1 + exp(−x))."""
    return tl.minimum(x, 0.0) - _log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _log1p(x: tl.tensor) -> tl.tensor:
    """Logarithm of 1 + x for x in [−½, 1], to the last digit where x is small.

    It is 2·artanh t for t = x/(2 + x) in [−⅓, ⅓], a polynomial in t² that errs by 4e-9.
    """
    t = x / (2 + x)
    w = t * t
    series = (((0.14087329 * w + 0.13980709) * w + 0.20012427) * w + 0.33333158) * w + 1.0
    return 2 * t * series
