"""The Triton program of `stage2.engine.gpu.loss`.

A program processes ROWS rows (b, c) of the logits, in memory order. A row that
fits into registers is read once and written once; a longer one is read twice, and its partition
function Σe is accumulated in the first pass with a running maximum. The algebra is that of
`stage2.engine.kernel`, in float32 whatever type the logits are stored in.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl


# One compilation serves tiles of any B and C.
@triton.jit(do_not_specialize=["count", "configs"])
def loss_kernel(
    z: tl.tensor,  # [B, C, K], overwritten by the gradient
    loss: tl.tensor,  # [B, C]
    y: tl.tensor,  # [B]
    scale: tl.tensor,  # [C, K] or None, as may be all that follow
    shift: tl.tensor,
    margin: tl.tensor,  # [K, C]
    smoothing: tl.tensor,
    weight: tl.tensor,
    weight_sum: tl.tensor,  # Σω of the batch, [C]
    by_weights: tl.tensor,
    elsewhere: tl.tensor,
    at_label: tl.tensor,
    gamma: tl.tensor,
    frozen_gamma: tl.tensor,
    kappa: tl.tensor,  # [B, C]
    row_weight: tl.tensor,  # [B]
    size: tl.tensor,  # divisor of an average over the batch
    count: tl.tensor,  # B·C
    configs: tl.tensor,  # C
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Compute the loss of ROWS rows, and replace their logits by gradients."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = row < count
    b, c = row // configs, row % configs
    label = tl.load(y + b, mask=alive, other=0).to(tl.int32)
    own = label * configs + c
    z += row.to(tl.int64) * K
    drop = tl.zeros([ROWS], tl.float32)
    if margin is not None:
        drop = tl.load(margin + own)

    classes = tl.arange(0, BLOCK)
    if BLOCK >= K:
        u = _adjusted(z, scale, shift, drop, c, label, classes, alive, K)
        v = u - tl.max(u, 1)[:, None]
        e = tl.exp(v)
        partition, vy, total = tl.sum(e, 1), _picked(v, label, classes), _total(v, classes, K)
    else:
        top, partition, vy, total = _gathered(
            z, scale, shift, drop, c, label, alive, K, ROWS, BLOCK
        )

    # ω and every other factor without a gradient.
    factor = _weight(weight, weight_sum, by_weights, row_weight, size, own, b, c, alive)
    if kappa is not None:
        factor *= tl.load(kappa + row, mask=alive, other=0.0)
    value, slope, offset, peak = _slopes(
        partition, vy, total, factor, own, c, smoothing, elsewhere, at_label, gamma, frozen_gamma, K
    )
    tl.store(loss + row, value, mask=alive)
    if BLOCK >= K:
        _write(z, e, slope, offset, peak, scale, c, label, classes, alive, K)
    else:
        for start in range(0, K, BLOCK):
            u = _adjusted(z, scale, shift, drop, c, label, start + classes, alive, K)
            e = tl.exp(u - top[:, None])
            _write(z, e, slope, offset, peak, scale, c, label, start + classes, alive, K)


@triton.jit
def _adjusted(
    z: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    drop: tl.tensor,
    c: tl.tensor,
    label: tl.tensor,
    k: tl.tensor,
    alive: tl.tensor,
    K: tl.constexpr,
) -> tl.tensor:
    """u_k = a_k·z_k + m_k − Δ_y·1[k=y] of the classes `k`, [ROWS, BLOCK]; −∞ beyond the last."""
    mask = alive[:, None] & (k < K)[None, :]
    u = tl.load(z[:, None] + k[None, :], mask=mask, other=-float("inf")).to(tl.float32)
    place = c[:, None] * K + k[None, :]
    if scale is not None:
        u *= tl.load(scale + place, mask=mask, other=1.0)
    if shift is not None:
        u += tl.load(shift + place, mask=mask, other=0.0)
    return tl.where(k[None, :] == label[:, None], u - drop[:, None], u)


@triton.jit
def _picked(u: tl.tensor, label: tl.tensor, k: tl.tensor) -> tl.tensor:
    """u_y from the registers, 0 where `k` is without y; a load could follow another's store."""
    return tl.sum(tl.where(k[None, :] == label[:, None], u, 0.0), 1)


@triton.jit
def _total(v: tl.tensor, k: tl.tensor, K: tl.constexpr) -> tl.tensor:
    """Σ_k v_k."""
    return tl.sum(tl.where(k[None, :] < K, v, 0.0), 1)


