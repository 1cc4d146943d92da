"""The limits of the machine: large products, products of the engine's own shapes, a large copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from featbank.devices import torch_threads
from stage2.benchmark.timing import Task
from stage2.benchmark.workloads import SIDE_BY_SIDE, Workload
from stage2.methods.precision import precision as products_at

CEILINGS = ("product", "own_products", "copy")
"""Names of the tasks."""

USUAL_CACHE = 32 << 20
"""Bytes of the last-level cache where the system does not report them."""

MOST_ROUNDS = 2000
"""Products of one measurement at most, for products so small that more would take long."""


def ceilings(
    workload: Workload, device: torch.device, *, threads: int, precision: str = "fp32"
) -> list[Task]:
    """The tasks ``product`` and ``own_products``, which count FLOPs, and ``copy``, bytes.

    Large operations share `threads` threads; products of the engine's own shapes run side by side,
    one thread each, as its tiles do. On a CPU bf16 is a rounding of float32 operands
    (`stage2.methods.precision`), so products are those of float32.
    """
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu and precision == "bf16" else torch.float32
    side = 8192 if on_gpu else 2048
    a, b, c = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))
    source = torch.ones(2**28 if on_gpu else 2**25, device=device)
    target = torch.ones_like(source)
    together = torch_threads(threads)
    at_precision = products_at(precision)
    own_run, own_flops, own_shape = _own_products(
        workload, device, dtype, threads, about=2 * side**3
    )
    return [
        Task(
            "product",
            f"a product of two {side} × {side} matrices",
            at_precision(together(lambda _: torch.mm(a, b, out=c))),
            2 * side**3,
            threads=threads,
        ),
        Task(
            "own_products",
            f"the two products of a step, {own_shape}",
            at_precision(lambda _: own_run()),
            own_flops,
            threads=threads,
        ),
        Task(
            "copy",
            "a large copy, bytes read and bytes written",
            together(lambda _: target.copy_(source)),
            2 * source.nbytes,
            threads=threads,
        ),
    ]


def _own_products(
    workload: Workload, device: torch.device, dtype: torch.dtype, threads: int, *, about: int
) -> tuple[Callable[[], None], int, str]:
    """A function that computes logits z = x·Wᵀ and gradients zᵀ·x of many heads repeatedly; its
    FLOPs; and the shapes as text.

    A GPU gets as many heads as keep W below 1 GiB, at most 256.
    """
    batch, dim, classes = workload.batch_size, workload.dim, workload.classes
    heads = SIDE_BY_SIDE
    if device.type == "cuda":
        heads = max(heads, min(256, 2**30 // (4 * dim * classes)))
    wide = heads * classes
    rounds = min(MOST_ROUNDS, max(1, about // (4 * batch * dim * wide * threads)))

    def repeat(tensors: tuple[Tensor, ...]) -> None:
        x, w, z, gradient = tensors
        for _ in range(rounds):
            torch.mm(x, w.t(), out=z)
            torch.mm(z.t(), x, out=gradient)

    sizes = ((batch, dim), (wide, dim), (batch, wide), (wide, dim))
    workers = [
        tuple(torch.ones(*size, device=device, dtype=dtype) for size in sizes)
        for _ in range(threads)
    ]

    def run() -> None:
        if threads == 1:
            with torch_threads(1):
                repeat(workers[0])
            return
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        with torch_threads(1), pool:
            list(pool.map(repeat, workers))

    shape = f"[{batch}, {dim}] × [{dim}, {heads}·{classes}] and the transpose's"
    return run, 4 * batch * dim * wide * rounds * threads, shape


def cache_bytes(device: torch.device) -> int:
    """Bytes of a device's last-level cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
        return int(size.removesuffix("K")) << 10
    except (OSError, ValueError):
        return USUAL_CACHE
