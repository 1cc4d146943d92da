"""Bytes and FLOPs of an operation on a GPU: rules for PyTorch's operations and a table of the
engine's Triton kernels.

An operation reads each of its inputs once and writes each of its outputs once; axes along which a
tensor repeats itself are read once. What stays in a cache from one operation to the next is not
known here and counts as moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FREE = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "resize_", "unbind"}
FREE |= {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "split"}
FREE |= {"is_same_size", "_local_scalar_dense", "device"}
"""Operations that launch nothing, beside those that make views."""

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_", "mv", "addmv", "addmv_", "dot"}

PICKED = {"index_select", "gather", "index", "embedding"}
"""Operations that read as much of their input as they write."""

FILLED = {"zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "new_zeros", "new_full"}
FILLED |= {"new_ones", "zero_", "fill_", "scalar_tensor", "arange"}
"""Operations that only write."""

ADDED = {"scatter_add_", "scatter_add", "index_add_", "index_add", "index_put_", "index_copy_"}
ADDED |= {"_index_put_impl_", "index_put"}
"""Operations that read their last tensor, and read and write as much of their first."""

PARTS = ("products", "loss", "update", "other")
"""Parts of a step, in the order of tables."""


@dataclass(frozen=True)
class Operation:
    """A launch of a kernel.

    Attributes
    ----------
    name
        Of PyTorch's operation or of the Triton kernel.
    part
        One of `PARTS`.
    moved
        Bytes read and written.
    flops
        Floating-point operations of a matrix product; 0 for others, which wait for memory.
    precision
        Of the product: ``fp32``, ``tf32``, ``bf16`` or ``fp64``.
    """

    name: str
    part: str
    moved: int
    flops: int = 0
    precision: str = ""


def operation(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given: list[Tensor],
    made: list[Tensor],
) -> Operation | None:
    """An operation of PyTorch with its tensors; None for one that launches nothing."""
    name = func.overloadpacket.__name__
    if func.is_view or name in FREE:
        return None
    overwritten = kwargs.get("out", args[0] if name == "copy_" else None)
    given = [tensor for tensor in given if tensor is not overwritten]
    if name in PRODUCTS:
        return _product(name, args, given, made)
    written = sum(map(_bytes, made))
    if name in PICKED:
        moved = 2 * written
    elif name in FILLED:
        moved = written
    elif name in ADDED:
        moved = 3 * _bytes(given[-1])
    else:
        moved = sum(map(_bytes, given)) + written
    return Operation(name, "other", moved)


def _product(name: str, args: Sequence[Any], given: list[Tensor], made: list[Tensor]) -> Operation:
    """A matrix product; ``addmm`` and its like read what they add to."""
    first = 1 if "add" in name else 0
    a, b = args[first], args[first + 1]
    columns = b.shape[-1] if b.dim() > 1 else 1
    moved = sum(map(_bytes, given)) + sum(map(_bytes, made))
    return Operation(name, "products", moved, 2 * a.numel() * columns, _precision(a))


def _precision(factor: Tensor) -> str:
    if factor.dtype == torch.float32:
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "tf32" if tf32 else "fp32"
    return "fp64" if factor.dtype == torch.float64 else "bf16"


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers, those of repeated axes once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(n for n, stride in sizes if stride)


@dataclass(frozen=True)
class Kernel:
    """A row of `KERNELS`.

    Attributes
    ----------
    part
        The part of a step that it is.
    twice
        Arguments that it reads and writes, where every other tensor is read or written once.
    picked
        Arguments of which it reads no more than it writes elsewhere, which counts as ``twice``.
    flops
        Those of its matrix product, from its arguments.
    precision
        The precision of that product.
    """

    part: str
    twice: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()
    flops: Callable[[Mapping[str, Any]], int] = lambda given: 0
    precision: Callable[[Mapping[str, Any]], str] = lambda given: ""


def _fused_flops(given: Mapping[str, Any]) -> int:
    """Those of the product within a step of W."""
    return 0 if given["x"] is None else 2 * given["batch"] * given["p"].numel()


def _fused_precision(given: Mapping[str, Any]) -> str:
    if given["x"] is None:
        return ""
    return "bf16" if given["x"].dtype == torch.bfloat16 else given["PRECISION"]


KERNELS = {
    "loss_kernel": Kernel("loss", twice=("z",)),
    "softmax_bce_kernel": Kernel("loss", twice=("z",)),
    "sigmoid_focal_kernel": Kernel("loss", twice=("z",)),
    "rows_kernel": Kernel("other", twice=("out",), picked=("x",)),
    "scaled_loss_kernel": Kernel("loss"),
    "small_kernel": Kernel(
        "update",
        twice=(
            "loss_total",
            *(f"{p}{part}" for p in ("bias", "scale") for part in ("", "_first", "_second")),
        ),
    ),
    "weight_kernel": Kernel(
        "products",
        twice=("p", "first", "second"),
        flops=_fused_flops,
        precision=_fused_precision,
    ),
    "lengths_kernel": Kernel("update"),
    "measure_kernel": Kernel("other"),
    "moments_kernel": Kernel("other"),
    "sgd_kernel": Kernel("update", twice=("p", "v")),
    "adamw_kernel": Kernel("update", twice=("p", "m", "s")),
    "adamw_count_kernel": Kernel("update", twice=("steps",)),
}
"""Every Triton kernel that the engine launches."""


def launched(name: str, given: Mapping[str, Any]) -> Operation:
    """A launch of a Triton kernel, from its arguments by name.

    Raises
    ------
    LookupError
        For a kernel without a row in `KERNELS`.
    """
    if name not in KERNELS:
        raise LookupError(
            f"The Triton kernel {name} has no row in KERNELS of stage2/benchmark/operations.py. "
            "Add one that says what it reads and writes."
        )
    kernel = KERNELS[name]
    tensors = {
        name: value
        for name, value in given.items()
        if isinstance(value, Tensor) and name not in kernel.picked
    }
    moved = sum(_bytes(value) * (1 + (name in kernel.twice)) for name, value in tensors.items())
    return Operation(name, kernel.part, moved, kernel.flops(given), kernel.precision(given))
