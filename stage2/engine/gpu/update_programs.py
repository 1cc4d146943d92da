"""The Triton program of `stage2.engine.gpu.update`."""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sgd_kernel(
    p: tl.tensor,  # [C, P], and so are v and g
    v: tl.tensor,
    g: tl.tensor,
    lr: tl.tensor,  # [C]
    momentum: tl.tensor,  # [C]
    decay: tl.tensor,  # [C] or None
    nesterov: tl.tensor,  # [C] or None
    anchor: tl.tensor,  # [C, P] or None: what the decay pulls towards
    anchor_step: tl.tensor,  # P, or 0 where one anchor [P] serves every configuration
    size: tl.tensor,  # P
    BLOCK: tl.constexpr,
) -> None:
    """v ← μv + d and p ← p − lr·v, or with Nesterov p − lr·(d + μv), for d = g + λ(p − anchor)."""
    # One axis of programs: the second of a grid ends at 65,535, fewer than a tile may have.
    parts = tl.cdiv(size, BLOCK)
    c = tl.program_id(0) // parts
    at = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    place = c.to(tl.int64) * size + at
    here = tl.load(p + place, mask=mask)
    slope = tl.load(g + place, mask=mask)
    if decay is not None:
        pull = here
        if anchor is not None:
            pull -= tl.load(anchor + c.to(tl.int64) * anchor_step + at, mask=mask)
        slope += tl.load(decay + c) * pull
    mu = tl.load(momentum + c)
    velocity = mu * tl.load(v + place, mask=mask) + slope
    update = velocity
    if nesterov is not None:
        update = tl.where(tl.load(nesterov + c) > 0, slope + mu * velocity, velocity)
    tl.store(v + place, velocity, mask=mask)
    tl.store(p + place, here - tl.load(lr + c) * update, mask=mask)
