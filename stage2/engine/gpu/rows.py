"""The rows of a batch as a factor of products, by one Triton kernel."""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST_BLOCK = 2048
"""Features of a row that a program processes at a time, at most."""


def factor_rows(x: Tensor, rows: Tensor, *, unit: bool, dtype: torch.dtype) -> Tensor:
    """Rows of features as float32 or bfloat16, [B, D].

    Parameters
    ----------
    x
        Features [N, D] float32.
    rows
        Which of them, [B] int64.
    unit
        Whether to divide each by its length, or by 1e-12 where that is less.
    """
    from stage2.engine.gpu.row_programs import rows_kernel

    dim = x.shape[1]
    out = torch.empty(len(rows), dim, dtype=dtype, device=x.device)
    block = min(LONGEST_BLOCK, max(128, 1 << (dim - 1).bit_length()))
    rows_kernel[(len(rows),)](x, rows, out, dim, UNIT=unit, BLOCK=block, num_warps=4)
    return out
