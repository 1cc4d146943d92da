"""The Triton program of `stage2.engine.gpu.temperature`.

A program processes ROWS rows (i, j) of logits, in memory order, and holds them in registers.
"""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl

from stage2.engine.gpu.loss_programs import _picked


# One compilation serves any numbers of rows and classifiers.
@triton.jit(do_not_specialize=["count", "chosen", "configs"])
def moments_kernel(
    z: tl.tensor,  # [N, C, K]
    y: tl.tensor,  # [N]
    scale: tl.tensor,  # a, [C']
    chosen_configs: tl.tensor,  # the classifiers among the C, [C']
    loss: tl.tensor,  # [N, C'], a result, as are the others
    slope: tl.tensor,
    curvature: tl.tensor,
    count: tl.tensor,  # N·C'
    chosen: tl.tensor,  # C'
    configs: tl.tensor,  # C
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,  # at least K
) -> None:
    """−log p_y of softmax(a·z), E_p[z] − z_y and Var_p[z] of ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = row < count
    i, j = row // chosen, row % chosen
    c = tl.load(chosen_configs + j, mask=alive, other=0)
    a = tl.load(scale + j, mask=alive, other=1.0)
    label = tl.load(y + i, mask=alive, other=0).to(tl.int32)
    k = tl.arange(0, BLOCK)
    known = alive[:, None] & (k < K)[None, :]
    start = (i.to(tl.int64) * configs + c) * K
    u = tl.load(z + start[:, None] + k[None, :], mask=known, other=-float("inf"))
    top = tl.max(u, 1)
    gap = tl.where(known, u - top[:, None], 0.0)
    p = tl.where(known, tl.exp(gap * a[:, None]), 0.0)
    total = tl.sum(p, 1)
    first = tl.sum(p * gap, 1) / total
    second = tl.sum(p * gap * gap, 1) / total
    below = _picked(u, label, k) - top
    tl.store(loss + row, tl.log(total) - a * below, mask=alive)
    tl.store(slope + row, first - below, mask=alive)
    tl.store(curvature + row, second - first * first, mask=alive)