@triton.jit
def _gathered(
    z: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    drop: tl.tensor,
    c: tl.tensor,
    label: tl.tensor,
    alive: tl.tensor,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """max u, Σe, v_y and Σv for v = u − max u and e = exp v, taken BLOCK classes at a time."""
    # Finite to start with, so that a first block of −∞ leaves the sums at 0, not at NaN.
    top = tl.full([ROWS], -3e38, tl.float32)
    partition = tl.zeros([ROWS], tl.float32)
    uy = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        u = _adjusted(z, scale, shift, drop, c, label, k, alive, K)
        higher = tl.maximum(top, tl.max(u, 1))
        v = u - higher[:, None]
        partition = partition * tl.exp(top - higher) + tl.sum(tl.exp(v), 1)
        total += start * (top - higher) + _total(v, k, K)
        uy += _picked(u, label, k)
        top = higher
    return top, partition, uy - top, total


@triton.jit
def _weight(
    weight: tl.tensor,
    weight_sum: tl.tensor,
    by_weights: tl.tensor,
    row_weight: tl.tensor,
    size: tl.tensor,
    own: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    alive: tl.tensor,
) -> tl.tensor:
    """ω_y over the batch's normaliser, [ROWS]."""
    norm = tl.zeros(c.shape, tl.float32) + size
    if weight_sum is not None:
        total = tl.load(weight_sum + c)
        norm = tl.where(tl.load(by_weights + c) & (total > 0), total, norm)
    factor = 1 / norm
    if weight is not None:
        factor *= tl.load(weight + own)
    if row_weight is not None:
        factor *= tl.load(row_weight + b, mask=alive, other=0.0)
    return factor


@triton.jit
def _slopes(
    partition: tl.tensor,
    vy: tl.tensor,
    total: tl.tensor,
    factor: tl.tensor,
    own: tl.tensor,
    c: tl.tensor,
    smoothing: tl.tensor,
    elsewhere: tl.tensor,
    at_label: tl.tensor,
    gamma: tl.tensor,
    frozen_gamma: tl.tensor,
    K: tl.constexpr,
) -> tl.tensor:
    """Losses of rows that count `factor`, and A/Σe, O and E of ∂L/∂u_k = A·p_k + O + E·1[k=y]."""
    # S, and the target's mass elsewhere (ε·o) and above that at the label.
    log_partition = tl.log(partition)
    log_py = vy - log_partition
    apart, excess, entropy = tl.zeros(c.shape, tl.float32), 1.0, -log_py
    if smoothing is not None:
        epsilon = tl.load(smoothing + own)
        apart = epsilon * tl.load(elsewhere + c)
        excess = 1 - epsilon + epsilon * tl.load(at_label + c) - apart
        entropy = -(excess * log_py + apart * (total - K * log_partition))
    # f = (1−p_y)^γ and S·f'·p_y.
    py = tl.exp(log_py)
    miss = tl.maximum(1 - py, 0.0)
    if frozen_gamma is not None:
        factor *= _power(miss, tl.load(frozen_gamma + c))
    focus, turn = 1.0, 0.0
    if gamma is not None:
        exponent = tl.load(gamma + c)
        focus = _power(miss, exponent)
        turn = -entropy * exponent * _power(miss, exponent - 1) * py
    slope = factor * (focus - turn) / partition
    loss = factor * focus * entropy
    return loss, slope, -factor * focus * apart, factor * (turn - focus * excess)


@triton.jit
def _power(base: tl.tensor, exponent: tl.tensor) -> tl.tensor:
    """base^exponent for a base in [0, 1]; 0^0 is 1, and a pole at 0 counts as 0: S is 0 there."""
    at_zero = tl.where(exponent == 0, 1.0, 0.0)
    return tl.where(base > 0, tl.exp(exponent * tl.log(base)), at_zero)


@triton.jit
def _write(
    z: tl.tensor,
    e: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    peak: tl.tensor,
    scale: tl.tensor,
    c: tl.tensor,
    label: tl.tensor,
    k: tl.tensor,
    alive: tl.tensor,
    K: tl.constexpr,
) -> None:
    """∂L/∂z_k = a_k·(A·p_k + O + E·1[k=y]) of the classes `k` in the place of their logits."""
    mask = alive[:, None] & (k < K)[None, :]
    gradient = e * slope[:, None] + offset[:, None]
    gradient += tl.where(k[None, :] == label[:, None], peak[:, None], 0.0)
    if scale is not None:
        gradient *= tl.load(scale + c[:, None] * K + k[None, :], mask=mask, other=0.0)
    tl.store(z[:, None] + k[None, :], gradient, mask=mask)
