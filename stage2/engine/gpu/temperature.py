"""Derivatives of the likelihood of a temperature by one Triton kernel, for a GPU.

It reads every logit once, 4 bytes, where PyTorch's passes move about 70.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stage2.engine.gpu.loss import IN_REGISTERS, geometry


def moments(
    z: Tensor, y: Tensor, scale: Tensor, configs: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`stage2.engine.temperature.moments` of chosen classifiers.

    Parameters
    ----------
    z, y
        Logits [N, C, K] of all classifiers, and labels [N].
    scale, configs
        a of the classifiers that are chosen, and which these are, [C'] each.

    Returns
    -------
    Three numbers of each row and chosen classifier, [N, C'] each; None for logits that are not
    float32, and for rows too long for registers.
    """
    # Triton is not available everywhere, and slow to import.
    from stage2.engine.gpu.temperature_programs import moments_kernel

    if z.shape[2] > IN_REGISTERS or z.dtype != torch.float32:
        return None
    loss, slope, curvature = torch.empty(3, len(z), len(configs), device=z.device).unbind()
    per_program, block, warps = geometry(z.shape[2])
    with torch.cuda.device_of(z):
        moments_kernel[(-(-loss.numel() // per_program),)](
            z.contiguous(),
            y.contiguous(),
            scale,
            configs,
            loss,
            slope,
            curvature,
            loss.numel(),
            len(configs),
            z.shape[1],
            K=z.shape[2],
            ROWS=per_program,
            BLOCK=block,
            num_warps=warps,
        )
    return loss, slope, curvature
