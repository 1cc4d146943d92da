"""The Triton programs of `stage2.engine.gpu.descent`.

All of them take their steps by `_stepped`: SGD where there is no second state, else AdamW, both
with the arithmetic of `stage2.engine.gpu.update_programs`.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl

from stage2.engine.gpu.update_programs import _of, adamw_update, sgd_update

BY_STEP = ["lr", "ratio", "floor"]
"""Arguments that are rows of a table: one compilation serves all of them, aligned or not."""


@triton.jit
def _stepped(
    p: tl.tensor,  # these five point to the first of the numbers `at`
    first: tl.tensor,
    second: tl.tensor,
    anchor: tl.tensor,
    at: tl.tensor,
    anchor_at: tl.tensor,
    mask: tl.tensor,
    c: tl.tensor,  # configuration of each number, broadcastable to `at`
    slope: tl.tensor,  # ∂L/∂p, but for what follows
    toward: tl.tensor,  # t of a gradient ∂L/∂p − t·p, broadcastable to `at`, or None
    lr: tl.tensor,  # [C], as is all that follows
    multiplier: tl.tensor,
    decay: tl.tensor,
    momentum: tl.tensor,
    nesterov: tl.tensor,
    mean_share: tl.tensor,
    square_share: tl.tensor,
    ratio: tl.tensor,
    floor: tl.tensor,
) -> tl.tensor:
    """Take a step of the optimiser on the numbers `at` of p and its states; the new numbers."""
    here = tl.load(p + at, mask=mask, other=0.0)
    if toward is not None:
        slope -= toward * here
    rate = tl.load(lr + c)
    if multiplier is not None:
        rate *= tl.load(multiplier + c)
    aim = None
    if anchor is not None:
        aim = tl.load(anchor + anchor_at, mask=mask, other=0.0)
    state = tl.load(first + at, mask=mask, other=0.0)
    if second is None:
        mu, ahead = tl.load(momentum + c), _of(nesterov, c)
        here, state = sgd_update(here, state, slope, rate, mu, _of(decay, c), ahead, aim)
    else:
        square = tl.load(second + at, mask=mask, other=0.0)
        here, state, square = adamw_update(
            here, state, square, slope, rate, _of(decay, c), aim, tl.load(mean_share + c),
            tl.load(square_share + c), tl.load(ratio + c), tl.load(floor + c),
        )  # fmt: skip
        tl.store(second + at, square, mask=mask)
    tl.store(first + at, state, mask=mask)
    tl.store(p + at, here, mask=mask)
    return here


@triton.jit(do_not_specialize=["batch", "units"], do_not_specialize_on_alignment=BY_STEP)
def weight_kernel(
    g: tl.tensor,  # G·ρ [B, C·K]; or without x the gradient [C·K, D]
    x: tl.tensor,  # [B, D] or None
    p: tl.tensor,  # W, [C·K, D], and so are first, second and shadow
    first: tl.tensor,
    second: tl.tensor,  # None for SGD
    anchor: tl.tensor,  # [C·K, D], with ONE_ANCHOR [K, D], or None
    shadow: tl.tensor,  # W in bfloat16, or None
    squares: tl.tensor,  # ‖w‖² by tile of columns [⌈D/BN⌉, C·K], or None
    toward: tl.tensor,  # [C·K] or None
    lr: tl.tensor,  # [C], or None for what is neutral, as is all up to `floor`
    multiplier: tl.tensor,
    decay: tl.tensor,
    momentum: tl.tensor,
    nesterov: tl.tensor,
    mean_share: tl.tensor,
    square_share: tl.tensor,
    ratio: tl.tensor,
    floor: tl.tensor,
    batch: tl.tensor,  # B
    units: tl.tensor,  # C·K / UNIT
    dim: tl.tensor,  # D
    K: tl.constexpr,
    UNIT: tl.constexpr,
    ONE_ANCHOR: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Compute a tile of the gradient, and take the step of its weights."""
    rows = units * UNIT
    tiles = tl.cdiv(dim, BN)
    m0 = tl.program_id(0) // tiles * BM
    n0 = tl.program_id(0) % tiles * BN  # tiles of the same rows follow one another: G from L2
    row = m0 + tl.arange(0, BM)
    column = n0 + tl.arange(0, BN)
    base = m0.to(tl.int64) * dim
    if x is None:
        at = tl.arange(0, BM)[:, None] * dim + column[None, :]
        mask = (row < rows)[:, None] & (column < dim)[None, :]
        gradient = tl.load(g + base + at, mask=mask, other=0.0)
    else:
        gradient = tl.zeros([BM, BN], tl.float32)
        b = tl.arange(0, BB)
        g_at = g + b.to(tl.int64)[:, None] * rows + row[None, :]
        x_at = x + b[:, None] * dim + column[None, :]
        for start in range(0, batch, BB):
            there = (start + b < batch)[:, None]
            g_tile = tl.load(g_at, mask=there & (row < rows)[None, :], other=0.0)
            x_tile = tl.load(x_at, mask=there & (column < dim)[None, :], other=0.0)
            gradient = tl.dot(tl.trans(g_tile), x_tile, gradient, input_precision=PRECISION)
            g_at += rows.to(tl.int64) * BB
            x_at += dim * BB
    norm = _tile_stepped(
        gradient,
        p + base,
        first + base,
        None if second is None else second + base,
        anchor,
        None if shadow is None else shadow + base,
        None if toward is None else tl.load(toward + row, mask=row < rows, other=0.0)[:, None],
        lr,
        multiplier,
        decay,
        momentum,
        nesterov,
        mean_share,
        square_share,
        ratio,
        floor,
        m0,
        n0,
        rows,
        dim,
        K,
        ONE_ANCHOR,
        BM,
        BN,
        PARTS,
    )
    if squares is not None:
        tile = tl.program_id(0) % tiles
        tl.store(squares + tile.to(tl.int64) * rows + row, norm, mask=row < rows)


