"""The Triton programs of `stage2.engine.gpu.update`.

The arithmetic of a step is that of a block of parameters in registers, whose hyper-parameters
broadcast against them, so that a program that has a gradient in registers can take the step too.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sgd_update(
    p: tl.tensor,
    v: tl.tensor,
    g: tl.tensor,
    lr: tl.tensor,
    momentum: tl.tensor,
    decay: tl.tensor,  # or None
    nesterov: tl.tensor,  # 0 or 1; None for 0
    anchor: tl.tensor,  # what the decay pulls towards; None for 0
) -> tl.tensor:
    """μv + d and p − lr·v, or with Nesterov p − lr·(d + μv), for d = g + λ(p − anchor): p and v."""
    if decay is not None:
        pull = p
        if anchor is not None:
            pull -= anchor
        g += decay * pull
    velocity = momentum * v + g
    update = velocity
    if nesterov is not None:
        update = tl.where(nesterov > 0, g + momentum * velocity, velocity)
    return p - lr * update, velocity


@triton.jit
def adamw_update(
    p: tl.tensor,
    mean: tl.tensor,
    square: tl.tensor,
    g: tl.tensor,
    lr: tl.tensor,
    decay: tl.tensor,  # or None
    anchor: tl.tensor,  # what the decay pulls towards; None for 0
    first: tl.tensor,  # 1 − β₁
    second: tl.tensor,  # 1 − β₂
    ratio: tl.tensor,  # of `adamw_count`, as is `floor`
    floor: tl.tensor,
) -> tl.tensor:
    """p − lr·λ(p − anchor) − lr·r·m/(√s + floor), and the new m and s: p, m and s."""
    mean = _towards(mean, g, first)
    square = _towards(square, g * g, second)
    if decay is not None:
        pull = p
        if anchor is not None:
            pull -= anchor
        p -= lr * decay * pull
    return p - lr * ratio * (mean / (tl.sqrt(square) + floor)), mean, square


@triton.jit
def _towards(value: tl.tensor, to: tl.tensor, share: tl.tensor) -> tl.tensor:
    """(1 − share)·value + share·to, from the nearer end, as `torch.lerp` does."""
    gap = to - value
    return tl.where(share < 0.5, value + share * gap, to - (1 - share) * gap)


@triton.jit
def sgd_kernel(
    p: tl.tensor,  # [C, P], and so are v and g
    v: tl.tensor,
    g: tl.tensor,
    lr: tl.tensor,  # [C]
    momentum: tl.tensor,  # [C]
    decay: tl.tensor,  # [C] or None
    nesterov: tl.tensor,  # [C] or None
    anchor: tl.tensor,  # [C, P] or None
    anchor_step: tl.tensor,  # P, or 0 where one anchor [P] serves every configuration
    size: tl.tensor,  # P
    BLOCK: tl.constexpr,
) -> None:
    """Take the step of BLOCK parameters of a configuration."""
    c, at, place, mask = _places(size, BLOCK)
    here = tl.load(p + place, mask=mask)
    velocity = tl.load(v + place, mask=mask)
    slope = tl.load(g + place, mask=mask)
    here, velocity = sgd_update(
        here,
        velocity,
        slope,
        tl.load(lr + c),
        tl.load(momentum + c),
        _of(decay, c),
        _of(nesterov, c),
        _anchor(anchor, anchor_step, c, at, mask),
    )
    tl.store(v + place, velocity, mask=mask)
    tl.store(p + place, here, mask=mask)


@triton.jit
def adamw_kernel(
    p: tl.tensor,  # [C, P], and so are m, s and g
    m: tl.tensor,
    s: tl.tensor,
    g: tl.tensor,
    lr: tl.tensor,  # [C]
    decay: tl.tensor,  # [C] or None
    anchor: tl.tensor,  # [C, P] or None
    anchor_step: tl.tensor,  # P, or 0 where one anchor [P] serves every configuration
    first: tl.tensor,  # [C], and so are the others
    second: tl.tensor,
    ratio: tl.tensor,
    floor: tl.tensor,
    size: tl.tensor,  # P
    BLOCK: tl.constexpr,
) -> None:
    """Take the step of BLOCK parameters of a configuration."""
    c, at, place, mask = _places(size, BLOCK)
    here = tl.load(p + place, mask=mask)
    mean = tl.load(m + place, mask=mask, other=0.0)
    square = tl.load(s + place, mask=mask, other=0.0)
    slope = tl.load(g + place, mask=mask, other=0.0)
    here, mean, square = adamw_update(
        here,
        mean,
        square,
        slope,
        tl.load(lr + c),
        _of(decay, c),
        _anchor(anchor, anchor_step, c, at, mask),
        tl.load(first + c),
        tl.load(second + c),
        tl.load(ratio + c),
        tl.load(floor + c),
    )
    tl.store(m + place, mean, mask=mask)
    tl.store(s + place, square, mask=mask)
    tl.store(p + place, here, mask=mask)


@triton.jit
def adamw_count_kernel(
    steps: tl.tensor,  # [C] float64
    log_betas: tl.tensor,  # log β₁ and log β₂, [2, C] float64
    eps: tl.tensor,  # [C]
    ratio: tl.tensor,  # [C], a result, as is `floor`
    floor: tl.tensor,
    configs: tl.tensor,  # C
    BLOCK: tl.constexpr,
) -> None:
    """Count a step t: r = √(1−β₂ᵗ)/(1−β₁ᵗ) and floor = ε√(1−β₂ᵗ)."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = c < configs
    step = tl.load(steps + c, mask=mask, other=0.0) + 1
    first = 1 - tl.exp(step * tl.load(log_betas + c, mask=mask, other=-1.0))
    second = 1 - tl.exp(step * tl.load(log_betas + configs + c, mask=mask, other=-1.0))
    root = tl.sqrt(second)
    tl.store(steps + c, step, mask=mask)
    tl.store(ratio + c, (root / first).to(tl.float32), mask=mask)
    tl.store(floor + c, tl.load(eps + c, mask=mask) * root.to(tl.float32), mask=mask)


@triton.jit
def _places(size: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Configuration of the program, its parameters among those of one and of all, and a mask."""
    # One axis of programs: the second of a grid ends at 65,535, fewer than a tile may have.
    parts = tl.cdiv(size, BLOCK)
    c = tl.program_id(0) // parts
    at = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    return c, at, c.to(tl.int64) * size + at, at < size


@triton.jit
def _of(column: tl.tensor, c: tl.tensor) -> tl.tensor:
    """A configuration's number of a column [C], None where there is none."""
    value = None
    if column is not None:
        value = tl.load(column + c)
    return value


@triton.jit
def _anchor(
    anchor: tl.tensor, step: tl.tensor, c: tl.tensor, at: tl.tensor, mask: tl.tensor
) -> tl.tensor:
    """The anchors of a program's parameters, None where there are none."""
    values = None
    if anchor is not None:
        values = tl.load(anchor + c.to(tl.int64) * step + at, mask=mask)
    return values
