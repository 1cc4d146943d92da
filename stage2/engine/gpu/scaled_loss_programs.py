"""The Triton programs of `stage2.engine.gpu.scaled_loss`.

A program processes a batch's consecutive rows b, one after the other, of ROWS consecutive
configurations. What these have by class (ρ, b, a, m) is loaded once, and the sums over rows stay in
registers until the last. Of a longer row a program first takes the partition function, and then
processes BLOCK classes at a time of all its rows.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from stage2.engine.gpu.loss_programs import _picked, _slopes, _total, _weight


# One compilation serves tiles of any B and C.
@triton.jit(
    do_not_specialize=["batch", "configs", "span"],
    do_not_specialize_on_alignment=["y", "weight_sum"],
)
def scaled_loss_kernel(
    raw: tl.tensor,  # x·w, [B, C, K]
    gradient: tl.tensor,  # [B, C, K]; may be raw itself
    loss: tl.tensor,  # [P, C]
    slopes: tl.tensor,  # [P, C, K] or None, as may be all that follow
    along: tl.tensor,  # [P, C, K]
    bias: tl.tensor,  # [C, K]
    rho: tl.tensor,  # [C, K]
    y: tl.tensor,  # [B]
    scale: tl.tensor,  # [C, K]
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
    batch: tl.tensor,  # B
    configs: tl.tensor,  # C
    span: tl.tensor,  # rows b of a program
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,  # the most that `span` may be
) -> None:
    """Compute the losses of rows, their gradients in x·w, and sums of these over the rows."""
    groups = tl.cdiv(configs, ROWS)
    part = tl.program_id(0) // groups
    c = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)
    alive = c < configs
    first = part * span
    stride = configs.to(tl.int64) * K
    raw += first * stride
    gradient += first * stride
    if slopes is not None:
        slopes += part * stride
    if along is not None:
        along += part * stride
    last = tl.minimum(first + span, batch)
    if BLOCK >= K:
        total = _whole_rows(
            raw, gradient, slopes, along, bias, rho, y, scale, shift, margin, smoothing, weight,
            weight_sum, by_weights, elsewhere, at_label, gamma, frozen_gamma, batch, configs,
            first, last, stride, c, alive, K, ROWS, BLOCK,
        )  # fmt: skip
    else:
        total = _long_rows(
            raw, gradient, slopes, along, bias, rho, y, scale, shift, margin, smoothing, weight,
            weight_sum, by_weights, elsewhere, at_label, gamma, frozen_gamma, batch, configs,
            first, last, stride, c, alive, K, ROWS, BLOCK, SPAN,
        )  # fmt: skip
    tl.store(loss + part * configs + c, total, mask=alive)


@triton.jit
def _whole_rows(
    raw, gradient, slopes, along, bias, rho, y, scale, shift, margin, smoothing, weight,
    weight_sum, by_weights, elsewhere, at_label, gamma, frozen_gamma, batch, configs, first, last,
    stride, c, alive, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Process rows that fit into registers; the sum of their losses, [ROWS]."""
    k = tl.arange(0, BLOCK)
    mask = alive[:, None] & (k < K)[None, :]
    place = c[:, None] * K + k[None, :]
    c = tl.minimum(c, configs - 1)
    b_k, rho_k, a_k, m_k = _by_class(bias, rho, scale, shift, place, mask)
    loss_sum = tl.zeros([ROWS], tl.float32)
    slope_sum = tl.zeros([ROWS, BLOCK], tl.float32)
    along_sum = tl.zeros([ROWS, BLOCK], tl.float32)
    following = tl.load(raw + place, mask=mask, other=0.0)
    for b in range(first, last):
        # The next row is on its way while this one is processed.
        here = following
        raw += stride
        following = tl.load(raw + place, mask=mask & (b + 1 < last), other=0.0)
        label, own, drop = _labelled(y, margin, b, c, configs, ROWS)
        here += b_k
        u = _adjusted(here, rho, scale, shift, rho_k, a_k, m_k, drop, label, k, K)
        top = tl.max(u, 1)
        v = u - top[:, None]
        e = tl.exp(v)
        factor = _weight(weight, weight_sum, by_weights, None, batch * 1.0, own, c, c, alive)
        loss_here, slope, offset, peak = _slopes(
            tl.sum(e, 1), _picked(v, label, k), _total(v, k, K), factor, own, c, smoothing,
            elsewhere, at_label, gamma, frozen_gamma, K,
        )  # fmt: skip
        loss_sum += loss_here
        q, moved = _gradient(e, here, slope, offset, peak, rho, scale, rho_k, a_k, label, k)
        slope_sum += q
        along_sum += moved
        tl.store(gradient + place, q, mask=mask)
        gradient += stride
    if slopes is not None:
        tl.store(slopes + place, slope_sum, mask=mask)
    if along is not None:
        tl.store(along + place, along_sum, mask=mask)
    return loss_sum