@triton.jit
def _tile_stepped(
    gradient: tl.tensor,
    p: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    anchor: tl.tensor,
    shadow: tl.tensor,
    toward: tl.tensor,
    lr: tl.tensor,
    multiplier: tl.tensor,
    decay: tl.tensor,
    momentum: tl.tensor,
    nesterov: tl.tensor,
    mean_share: tl.tensor,
    square_share: tl.tensor,
    ratio: tl.tensor,
    floor: tl.tensor,
    m0: tl.tensor,
    n0: tl.tensor,
    rows: tl.tensor,
    dim: tl.tensor,
    K: tl.constexpr,
    ONE_ANCHOR: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """Take the step of a tile, PARTS pieces of its columns in turn to save registers; Σw² of its
    rows, [BM]."""
    if PARTS > 1:
        half: tl.constexpr = BN // 2
        halves = tl.permute(tl.reshape(gradient, [BM, 2, half]), [0, 2, 1])
        left, right = tl.split(halves)
        norm = _tile_stepped(
            left, p, first, second, anchor, shadow, toward, lr, multiplier, decay, momentum,
            nesterov, mean_share, square_share, ratio, floor, m0, n0, rows, dim, K, ONE_ANCHOR,
            BM, half, PARTS // 2,
        )  # fmt: skip
        norm += _tile_stepped(
            right, p, first, second, anchor, shadow, toward, lr, multiplier, decay, momentum,
            nesterov, mean_share, square_share, ratio, floor, m0, n0 + half, rows, dim, K,
            ONE_ANCHOR, BM, half, PARTS // 2,
        )  # fmt: skip
    else:
        row = m0 + tl.arange(0, BM)
        column = n0 + tl.arange(0, BN)
        mask = (row < rows)[:, None] & (column < dim)[None, :]
        at = tl.arange(0, BM)[:, None] * dim + column[None, :]
        place = tl.minimum(row, rows - 1)
        if ONE_ANCHOR:
            anchor_at = (place % K)[:, None] * dim + column[None, :]
        else:
            anchor_at = m0.to(tl.int64) * dim + at
        stepped = _stepped(
            p, first, second, anchor, at, anchor_at, mask, (place // K)[:, None], gradient,
            toward, lr, multiplier, decay, momentum, nesterov, mean_share, square_share, ratio,
            floor,
        )  # fmt: skip
        if shadow is not None:
            tl.store(shadow + at, stepped.to(tl.bfloat16), mask=mask)
        norm = tl.sum(tl.where(mask, stepped * stepped, 0.0), 1)
    return norm


@triton.jit
def lengths_kernel(
    squares: tl.tensor,  # [T, C·K]
    scale: tl.tensor,  # s, [C]
    length: tl.tensor,  # [C·K]
    rho: tl.tensor,  # [C·K]
    tiles: tl.tensor,  # T
    rows: tl.tensor,  # C·K
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """‖w‖ of rows from sums of parts of them, and ρ = s/‖w‖."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < rows
    total = tl.zeros([BLOCK], tl.float32)
    at = squares + row
    for _ in range(tiles):
        total += tl.load(at, mask=mask, other=0.0)
        at += rows
    norm = tl.maximum(tl.sqrt(total), 1e-12)
    tl.store(length + row, norm, mask=mask)
    tl.store(rho + row, tl.load(scale + row // K, mask=mask, other=0.0) / norm, mask=mask)


@triton.jit(
    do_not_specialize=["parts", "configs", "bias_step", "scale_step"],
    do_not_specialize_on_alignment=BY_STEP,
)
def small_kernel(
    loss_total: tl.tensor,  # [C] float64: the loss of the epoch so far
    loss: tl.tensor,  # [P, C]
    slopes: tl.tensor,  # ΣG·ρ, [P, C, K] or None
    along: tl.tensor,  # ΣG·(x·w + b), [P, C, K] or None
    length: tl.tensor,  # ‖w‖ [C, K] where s is one number and ρ = s/‖w‖; None where s is ρ
    rho: tl.tensor,  # [C, K], and so is
    toward: tl.tensor,
    bias: tl.tensor,  # [C, K] or None, and so are its states; those of s are [C, K] or [C]
    bias_first: tl.tensor,
    bias_second: tl.tensor,
    bias_anchor: tl.tensor,
    bias_step: tl.tensor,  # K, or 0 where one anchor serves all configurations; the same of s
    bias_multiplier: tl.tensor,
    bias_decay: tl.tensor,
    scale: tl.tensor,
    scale_first: tl.tensor,
    scale_second: tl.tensor,
    scale_anchor: tl.tensor,
    scale_step: tl.tensor,
    scale_multiplier: tl.tensor,
    scale_decay: tl.tensor,
    lr: tl.tensor,  # [C], or None for what is neutral, as is all up to `floor`
    momentum: tl.tensor,
    nesterov: tl.tensor,
    mean_share: tl.tensor,
    square_share: tl.tensor,
    ratio: tl.tensor,
    floor: tl.tensor,
    parts: tl.tensor,  # P
    configs: tl.tensor,  # C
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    WAYS: tl.constexpr,
) -> None:
    """Sum what the parts of a batch left of a configuration, and take the steps of b and s."""
    c = tl.program_id(0)
    ways = tl.arange(0, WAYS)
    value = tl.zeros([WAYS], tl.float32)
    for part in range(0, parts, WAYS):
        there = part + ways < parts
        value += tl.load(loss + (part + ways) * configs + c, mask=there, other=0.0)
    tl.store(loss_total + c, tl.load(loss_total + c) + tl.sum(value, 0).to(tl.float64))
    stride = configs.to(tl.int64) * K
    turn = tl.zeros([BLOCK], tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        mask = k < K
        place = c * K + k
        if bias is not None:
            slope = _summed(slopes, place, mask, stride, parts, BLOCK)
            _stepped(
                bias, bias_first, bias_second, bias_anchor, place, c * bias_step + k, mask, c,
                slope, None, lr, bias_multiplier, bias_decay, momentum, nesterov, mean_share,
                square_share, ratio, floor,
            )  # fmt: skip
        if along is not None:
            moved = _summed(along, place, mask, stride, parts, BLOCK)
            if length is None:
                _stepped(
                    scale, scale_first, scale_second, scale_anchor, place, c * scale_step + k,
                    mask, c, moved, None, lr, scale_multiplier, scale_decay, momentum, nesterov,
                    mean_share, square_share, ratio, floor,
                )  # fmt: skip
            else:
                norm = tl.load(length + place, mask=mask, other=1.0)
                turn += moved / norm
                pull = tl.load(rho + place, mask=mask, other=0.0) * moved / (norm * norm)
                tl.store(toward + place, pull, mask=mask)
    if length is not None:
        _stepped(
            scale, scale_first, scale_second, scale_anchor, c, c, c >= 0, c, tl.sum(turn, 0), None,
            lr, scale_multiplier, scale_decay, momentum, nesterov, mean_share, square_share, ratio,
            floor,
        )  # fmt: skip


@triton.jit
def _summed(
    values: tl.tensor,
    place: tl.tensor,
    mask: tl.tensor,
    stride: tl.tensor,
    parts: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Σ over P of [P, …] at a place."""
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        total += tl.load(values + part * stride + place, mask=mask, other=0.0)
    return total
