"""The loss family as one Triton kernel, for a GPU.

The results are those of `stage2.engine.kernel.loss_and_gradient` up to the rounding of float32. A
step reads and writes every logit once, 8 bytes, where the passes of the eager kernel move 32 to 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.kernel import LossRows

IN_REGISTERS = 16384
"""Longest row of logits that a program holds in registers; longer rows are read twice."""

PART = 4096
"""Classes of a longer row that a program processes at a time."""


def geometry(num_classes: int) -> tuple[int, int, int]:
    """Rows (b, c) per program, classes processed at a time, and warps, for K classes.

    Long rows have 16 to 32 logits per thread. Short rows are bundled to 1,024 logits, so that
    launching programs does not take longer than moving the logits through memory.
    """
    if num_classes > IN_REGISTERS:
        return 1, PART, 8
    block = 1 << (num_classes - 1).bit_length()
    rows = max(1, 1024 // block)
    return rows, block, min(16, max(4, rows * block // 512))


def loss_and_gradient(
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`stage2.engine.kernel.loss_and_gradient`, with its signature.

    Logits are float32, or bfloat16 where no configuration distils: the distillation is computed
    eagerly. Row weights sum to 1.
    """
    # Triton is not available everywhere, and slow to import.
    from stage2.engine.gpu.loss_programs import loss_kernel

    distilled = None
    if rows.distil is not None:
        share = kernel.row_shares(z, row_weight)
        distilled = kernel.distillation(z, y, rows.distil, teacher, share)
    own = (
        *(rows.scale, rows.shift, rows.margin, rows.smoothing),
        *(rows.weight, weight_sum(y, rows, row_weight), rows.by_weights),
        *(rows.elsewhere, rows.at_label, rows.gamma, rows.frozen_gamma),
    )
    total, z = launch(loss_kernel, z, y, own, kappa=kappa, row_weight=row_weight)
    if rows.distil is not None and distilled is not None:
        total.index_add_(0, rows.distil.configs, distilled[0])
        z.index_add_(1, rows.distil.configs, distilled[1])
    return total, z


def launch(
    program: Any,
    z: Tensor,
    y: Tensor,
    own: Sequence[Tensor | None],
    *,
    kappa: Tensor | None,
    row_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The batch loss [C] of a program with arguments of its own, and its gradient in the place of
    the logits."""
    batch, configs, num_classes = z.shape
    z = z.contiguous()
    loss = torch.empty(batch, configs, device=z.device)
    per_program, block, warps = geometry(num_classes)
    with torch.cuda.device_of(z):
        program[(-(-batch * configs // per_program),)](
            z,
            loss,
            y,
            *own,
            None if kappa is None else kappa.contiguous(),
            row_weight,
            float(batch) if row_weight is None else 1.0,
            batch * configs,
            configs,
            K=num_classes,
            ROWS=per_program,
            BLOCK=block,
            num_warps=warps,
            enable_fp_fusion=True,
        )
    return loss.sum(0), z


def weight_sum(y: Tensor, rows: LossRows, row_weight: Tensor | None) -> Tensor | None:
    """Σω over the batch, rows by their weights, [C]."""
    if rows.weight is None:
        return None
    weight = rows.weight.index_select(0, y)
    return (weight if row_weight is None else weight * row_weight[:, None]).sum(0)
