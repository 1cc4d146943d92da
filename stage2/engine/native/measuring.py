"""Statistics of logits that metrics need, by the library on a CPU."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from stage2.engine.native.library import Library, address, library


class Measured(NamedTuple):
    """Statistics of the logits of B rows and C configurations.

    Attributes
    ----------
    rank, own
        Results of `stage2.engine.tally.label_rank`, [B, C].
    top, partition, norm
        max z, P and ‖e‖ of a softmax, [B, C].
    total
        Σz over the rows, [C, K].
    predicted
        Class with the largest logit, the first of equal ones, [B, C] int32.
    bounds
        Bounds on λ of `stage2.engine.shifting`, [B, C] each; None without places.
    """

    rank: Tensor
    own: Tensor
    top: Tensor
    partition: Tensor
    norm: Tensor
    total: Tensor
    predicted: Tensor
    bounds: tuple[Tensor, Tensor] | None


class MeasureFields(ctypes.Structure):
    """`Measure` of measure.cpp."""

    _fields_ = [
        *[(name, c_int64) for name in ("rows", "configs", "classes")],
        *[(name, c_void_p) for name in ("z", "y", "rank", "own", "top", "partition", "norm")],
        *[(name, c_void_p) for name in ("total", "predicted", "place", "log_prior")],
        ("far", c_float),
        *[(name, c_void_p) for name in ("low", "high")],
    ]


class Places(NamedTuple):
    """Inputs of the bounds on λ: the places of the classes [K], log priors [C, K] or None, and how
    far a bound may be."""

    place: Tensor
    log_prior: Tensor | None
    far: float


def measured(z: Tensor, y: Tensor, places: Places | None) -> Measured | None:
    """Statistics of logits [B, C, K] with labels [B], which stay as they are.

    None where the library is missing, or logits are not float32 on a CPU.
    """
    found = library() if z.device.type == "cpu" and z.dtype == torch.float32 else None
    if not isinstance(found, Library):
        return None
    z, y = z.contiguous(), y.contiguous()
    rows, configs, classes = z.shape
    rank, own, top, partition, norm, low, high = torch.empty(7, rows, configs).unbind()
    total, predicted = torch.empty(configs, classes), torch.empty(rows, configs, dtype=torch.int32)
    task = MeasureFields(
        *(rows, configs, classes, address(z), address(y, torch.int64)),
        *map(address, (rank, own, top, partition, norm, total)),
        address(predicted, torch.int32),
    )
    if places is not None:
        task.place, task.log_prior = address(places.place), address(places.log_prior)
        task.far, task.low, task.high = places.far, address(low), address(high)
    found.measure(ctypes.byref(task))
    bounds = None if places is None else (low, high)
    return Measured(rank, own, top, partition, norm, total, predicted, bounds)
