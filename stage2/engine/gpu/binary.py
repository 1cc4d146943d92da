"""The losses of K binary terms as one Triton kernel each, for a GPU.

The results are those of `stage2.engine.kernel` up to the rounding of float32. A step reads and
writes every logit once, 8 bytes, where the passes of the eager kernels move about 130.
"""

from __future__ import annotations

from typing import Any

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
    """`family.launch` with ω, its sum, and arguments of a program's `own`."""
    others = (rows.scale, rows.shift, rows.margin, rows.smoothing, rows.frozen_gamma)
    assert all(value is None for value in (*others, rows.distil)), "only ω and γ apply"
    own = (rows.weight, family.weight_sum(y, rows, row_weight), rows.by_weights, *own)
    return family.launch(program, z, y, own, kappa=kappa, row_weight=row_weight)


KERNELS = {
    "family": family.loss_and_gradient,
    "softmax_bce": softmax_bce,
    "sigmoid_focal": sigmoid_focal,
}
"""The kernels of `stage2.engine.kernel` for a GPU, by name."""
