"""Phase 2: the device's limits, and what the model of a GPU assumes of them.

Products have the engine's operands: logits are x·Wᵀ with x [B, D] and W [C·K, D], the gradient is
gᵀ·x with g [B, C·K], both factors of which run along their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from measuring_day import PRECISIONS, Day, Measurement

from stage2.benchmark import Workload
from stage2.methods.precision import precision

LAUNCHED = 1000


def measurements(day: Day) -> Iterator[Measurement]:
    """Copies, square products, the engine's products, launches, a graph of launches."""
    yield "copy", lambda: copy(day)
    yield "copy to the host", lambda: copy_to_host(day)
    for name in PRECISIONS:
        yield f"square product, {name}", partial(square, day, name)
    for shape, (workload, configs) in day.shapes.items():
        for name in PRECISIONS:
            yield f"products of {shape}, {name}", partial(products, day, workload, configs, name)
    yield "launches", lambda: launches(day)
    if day.on_gpu:
        yield "launches of a graph", lambda: graph(day)


def copy(day: Day) -> dict[str, Any]:
    """Bytes read and written a second, of a large copy."""
    source = day.random(day.pick(1 << 30, 1 << 12))
    into = torch.empty_like(source)
    return {"TB/s": 2 * source.nbytes / day.ms(lambda: into.copy_(source)) / 1e9}


def copy_to_host(day: Day) -> dict[str, Any]:
    """Bytes a second into new memory of the host, and into memory that is pinned."""
    source = day.random(day.pick(1 << 28, 1 << 12))
    rates = {"new GB/s": source.nbytes / day.seconds(lambda: source.to("cpu", copy=True)) / 1e9}
    if day.on_gpu:
        pinned = torch.empty(source.shape, pin_memory=True)
        rates["pinned GB/s"] = source.nbytes / day.ms(lambda: pinned.copy_(source)) / 1e6
    return rates


def square(day: Day, name: str) -> dict[str, Any]:
    """Floating-point operations a second of a large square product."""
    side = day.pick(8192, 16)
    x = day.random(side, side)
    x = x.bfloat16() if name == "bf16" else x
    with precision(name):
        return {"TFLOP/s": 2 * side**3 / day.ms(lambda: x @ x) / 1e9}


def products(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """The same of the two products of a step; in bf16 with results in float32, and in bf16."""
    rows, dim, wide = workload.batch_size, workload.dim, configs * workload.classes
    x, w, g = day.random(rows, dim), day.random(wide, dim), day.random(rows, wide)
    flops, rates = 2 * rows * dim * wide, {}
    if name == "bf16":
        x, w, g = x.bfloat16(), w.bfloat16(), g.bfloat16()
    forms: dict[str, Callable[..., torch.Tensor]] = {"": torch.mm}
    if name == "bf16" and day.on_gpu:
        forms = {"": partial(torch.mm, out_dtype=torch.float32), ", bf16 results": torch.mm}
    with precision(name):
        for form, mm in forms.items():
            pairs = {"logits": (x, w.t()), "gradient": (g.t(), x)}
            for which, (a, b) in pairs.items():
                milliseconds = day.ms(partial(mm, a, b))
                rates[f"{which}{form}"] = {
                    "ms": milliseconds,
                    "TFLOP/s": flops / milliseconds / 1e9,
                }
    return rates


def launches(day: Day) -> dict[str, Any]:
    """Time of the host, and of both, for each of many small operations."""
    x = day.random(32)

    def call() -> None:
        for _ in range(LAUNCHED):
            x.add_(1)

    call()
    return {"µs each": 1e6 * day.seconds(call) / LAUNCHED}


def graph(day: Day) -> dict[str, Any]:
    """Time of each of many small kernels that are launched by one call."""
    x, captured = day.random(32), torch.cuda.CUDAGraph()
    x.add_(1)
    with torch.cuda.graph(captured):
        for _ in range(LAUNCHED):
            x.add_(1)
    captured.replay()
    return {"µs each": 1e6 * day.seconds(captured.replay) / LAUNCHED}
