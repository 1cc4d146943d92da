"""Whether a device runs the kernels of this room."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import binary, fused_check, measure, temperature, update
from stage2.engine.kernel import LossRows
from stage2.methods.family import LossParameters
from stage2.methods.optimisers import Optimiser


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels of losses and optimisers run on `device`, a GPU, and agree there with the
    eager ones."""
    return _usable(device, _agrees, "Triton")


@cache
def fuses(device: torch.device) -> bool:
    """Whether the fused pass runs on `device`, a GPU, and agrees there with PyTorch."""
    return available(device) and _usable(device, fused_check.agrees, "The fused pass")


def _usable(device: torch.device, agrees: Callable[[torch.device], bool], what: str) -> bool:
    """Whether a check passes on a GPU; a warning where it does not."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        problem = None if agrees(device) else "its results are not those of PyTorch"
    except Exception as error:  # no C compiler, no Python headers, a GPU too old, and others
        reason = str(error).strip().partition("\n")[0]
        problem = f"{type(error).__name__}: {reason}; what is missing is often a C compiler"
    if problem:
        warnings.warn(
            f"{what} cannot be used on {device} ({problem}). Sweeps run all the same, by slower "
            "kernels."
        )
    return problem is None


def _agrees(device: torch.device) -> bool:
    """Whether losses, optimiser steps and statistics of logits agree with the eager code."""
    y = torch.arange(8, device=device)
    z = torch.linspace(-3, 3, 8 * 2 * 10, device=device).sin().view(8, 2, 10)
    focal = LossParameters(gamma=1.5, weight=np.arange(1.0, 11.0), by_weights=True)
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, fused_loss in binary.KERNELS.items():
        other = LossParameters(smoothing=np.full(10, 0.3) if name == "family" else None)
        rows = LossRows.stack([focal, other], 10, device=device)
        pairs += zip(
            fused_loss(z.clone(), y, rows), kernel.KERNELS[name](z.clone(), y, rows), strict=True
        )
    for eager, fused in update.FUSED.items():
        pairs.append((_stepped(fused, z), _stepped(eager, z)))
    found = measure.measured(z, y, None)
    assert found is not None
    pairs.append((found.top + found.partition.log(), z.logsumexp(2)))
    pairs.append((found.total, z.sum(0)))
    pairs.append(((found.rank == 0).float(), (z.argmax(2) == y[:, None]).float()))
    each = temperature.moments(z, y, torch.ones(2, device=device), torch.arange(2, device=device))
    assert each is not None
    pairs.append((each[0], z.logsumexp(2) - found.own))
    pairs.append((each[1], (z.softmax(2) * z).sum(2) - found.own))
    return all(torch.allclose(got, wanted, rtol=1e-4, atol=1e-5) for got, wanted in pairs)


def _stepped(optimiser: type[Optimiser], z: Tensor) -> Tensor:
    """Parameters after two steps of an optimiser with its default settings."""
    settings = {s.name: s.default for s in optimiser.settings} | {"weight_decay": 0.1}
    parameters = {"weight": z[:, 0].clone()}
    steps = optimiser(parameters, [settings] * len(z), {})
    for _ in range(2):
        steps.step({"weight": z[:, 1].clone()}, torch.full((len(z),), 0.5, device=z.device))
    return parameters["weight"]
