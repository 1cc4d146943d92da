"""Statistics of logits that metrics need, by one Triton kernel on a GPU.

It reads every logit once, 4 bytes, where PyTorch's passes move about 100. The results are those of
`stage2.engine.native.measuring.measured`, sums over rows in one order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stage2.engine.gpu.scaled_loss import span_of
from stage2.engine.native.measuring import Measured, Places

LONGEST_ROW = 8192
"""Classes up to which registers hold a row of logits and their sums."""

PROGRAMS = 4096
"""Programs that are enough to occupy a GPU."""


def geometry(num_classes: int) -> tuple[int, int, int]:
    """Configurations per program, the next power of 2 above K, and warps.

    Short rows are bundled to 512 logits. A warp has up to 1,024 of them, so that a row is mostly
    reduced within one; of the longest rows, whose warps share the registers, 512.
    """
    block = 1 << (num_classes - 1).bit_length()
    rows = max(1, 512 // block)
    return rows, block, max(1, rows * block // (1024 if block <= 4096 else 512))


def measured(z: Tensor, y: Tensor, places: Places | None) -> Measured | None:
    """Statistics of logits [B, C, K] with labels [B], which stay as they are.

    None for logits that are not float32, and for rows longer than `LONGEST_ROW`.
    """
    batch, configs, classes = z.shape
    if classes > LONGEST_ROW or z.dtype != torch.float32:
        return None
    each = torch.empty(7, batch, configs, device=z.device)
    rank, own, top, partition, norm, low, high = each.unbind()
    predicted = torch.empty(batch, configs, dtype=torch.int32, device=z.device)
    rows, _, _ = geometry(classes)
    parts = -(-batch // span_of(batch, -(-configs // rows), PROGRAMS))
    total = torch.empty(parts, configs, classes, device=z.device)
    _launch(z, y, (rank, own, top, partition, norm, predicted, total, low, high), places)
    bounds = None if places is None else (low, high)
    return Measured(rank, own, top, partition, norm, total.sum(0), predicted, bounds)


def label_rank(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """`stage2.engine.tally.label_rank` in one pass; None where `measured` is None."""
    if z.shape[2] > LONGEST_ROW or z.dtype != torch.float32:
        return None
    rank, own = torch.empty(2, *z.shape[:2], device=z.device).unbind()
    _launch(z, y, (rank, own, *[None] * 7), None)
    return rank, own


def _launch(
    z: Tensor, y: Tensor, results: tuple[Tensor | None, ...], places: Places | None
) -> None:
    """Fill the results, which the kernel has in this order."""
    # Triton is not available everywhere, and slow to import.
    from stage2.engine.gpu.measure_programs import measure_kernel

    batch, configs, classes = z.shape
    rows, block, warps = geometry(classes)
    groups = -(-configs // rows)
    span = span_of(batch, groups, PROGRAMS)
    place, log_prior, far = places or (None, None, 0.0)
    with torch.cuda.device_of(z):
        measure_kernel[(groups * -(-batch // span),)](
            z.contiguous(),
            y,
            *results,
            place,
            None if log_prior is None else log_prior.contiguous(),
            far,
            batch,
            configs,
            SPAN=span,
            K=classes,
            ROWS=rows,
            BLOCK=block,
            num_warps=warps,
        )
