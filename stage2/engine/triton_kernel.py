"""The loss family and the SGD step as one Triton kernel each, for a GPU.

The results are those of `stage2.engine.kernel.loss_and_gradient` and of
`stage2.methods.optimisers.SGD` up to the rounding of float32. A step reads and writes every logit
once, 8 bytes, where the passes of the eager kernel move 32 to 60; and it moves 20 bytes per
parameter, where those of SGD move 24 to 48.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.kernel import LossRows
from stage2.methods.family import LossParameters
from stage2.methods.optimisers import SGD

IN_REGISTERS = 16384
"""Longest row of logits that a program holds in registers; longer rows are read twice."""

PART = 4096
"""Classes of a longer row that a program processes at a time."""

SGD_BLOCK = 1024
"""Parameters per program of the SGD step."""


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on `device`, a GPU, and agree there with the eager ones."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        problem = None if _agrees(device) else "its results are not those of PyTorch"
    except Exception as error:  # no C compiler, no Python headers, a GPU too old, and others
        reason = str(error).strip().partition("\n")[0]
        problem = f"{type(error).__name__}: {reason}; what is missing is often a C compiler"
    if problem:
        warnings.warn(
            f"Triton cannot be used on {device} ({problem}). Sweeps run all the same, by slower "
            "kernels."
        )
    return problem is None


def _agrees(device: torch.device) -> bool:
    """Whether a loss, its gradient and an SGD step agree with the eager code."""
    y = torch.arange(8, device=device)
    z = torch.linspace(-3, 3, 8 * 2 * 10, device=device).sin().view(8, 2, 10)
    focal = LossParameters(gamma=1.5, weight=np.arange(1.0, 11.0), by_weights=True)
    rows = LossRows.stack([focal, LossParameters(smoothing=np.full(10, 0.3))], 10, device=device)
    loss, gradient = loss_and_gradient(z.clone(), y, rows)
    expected_loss, expected = kernel.loss_and_gradient(z.clone(), y, rows)
    half = torch.full((8,), 0.5, device=device)
    p, v = z[:, 0].clone(), torch.ones_like(z[:, 0])
    sgd_step(p, v, z[:, 1], lr=half, momentum=half)
    stepped = z[:, 0] - 0.5 * (0.5 + z[:, 1])
    pairs = ((loss, expected_loss), (gradient, expected), (p, stepped))
    return all(torch.allclose(got, wanted, rtol=1e-4, atol=1e-5) for got, wanted in pairs)


class FusedSGD(SGD):
    """SGD in a single pass over each parameter."""

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        sgd_step(
            p,
            self.state["velocity"][name],
            gradient,
            lr=lr,
            momentum=self._momentum,
            decay=self.decay.get(name),
            nesterov=self._nesterov,
            anchor=self.anchors.get(name),
        )


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
    from stage2.engine.triton_programs import loss_kernel

    batch, configs, num_classes = z.shape
    distilled = None
    if rows.distil is not None:
        share = kernel.row_shares(z, row_weight)
        distilled = kernel.distillation(z, y, rows.distil, teacher, share)
    z = z.contiguous()
    loss = torch.empty(batch, configs, device=z.device)
    per_program, block, warps = geometry(num_classes)
    with torch.cuda.device_of(z):
        loss_kernel[(-(-batch * configs // per_program),)](
            z,
            loss,
            y,
            rows.scale,
            rows.shift,
            rows.margin,
            rows.smoothing,
            rows.weight,
            _weight_sum(y, rows, row_weight),
            rows.by_weights,
            rows.elsewhere,
            rows.at_label,
            rows.gamma,
            rows.frozen_gamma,
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
    total = loss.sum(0)
    if rows.distil is not None and distilled is not None:
        total.index_add_(0, rows.distil.configs, distilled[0])
        z.index_add_(1, rows.distil.configs, distilled[1])
    return total, z


def _weight_sum(y: Tensor, rows: LossRows, row_weight: Tensor | None) -> Tensor | None:
    """Σω over the batch, rows by their weights, [C]."""
    if rows.weight is None:
        return None
    weight = rows.weight.index_select(0, y)
    return (weight if row_weight is None else weight * row_weight[:, None]).sum(0)


def sgd_step(
    p: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    lr: Tensor,
    momentum: Tensor,
    decay: Tensor | None = None,
    nesterov: Tensor | None = None,
    anchor: Tensor | None = None,
) -> None:
    """One step of `stage2.methods.optimisers.SGD` on a parameter [C, …], in one pass.

    Parameters
    ----------
    p, v
        The parameter and its velocity, contiguous; changed in place.
    g
        Its gradient.
    lr, momentum, decay
        η, μ and λ of every configuration, C numbers each; None for λ = 0.
    nesterov
        1 where a configuration uses Nesterov's momentum and 0 elsewhere, [C]; None where none does.
    anchor
        The values that decay pulls towards, shaped like `p`, or [1, …] for all; None for 0.
    """
    from stage2.engine.triton_programs import sgd_kernel  # as above

    size = p[0].numel()
    with torch.cuda.device_of(p):
        sgd_kernel[(-(-size // SGD_BLOCK) * len(p),)](
            p,
            v,
            g.contiguous(),
            lr,
            momentum,
            decay,
            nesterov,
            None if anchor is None else anchor.contiguous(),
            0 if anchor is None or len(anchor) == 1 else size,
            size,
            BLOCK=SGD_BLOCK,
            enable_fp_fusion=True,
        )
