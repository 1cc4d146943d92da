"""The loss family on logits z = ρ·(x·w + b), as one Triton kernel.

Bias and ρ are applied on the way, and the sums over the batch that the gradients of bias and ρ need
are taken: a step reads x·w once and writes its gradient once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stage2.engine.kernel import LossRows

IN_REGISTERS = 4096
"""Longest row that a program holds in registers, with its sums over the batch; longer rows are read
twice."""

PART = 2048
"""Classes of a longer row that a program processes at a time."""

SPAN = 32
"""Rows b of a program at the most; sums over them are what it leaves behind."""

PROGRAMS = 1024
"""Programs that are enough to occupy a GPU."""


class ScaledLoss(NamedTuple):
    """Results of a batch.

    Attributes
    ----------
    gradient
        G·ρ of G = ∂L/∂z, the gradient in x·w, [B, C, K].
    loss
        Sums of losses over each of P parts of the batch, [P, C].
    slopes, along
        The same sums of G·ρ and of G·(x·w + b), [P, C, K]; None unless asked for.
    """

    gradient: Tensor
    loss: Tensor
    slopes: Tensor | None
    along: Tensor | None


def geometry(num_classes: int, configs: int) -> tuple[int, int, int]:
    """Configurations per program, classes processed at a time, and warps.

    Short rows are bundled to 1,024 logits; a thread has 8 to 16.
    """
    if num_classes > IN_REGISTERS:
        return 1, PART, 8
    block = 1 << (num_classes - 1).bit_length()
    rows = min(max(1, 1024 // block), 1 << (configs - 1).bit_length())
    return rows, block, min(16, max(4, rows * block // 512))


def span_of(batch: int, groups: int, programs: int = PROGRAMS) -> int:
    """Consecutive rows b of a program: 8 to `SPAN`, as many as leave so many programs."""
    most = max(8, batch * groups // programs)
    return min(SPAN, 1 << (most.bit_length() - 1))


def scaled_loss(
    raw: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    bias: Tensor | None = None,
    rho: Tensor | None = None,
    weight_sum: Tensor | None = None,
    sums: tuple[bool, bool] = (True, True),
    dtype: torch.dtype = torch.float32,
) -> ScaledLoss:
    """Losses of z = ρ·(raw + b), and their gradient in `raw`.

    Parameters
    ----------
    raw
        x·w, [B, C, K] float32, contiguous; overwritten where `dtype` is float32.
    y
        Labels [B] int64.
    rows
        The losses; without a factor κ and without distillation.
    bias, rho
        b and ρ, [C, K]; None for 0 and for 1.
    weight_sum
        Σω of the batch, [C], where losses have weights.
    sums
        Whether to sum G·ρ, and G·(raw + b), over the parts.
    dtype
        Of the gradient: float32 or bfloat16.
    """
    # Triton is not available everywhere, and slow to import.
    from stage2.engine.gpu.scaled_loss_programs import scaled_loss_kernel

    batch, configs, classes = raw.shape
    together, block, warps = geometry(classes, configs)
    groups = -(-configs // together)
    span = span_of(batch, groups)
    assert span <= SPAN or block >= classes, "a program has no place for so many long rows"
    parts = -(-batch // span)

    def sum_of(wanted: bool) -> Tensor | None:
        return torch.empty(parts, configs, classes, device=raw.device) if wanted else None

    gradient = raw if dtype == torch.float32 else torch.empty_like(raw, dtype=dtype)
    left = ScaledLoss(
        gradient, torch.empty(parts, configs, device=raw.device), sum_of(sums[0]), sum_of(sums[1])
    )
    scaled_loss_kernel[(groups * parts,)](
        raw,
        *left,
        bias,
        rho,
        y,
        rows.scale,
        rows.shift,
        rows.margin,
        rows.smoothing,
        rows.weight,
        weight_sum,
        rows.by_weights,
        rows.elsewhere,
        rows.at_label,
        rows.gamma,
        rows.frozen_gamma,
        batch,
        configs,
        span,
        K=classes,
        ROWS=together,
        BLOCK=block,
        SPAN=SPAN,
        num_warps=warps,
        enable_fp_fusion=True,
    )
    return left
