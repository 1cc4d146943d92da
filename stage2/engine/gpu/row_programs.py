"""The Triton program of `stage2.engine.gpu.rows`."""

# ruff: noqa: PLR0917 - Triton functions have no keyword-only parameters.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["rows"])
def rows_kernel(
    x: tl.tensor,  # [N, D]
    rows: tl.tensor,  # [B]
    out: tl.tensor,  # [B, D]
    dim: tl.tensor,  # D
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Copy a row, divided by its length where UNIT says so."""
    b = tl.program_id(0)
    x += tl.load(rows + b) * dim
    out += b.to(tl.int64) * dim
    at = tl.arange(0, BLOCK)
    scale = 1.0
    if UNIT:
        squares = tl.zeros([BLOCK], tl.float32)
        for start in range(0, dim, BLOCK):
            here = tl.load(x + start + at, mask=start + at < dim, other=0.0)
            squares += here * here
        scale = 1 / tl.maximum(tl.sqrt(tl.sum(squares, 0)), 1e-12)
    for start in range(0, dim, BLOCK):
        mask = start + at < dim
        here = tl.load(x + start + at, mask=mask, other=0.0)
        tl.store(out + start + at, here * scale, mask=mask)