@triton.jit
def _long_rows(
    raw, gradient, slopes, along, bias, rho, y, scale, shift, margin, smoothing, weight,
    weight_sum, by_weights, elsewhere, at_label, gamma, frozen_gamma, batch, configs, first, last,
    stride, c, alive, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Process rows in blocks of classes; the sum of their losses, [ROWS], where ROWS is 1."""
    loss_sum, tops, ramps, offsets, peaks = _first_reading(
        raw, bias, rho, y, scale, shift, margin, smoothing, weight, weight_sum, by_weights,
        elsewhere, at_label, gamma, frozen_gamma, batch, configs, first, last, stride, c, alive, K,
        ROWS, BLOCK, SPAN,
    )  # fmt: skip
    rows = tl.arange(0, SPAN)[None, :]
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = alive[:, None] & (k < K)[None, :]
        place = c[:, None] * K + k[None, :]
        b_k, rho_k, a_k, m_k = _by_class(bias, rho, scale, shift, place, mask)
        slope_sum = tl.zeros([ROWS, BLOCK], tl.float32)
        along_sum = tl.zeros([ROWS, BLOCK], tl.float32)
        for b in range(first, last):
            label, _, drop = _labelled(y, margin, b, c, configs, ROWS)
            step = (b - first) * stride
            here = tl.load(raw + step + place, mask=mask, other=0.0) + b_k
            u = _adjusted(here, rho, scale, shift, rho_k, a_k, m_k, drop, label, k, K)
            at = rows == b - first
            e = tl.exp(u - tl.sum(tl.where(at, tops, 0.0), 1)[:, None])
            slope = tl.sum(tl.where(at, ramps, 0.0), 1)
            offset = tl.sum(tl.where(at, offsets, 0.0), 1)
            peak = tl.sum(tl.where(at, peaks, 0.0), 1)
            q, moved = _gradient(e, here, slope, offset, peak, rho, scale, rho_k, a_k, label, k)
            slope_sum += q
            along_sum += moved
            tl.store(gradient + step + place, q, mask=mask)
        if slopes is not None:
            tl.store(slopes + place, slope_sum, mask=mask)
        if along is not None:
            tl.store(along + place, along_sum, mask=mask)
    return loss_sum


@triton.jit
def _first_reading(
    raw, bias, rho, y, scale, shift, margin, smoothing, weight, weight_sum, by_weights, elsewhere,
    at_label, gamma, frozen_gamma, batch, configs, first, last, stride, c, alive, K: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The sum of the losses of rows [ROWS]; and of each row max u, A/Σe, O and E, at its place of
    [ROWS, SPAN]."""
    loss_sum = tl.zeros([ROWS], tl.float32)
    rows = tl.arange(0, SPAN)[None, :]
    tops = tl.zeros([ROWS, SPAN], tl.float32)
    ramps = tl.zeros([ROWS, SPAN], tl.float32)
    offsets = tl.zeros([ROWS, SPAN], tl.float32)
    peaks = tl.zeros([ROWS, SPAN], tl.float32)
    for b in range(first, last):
        label, own, drop = _labelled(y, margin, b, c, configs, ROWS)
        # Finite to start with, so that a first block of −∞ leaves the sums at 0, not at NaN.
        top = tl.full([ROWS], -3e38, tl.float32)
        partition = tl.zeros([ROWS], tl.float32)
        uy = tl.zeros([ROWS], tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, K, BLOCK):
            k = start + tl.arange(0, BLOCK)
            mask = alive[:, None] & (k < K)[None, :]
            place = c[:, None] * K + k[None, :]
            b_k, rho_k, a_k, m_k = _by_class(bias, rho, scale, shift, place, mask)
            here = tl.load(raw + place, mask=mask, other=0.0) + b_k
            u = _adjusted(here, rho, scale, shift, rho_k, a_k, m_k, drop, label, k, K)
            higher = tl.maximum(top, tl.max(u, 1))
            v = u - higher[:, None]
            partition = partition * tl.exp(top - higher) + tl.sum(tl.exp(v), 1)
            total += start * (top - higher) + _total(v, k, K)
            uy += _picked(u, label, k)
            top = higher
        raw += stride
        factor = _weight(weight, weight_sum, by_weights, None, batch * 1.0, own, c, c, alive)
        loss_here, slope, offset, peak = _slopes(
            partition, uy - top, total, factor, own, c, smoothing, elsewhere, at_label, gamma,
            frozen_gamma, K,
        )  # fmt: skip
        loss_sum += loss_here
        at = rows == b - first
        tops = tl.where(at, top[:, None], tops)
        ramps = tl.where(at, slope[:, None], ramps)
        offsets = tl.where(at, offset[:, None], offsets)
        peaks = tl.where(at, peak[:, None], peaks)
    return loss_sum, tops, ramps, offsets, peaks


@triton.jit
def _by_class(bias, rho, scale, shift, place, mask):
    """b, ρ, a and m, [ROWS, BLOCK] each, or the number that changes nothing."""
    b_k, rho_k, a_k, m_k = 0.0, 1.0, 1.0, 0.0
    if bias is not None:
        b_k = tl.load(bias + place, mask=mask, other=0.0)
    if rho is not None:
        rho_k = tl.load(rho + place, mask=mask, other=1.0)
    if scale is not None:
        a_k = tl.load(scale + place, mask=mask, other=1.0)
    if shift is not None:
        m_k = tl.load(shift + place, mask=mask, other=0.0)
    return b_k, rho_k, a_k, m_k


@triton.jit
def _labelled(y, margin, b, c, configs, ROWS: tl.constexpr):
    """Label of a row, its place in tables [K, C], and its margin, [ROWS] each."""
    label = tl.load(y + b).to(tl.int32) + tl.zeros([ROWS], tl.int32)
    own = label * configs + c
    drop = tl.zeros([ROWS], tl.float32)
    if margin is not None:
        drop = tl.load(margin + own)
    return label, own, drop


@triton.jit
def _adjusted(here, rho, scale, shift, rho_k, a_k, m_k, drop, label, k, K: tl.constexpr):
    """u_k = a_k·ρ_k·(x·w + b)_k + m_k − Δ_y·1[k=y]; −∞ beyond the last class."""
    u = here
    if rho is not None:
        u *= rho_k
    if scale is not None:
        u *= a_k
    if shift is not None:
        u += m_k
    u = tl.where(k[None, :] == label[:, None], u - drop[:, None], u)
    return tl.where((k < K)[None, :], u, -float("inf"))


@triton.jit
def _gradient(e, here, slope, offset, peak, rho, scale, rho_k, a_k, label, k):
    """G·ρ and G·(x·w + b) of G = ∂L/∂z = a·∂L/∂u."""
    q = e * slope[:, None] + offset[:, None]
    q += tl.where(k[None, :] == label[:, None], peak[:, None], 0.0)
    if scale is not None:
        q *= a_k
    moved = q * here
    if rho is not None:
        q *= rho_k
    return q, moved
