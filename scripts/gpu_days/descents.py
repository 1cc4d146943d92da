"""Phase 3, continued: the step of W in the product of its gradient, and the loss before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from kernels import best_of, gigabytes
from measuring_day import PRECISIONS, Day, Measurement

from stage2.benchmark import Workload
from stage2.engine.gpu import descent, scaled_loss, update
from stage2.engine.kernel import LossRows
from stage2.methods.family import LossParameters
from stage2.methods.precision import precision

TUNED = "imagenet-lt"
"""The shape on which geometries are tried."""

TILES = ((64, 128), (128, 128), (128, 256), (256, 128))
"""Rows and columns of W of a program."""

BATCH_BYTES, WARPS = (64, 128), (4, 8)
"""Bytes of the factors' rows that a program takes at a time, and warps."""

RATE = 1e-6


def measurements(day: Day) -> Iterator[Measurement]:
    """The fused step of every shape and precision; its geometries on one shape."""
    for shape, (workload, configs) in day.shapes.items():
        for name in PRECISIONS[1:]:
            title = f"fused step, {shape}, {name}"
            yield title, partial(fused_step, day, workload, configs, name)
            yield f"scaled loss, {shape}, {name}", partial(losses, day, workload, configs, name)
    workload, configs = day.shapes[TUNED]
    for name in PRECISIONS[1:]:
        yield f"fused geometries, {name}", partial(geometries, day, workload, configs, name)


def fused_step(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """A product of the gradient with SGD in it, against a product and a step of its own."""
    run, moved, flops = _step(day, workload, configs, name)
    took = day.ms(run)
    return {
        "ms": took,
        "GB/s": moved / took / 1e6,
        "TFLOP/s": flops / took / 1e9,
        "engine": descent.weight_geometry(workload.dim, 2 if name == "bf16" else 4),
        "apart ms": _apart(day, workload, configs, name),
    }


def geometries(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """The fused step at several geometries; what a GPU has no room for is an error of its own."""
    run, moved, _ = _step(day, workload, configs, name)
    size = 2 if name == "bf16" else 4
    taken = descent.weight_geometry(workload.dim, size)
    rates, refused = {}, {}
    for (rows, columns), held, warps in itertools.product(TILES, BATCH_BYTES, WARPS):
        tried = {"BM": rows, "BN": columns, "BB": held // size, "num_warps": warps}
        tried = {**taken, **day.pick(tried, {}), "PARTS": day.pick(max(1, columns // 32), 1)}
        title = f"{rows} × {columns}, {held} bytes, {warps} warps"
        with mock.patch.object(descent, "weight_geometry", return_value=tried):
            try:
                rates[title] = gigabytes(day, run, moved)
            except Exception as error:  # out of registers or of shared memory
                refused[title] = f"{type(error).__name__}: {error}"[:200]
        if day.small:
            break
    return {"engine": taken, **best_of(rates), "refused": refused}


def losses(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """The loss on products without bias, which also takes the sums for its gradient."""
    raw = day.random(workload.batch_size, configs, workload.classes)
    y = torch.randint(workload.classes, (workload.batch_size,), device=day.device)
    bias = day.random(configs, workload.classes)
    rows = LossRows.stack(
        [LossParameters(gamma=1.0)] * configs, workload.classes, device=raw.device
    )
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    run = partial(scaled_loss.scaled_loss, raw, y, rows, bias=bias, sums=(True, False), dtype=dtype)
    moved = raw.numel() * (4 + dtype.itemsize)
    rates = {}
    for span in day.pick((8, 16, scaled_loss.SPAN), (8,)):
        with mock.patch.object(scaled_loss, "span_of", return_value=span):
            rates[f"{span} rows"] = gigabytes(day, run, moved)
    return {"ms": day.ms(run), "engine GB/s": gigabytes(day, run, moved), **best_of(rates)}


def _step(day: Day, workload: Workload, configs: int, name: str) -> tuple[Any, int, int]:
    """A step of W, the bytes that it moves, and the FLOPs of its product."""
    shape, dtype = (configs, workload.classes, workload.dim), torch.float32
    if name == "bf16" and day.on_gpu:
        dtype = torch.bfloat16
    wide = configs * workload.classes
    g, x = (day.random(workload.batch_size, n).to(dtype) for n in (wide, workload.dim))
    value, velocity = day.random(*shape), torch.zeros(shape, device=day.device)
    shadow = value.to(torch.bfloat16) if name == "bf16" else None
    each = torch.full((configs,), RATE, device=day.device)
    trained = descent.Trained(value, velocity, None, None, None, each)
    rates, rule = descent.Rates(each, None, None), descent.Rule(momentum=1 - each)
    run = partial(
        descent.weight_step, g, x, trained, rates, rule, shadow=shadow, tf32=name == "tf32"
    )
    moved = (18 if shadow is not None else 16) * value.numel() + g.nbytes + x.nbytes
    return run, moved, 2 * workload.batch_size * value.numel()


def _apart(day: Day, workload: Workload, configs: int, name: str) -> float:
    """Milliseconds of the product and the step one after the other."""
    shape = configs, workload.classes, workload.dim
    g, x = (day.random(workload.batch_size, n) for n in (shape[0] * shape[1], shape[2]))
    value, velocity = day.random(*shape), torch.zeros(shape, device=day.device)
    each = torch.full((configs,), RATE, device=day.device)
    options: dict[str, Any] = {}
    if name == "bf16" and day.on_gpu:
        g, x, options = g.bfloat16(), x.bfloat16(), {"out_dtype": torch.float32}

    def run() -> None:
        with precision(name):
            gradient = torch.mm(g.t(), x, **options).view(shape)
        update.sgd_step(value, velocity, gradient, lr=each, momentum=1 - each, decay=each)

    return day.ms(run)
