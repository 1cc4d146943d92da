"""Precision of the matrix products; everything else is float32.

The factors are rounded, the products are summed in float32, and parameters, losses and optimisers
stay in float32. On a GPU the tensor cores do it; elsewhere the factors are rounded and multiplied
as float32, which costs time but gives the same numbers up to the order of sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

_CURRENT: ContextVar[str] = ContextVar("precision", default="fp32")

_TF32_DROPS = 13
"""Bits of a float32 mantissa that tf32 does not have."""


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Within it, `product` works at the precision `name` of `stage2.methods.precisions`."""
    token = _CURRENT.set(name)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision  # `allow_tf32` cannot be read once anybody has set this
    matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
        _CURRENT.reset(token)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a·b (+ bias) of float32 matrices, at the precision of the surrounding `precision`.

    Of C pairs at once where `a` and `b` are stacks of matrices [C, …]; then `bias` is as well.
    """
    name, stacked = _CURRENT.get(), a.dim() == 3
    if name == "bf16" and a.is_cuda:
        multiply = torch.bmm if stacked else torch.mm
        z = multiply(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32)
        return z if bias is None else z.add_(bias)
    if name != "fp32" and not a.is_cuda:
        a, b = _rounded(a, name), _rounded(b, name)
    if bias is None:
        return a @ b
    return (torch.baddbmm if stacked else torch.addmm)(bias, a, b)


def _rounded(x: Tensor, name: str) -> Tensor:
    """float32 values that a narrower format has, to nearest."""
    if name == "bf16":
        return x.bfloat16().float()
    half = 1 << (_TF32_DROPS - 1)
    bits = x.contiguous().view(torch.int32).add(half)
    return bits.bitwise_and_(-1 << _TF32_DROPS).view(torch.float32).view_as(x)
