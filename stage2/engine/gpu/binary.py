"""The losses of K binary terms as one Triton kernel each, for a GPU.

The results are those of `stage2.engine.kernel` up to the rounding of float32. A step reads and
writes every logit once, 8 bytes, where the passes of the eager kernels move about 130.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import loss as family
from stage2.engine.kernel import LossRows

LONGEST_ROW = 8192
"""Classes up to which registers hold all that `softmax_bce` needs of a row."""


def softmax_bce(
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``KERNELS["softmax_bce"]`` of `stage2.engine.kernel`, with its signature.

    Logits are float32 or bfloat16. Row weights sum to 1. Rows longer than `LONGEST_ROW`
    take the eager kernel.
    """
    # Triton is not available everywhere, and slow to import.
    from stage2.engine.gpu.binary_programs import softmax_bce_kernel

    if z.shape[2] > LONGEST_ROW:
        return kernel.KERNELS["softmax_bce"](z, y, rows, kappa=kappa, row_weight=row_weight)
    return _launch(softmax_bce_kernel, z, y, rows, (), kappa=kappa, row_weight=row_weight)


def sigmoid_focal(
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``KERNELS["sigmoid_focal"]`` of `stage2.engine.kernel`, with its signature.

    Logits are float32 or bfloat16. Row weights sum to 1.
    """
    from stage2.engine.gpu.binary_programs import sigmoid_focal_kernel

    own = (rows.gamma,)
    return _launch(sigmoid_focal_kernel, z, y, rows, own, kappa=kappa, row_weight=row_weight)


def _launch(
    program: Any,
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    own: tuple[Tensor | None, ...],
    *,
    kappa: Tensor | None,
    row_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The batch loss [C] and its gradient in the place of the logits."""
    others = (rows.scale, rows.shift, rows.margin, rows.smoothing, rows.frozen_gamma)
    assert all(value is None for value in (*others, rows.distil)), "only ω and γ apply"
    batch, configs, num_classes = z.shape
    z = z.contiguous()
    loss = torch.empty(batch, configs, device=z.device)
    per_program, block, warps = family.geometry(num_classes)
    with torch.cuda.device_of(z):
        program[(-(-batch * configs // per_program),)](
            z,
            loss,
            y,
            rows.weight,
            family.weight_sum(y, rows, row_weight),
            rows.by_weights,
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


KERNELS = {
    "family": family.loss_and_gradient,
    "softmax_bce": softmax_bce,
    "sigmoid_focal": sigmoid_focal,
}
"""The kernels of `stage2.engine.kernel` for a GPU, by name."""
