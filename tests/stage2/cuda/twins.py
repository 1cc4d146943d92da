"""Stand-ins for the Triton kernels on the simulated device.

A launch checks what a kernel relies on, that tensors are on the device, contiguous and of the right
type and size, and computes by the eager kernel. That the kernels compute the same is tested
in `tests/stage2/engine/test_triton.py`, by Triton's interpreter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stage2.engine import kernel, tally, temperature
from stage2.engine.gpu import (
    binary_programs,
    loss_programs,
    measure_programs,
    temperature_programs,
    update_programs,
)
from stage2.engine.kernel import LossRows
from stage2.engine.native.measuring import Places
from stage2.engine.shifting import shift_bounds
from stage2.methods.family import LossParameters
from tests.stage2.cuda import fused_twins
from tests.stage2.cuda.simulated import Refused, SimulatedTensor, _active

TYPES = {"y": torch.int64, "rows": torch.int64, "by_weights": torch.bool}
TYPES |= {"steps": torch.float64, "log_betas": torch.float64, "predicted": torch.int32}
TYPES |= {"chosen_configs": torch.int64}
TYPES |= {"loss_total": torch.float64, "shadow": torch.bfloat16}
"""Types of tensors that are not float32."""

FACTORS = {"z", "gradient", "g", "x", "out"}
"""Those that may be bfloat16 as well."""


class Twin:
    """Launched as a Triton kernel is: ``twin[grid](…)``."""

    def __init__(self, of: Any, compute: Callable[[tuple[int, ...], dict[str, Any]], None]) -> None:
        self._names = list(of.arg_names)
        self._name, self._compute = of.__name__, compute

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        if any(size > limit for size, limit in zip(grid, (2**31 - 1, 65535, 65535), strict=False)):
            raise Refused(f"{self._name} with the grid {grid}")

        def launch(*args: Any, **options: Any) -> None:
            given = dict(zip(self._names, args, strict=False)) | options
            for name, value in given.items():
                if isinstance(value, Tensor):
                    self._check(name, value)
            inner = {n: v.inner if isinstance(v, Tensor) else v for n, v in given.items()}
            _active().launches[self._name] += 1
            _active().run(lambda: self._compute(grid, inner), inner)

        return launch

    def _check(self, name: str, value: Tensor) -> None:
        if not isinstance(value, SimulatedTensor):
            raise Refused(f"{self._name} with {name} on {value.device}")
        if not value.is_contiguous():
            raise Refused(f"{self._name} with {name} of strides {value.stride()}")
        allowed = {TYPES.get(name, torch.float32)}
        if name in FACTORS:
            allowed.add(torch.bfloat16)
        if value.dtype not in allowed:
            raise Refused(f"{self._name} with {name} of type {value.dtype}")


def _loss(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    z, loss = given["z"], given["loss"]
    assert z.shape[0] * z.shape[1] == given["count"] <= grid[0] * given["ROWS"], "rows are missed"
    fields = set(inspect.signature(LossRows).parameters) & given.keys()
    rows = LossRows(**{name: given[name] for name in fields})
    value, gradient = kernel.loss_and_gradient(
        z.float(), given["y"], rows, kappa=given["kappa"], row_weight=given["row_weight"]
    )
    z.copy_(gradient)
    loss.copy_((value / len(z)).expand_as(loss))


def _binary(kind: str) -> Callable[[tuple[int, ...], dict[str, Any]], None]:
    """The twin of a loss of K binary terms."""

    def compute(grid: tuple[int, ...], given: dict[str, Any]) -> None:
        z, loss = given["z"], given["loss"]
        assert z.shape[0] * z.shape[1] == given["count"] <= grid[0] * given["ROWS"], "rows missed"
        assert kind != "softmax_bce" or z.shape[2] <= given["BLOCK"], "classes are missed"
        neutral = LossRows.stack([LossParameters()] * z.shape[1], z.shape[2])
        names = ("weight", "by_weights", "gamma")
        rows = replace(neutral, **{name: given.get(name) for name in names})
        value, gradient = kernel.KERNELS[kind](
            z.float(), given["y"], rows, kappa=given["kappa"], row_weight=given["row_weight"]
        )
        z.copy_(gradient)
        loss.copy_((value / len(z)).expand_as(loss))

    return compute


def _sgd(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    p, v, g = (given[name] for name in ("p", "v", "g"))
    column = _columns(grid, given, p, v, g)
    anchor = 0 if given["anchor"] is None else given["anchor"]
    slope = g if given["decay"] is None else g + column("decay") * (p - anchor)
    v.mul_(column("momentum")).add_(slope)
    update = v
    if given["nesterov"] is not None:
        update = torch.where(column("nesterov") > 0, slope + column("momentum") * v, v)
    p.sub_(column("lr") * update)


def _adamw(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    p, m, s, g = (given[name] for name in ("p", "m", "s", "g"))
    column = _columns(grid, given, p, m, s, g)
    m.lerp_(g, column("first"))
    s.lerp_(g * g, column("second"))
    if given["decay"] is not None:
        anchor = 0 if given["anchor"] is None else given["anchor"]
        p.sub_(column("lr") * column("decay") * (p - anchor))
    p.sub_(column("lr") * column("ratio") * m / (s.sqrt() + column("floor")))


def _columns(
    grid: tuple[int, ...], given: dict[str, Any], p: Tensor, *others: Tensor
) -> Callable[[str], Tensor]:
    """Check an optimiser step; how it reads a hyper-parameter of its configurations."""
    assert all(t.shape == p.shape for t in others), f"{p.shape}, {[t.shape for t in others]}"
    assert p.numel() == given["size"] * len(p), f"size {given['size']} for {p.shape}"
    assert grid == (-(-given["size"] // given["BLOCK"]) * len(p),), f"the grid {grid}"

    def column(name: str) -> Tensor:
        values = given[name]
        assert values.numel() == len(p), f"{name} {values.shape} for {p.shape}"
        return values.reshape(-1, *[1] * (p.dim() - 1))

    return column


def _adamw_count(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    steps, eps = given["steps"], given["eps"]
    assert len(steps) == len(eps) == given["configs"] <= grid[0] * given["BLOCK"]
    assert given["log_betas"].shape == (2, len(eps))
    first, second = 1 - (given["log_betas"] * steps.add_(1)).exp()
    given["ratio"].copy_(second.sqrt() / first)
    given["floor"].copy_(eps * second.sqrt())


def _measure(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    z, y, span = given["z"], given["y"], given["SPAN"]
    batch, configs, classes = z.shape
    assert (len(y), configs, classes) == (given["batch"], given["configs"], given["K"])
    assert classes <= given["BLOCK"], "classes are missed"
    parts = -(-batch // span)
    assert grid == (parts * -(-configs // given["ROWS"]),), f"the grid {grid}"
    results = dict(zip(("rank", "own"), tally.label_rank(z, y), strict=True))
    if given["top"] is not None:
        names = ("top", "partition", "norm")
        results |= dict(zip(names, tally._softmax_sums(z.clone()), strict=True))
        results["predicted"] = z.argmax(2)
        results["total"] = torch.stack([rows.sum(0) for rows in z.split(span)])
    if given["place"] is not None:
        places = Places(given["place"], given["log_prior"], given["far"])
        results["low"], results["high"] = shift_bounds(z, y, places)
    for name, values in results.items():
        assert given[name].shape == values.shape, f"{name} {given[name].shape}"
        given[name].copy_(values)


def _moments(grid: tuple[int, ...], given: dict[str, Any]) -> None:
    z, chosen = given["z"], given["chosen_configs"]
    names = ("loss", "slope", "curvature")
    assert given["loss"].shape == (len(z), len(chosen))
    assert len(z) * len(chosen) == given["count"] <= grid[0] * given["ROWS"], "rows are missed"
    assert given["chosen"] == len(chosen) == len(given["scale"])
    assert z.shape[1:] == (given["configs"], given["K"]), f"{z.shape}"
    values = temperature.moments(z[:, chosen], given["y"], given["scale"])
    for name, value in zip(names, values, strict=True):
        given[name].copy_(value)


KERNELS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": Twin(getattr(module, name), compute)
    for module, name, compute in (
        (loss_programs, "loss_kernel", _loss),
        (binary_programs, "softmax_bce_kernel", _binary("softmax_bce")),
        (binary_programs, "sigmoid_focal_kernel", _binary("sigmoid_focal")),
        (measure_programs, "measure_kernel", _measure),
        (temperature_programs, "moments_kernel", _moments),
        (update_programs, "sgd_kernel", _sgd),
        (update_programs, "adamw_kernel", _adamw),
        (update_programs, "adamw_count_kernel", _adamw_count),
    )
}
KERNELS |= {name: Twin(*pair) for name, pair in fused_twins.TWINS.items()}
"""Every stand-in, by module and name in `stage2.engine.gpu`."""
