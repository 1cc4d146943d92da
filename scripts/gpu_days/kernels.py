"""Phase 3: the engine's Triton kernels, at several geometries and against PyTorch's operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring_day import Day, Measurement
from torch import Tensor

from stage2.benchmark import Workload
from stage2.engine import kernel, tally, temperature
from stage2.engine.gpu import binary, loss, measure, update
from stage2.engine.gpu import temperature as gpu_temperature
from stage2.engine.kernel import LossRows
from stage2.engine.shifting import ShiftTally
from stage2.methods.family import LossParameters
from stage2.methods.optimisers import STEPPED
from stage2.methods.recipe import Recipe

ROWS, WARPS = (1, 2, 4, 8, 16), (1, 2, 4, 8, 16)
"""Geometries of the loss kernel: rows of a program, and warps."""

BLOCKS = (512, 1024, 2048, 4096)
"""Parameters of a program of an optimiser."""


def measurements(day: Day) -> Iterator[Measurement]:
    """Losses, optimisers and evaluation of every shape."""
    for shape, (workload, configs) in day.shapes.items():
        yield f"loss family, {shape}", partial(family, day, workload, configs)
        for name in ("softmax_bce", "sigmoid_focal"):
            yield f"loss {name}, {shape}", partial(binary_loss, day, workload, configs, name)
        for name in ("sgd", "adamw"):
            yield f"{name}, {shape}", partial(optimiser, day, workload, configs, name)
        yield f"statistics of logits, {shape}", partial(statistics, day, workload, configs)
        yield f"temperature, {shape}", partial(temperatures, day, workload, configs)


def family(day: Day, workload: Workload, configs: int) -> dict[str, Any]:
    """The loss kernel: its geometries, what the engine takes, the eager kernel, and how far they
    are apart."""
    z, y, rows = _logits(day, workload, configs)
    every = LossParameters(shift=np.linspace(0, 1, workload.classes), gamma=1.0)
    rows = LossRows.stack([every] * configs, workload.classes, device=day.device)
    block = 1 << (workload.classes - 1).bit_length()
    results = {}
    for per_program, warps in itertools.product(ROWS, WARPS):
        if not 32 * warps <= per_program * block <= loss.IN_REGISTERS:
            continue
        with mock.patch.object(loss, "geometry", lambda k, g=(per_program, block, warps): g):
            run = partial(loss.loss_and_gradient, z, y, rows)
            results[f"{per_program} rows, {warps} warps"] = gigabytes(day, run, 8 * z.numel())
    engine = partial(loss.loss_and_gradient, z, y, rows)
    taken = loss.geometry(workload.classes)
    return {
        "engine GB/s": gigabytes(day, engine, 8 * z.numel()),
        "engine": f"{taken[0]} rows, {taken[2]} warps",
        **best_of(results),
        **_against(day, loss.loss_and_gradient, kernel.loss_and_gradient, z, y, rows),
    }


def binary_loss(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """A loss of K binary terms against the eager kernel."""
    z, y, rows = _logits(day, workload, configs)
    fused = getattr(binary, name)
    return {
        "engine GB/s": gigabytes(day, partial(fused, z, y, rows), 8 * z.numel()),
        **_against(day, fused, kernel.KERNELS[name], z, y, rows),
    }


def optimiser(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """A step of an optimiser, at several blocks and against the eager one."""
    recipe, eager = Recipe("ce", optimiser=name), STEPPED[name]
    settings = [{**recipe.settings, **recipe.part("optimiser")}] * configs
    shape = configs, workload.classes, workload.dim
    gradient, rate = day.random(*shape), torch.full((configs,), 1e-3, device=day.device)
    stepped = {}
    for which, made in (("fused", update.FUSED[eager]), ("eager", eager)):
        step = made({"weight": torch.zeros(shape, device=day.device)}, settings, {})
        stepped[which] = partial(step.step, {"weight": gradient}, rate)
    moved = (20 if name == "sgd" else 28) * gradient.numel()
    blocks = {}
    for size in day.pick(BLOCKS, BLOCKS[:1]):
        with mock.patch.object(update, "BLOCK", size):
            blocks[f"{size}"] = gigabytes(day, stepped["fused"], moved)
    return {
        "engine": update.BLOCK,
        "engine GB/s": gigabytes(day, stepped["fused"], moved),
        **best_of(blocks),
        "eager ms": day.ms(stepped["eager"]),
        "ms": day.ms(stepped["fused"]),
    }


def statistics(day: Day, workload: Workload, configs: int) -> dict[str, Any]:
    """The kernel of evaluation, with bounds of shifted priors and without, its geometries, and
    PyTorch's passes."""
    z, y, _ = _logits(day, workload, configs)
    shift = ShiftTally(workload.counts, day.random(configs, workload.classes))
    block = 1 << (workload.classes - 1).bit_length()
    rates = {}
    for rows, warps in itertools.product(ROWS, WARPS):
        if not 128 * warps <= rows * block <= 1024 * warps or rows > max(1, 4096 // block):
            continue
        with mock.patch.object(measure, "geometry", lambda k, g=(rows, block, warps): g):
            run = partial(measure.measured, z, y, None)
            rates[f"{rows} rows, {warps} warps"] = gigabytes(day, run, 4 * z.numel())
    taken = measure.geometry(workload.classes)
    with mock.patch.object(tally, "available", return_value=False):
        eager = day.ms(
            lambda: (tally.label_rank(z, y), tally._softmax_sums(z.clone()), z.sum(0), z.argmax(2))
        )
    return {
        "engine GB/s": gigabytes(day, partial(measure.measured, z, y, None), 4 * z.numel()),
        "engine": f"{taken[0]} rows, {taken[2]} warps",
        **best_of(rates),
        "ms": day.ms(partial(measure.measured, z, y, None)),
        "eager ms": eager,
        "ms of bounds too": day.ms(partial(measure.measured, z, y, shift.places)),
        "eager ms of bounds": day.ms(partial(shift.bounds, z, y)),
        "ms of ranks": day.ms(partial(measure.label_rank, z, y)),
    }


def temperatures(day: Day, workload: Workload, configs: int) -> dict[str, Any]:
    """A step of a temperature's fit, against PyTorch's passes."""
    z, y, _ = _logits(day, workload, configs)
    scale, every = (torch.ones(configs, device=day.device), torch.arange(configs, device=z.device))
    fused = partial(gpu_temperature.moments, z, y, scale, every)
    return {
        "engine GB/s": gigabytes(day, fused, 4 * z.numel()),
        "ms": day.ms(fused),
        "eager ms": day.ms(partial(temperature.moments, z, y, scale)),
    }


def _logits(day: Day, workload: Workload, configs: int) -> tuple[Tensor, Tensor, LossRows]:
    z = day.random(workload.batch_size, configs, workload.classes)
    y = torch.randint(workload.classes, (workload.batch_size,), device=day.device)
    plain = [LossParameters()] * configs
    return z, y, LossRows.stack(plain, workload.classes, device=day.device)


def gigabytes(day: Day, run: Callable[[], object], moved: int) -> float:
    """Gigabytes a second of a call that moves so many bytes."""
    return moved / day.ms(run) / 1e6


def best_of(rates: dict[str, float]) -> dict[str, Any]:
    """The fastest of several, and all."""
    if not rates:
        return {"GB/s": rates}
    best = max(rates, key=lambda name: rates[name])
    return {"best": best, "best GB/s": rates[best], "GB/s": rates}


def _against(
    day: Day, fused: Callable[..., Any], eager: Callable[..., Any], z: Tensor, *others: Any
) -> dict[str, Any]:
    """Times of both, and the largest difference of losses and gradients as a share of the largest
    number."""
    times = {
        "ms": day.ms(partial(fused, z, *others)),
        "eager ms": day.ms(partial(eager, z, *others)),
    }
    z = day.random(*z.shape)
    pairs = zip(fused(z.clone(), *others), eager(z.clone(), *others), strict=True)
    apart = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    return {**times, "loss differs by": apart[0], "gradient differs by": apart[1]}
