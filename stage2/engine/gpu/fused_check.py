"""Two steps of the fused pass against the same by PyTorch, for `stage2.engine.gpu.available`."""

from __future__ import annotations

from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stage2.engine.gpu.fused import FusedPass
from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.engine.passes import PassLosses
from stage2.engine.rows import Window
from stage2.methods.family import LossParameters
from stage2.methods.heads import Context, Parameters, trained_head
from stage2.methods.optimisers import SGD, AdamW, Optimiser
from stage2.methods.precision import precision


class Check(NamedTuple):
    """A head and how it is trained, and the share of the way of a parameter by which this may
    differ."""

    head: str
    rule: type[Optimiser]
    precision: str
    lr: float
    share: float


CHECKS = (Check("mislas", AdamW, "tf32", 0.05, 0.02), Check("cosine", SGD, "bf16", 1.0, 0.05))

CONFIGS, CLASSES, DIM, BATCH = 3, 10, 24, 20


def agrees(device: torch.device) -> bool:
    """Whether the fused pass moves parameters as PyTorch does, on a GPU."""
    return all(_agrees(device, check) for check in CHECKS)


def _agrees(device: torch.device, check: Check) -> bool:
    head = trained_head(check.head)
    context = Context(np.ones(CLASSES), DIM, device, list)
    x = _waves((3 * BATCH, DIM), device)
    rows = torch.arange(2 * BATCH, device=device).view(2, BATCH)
    y = rows % CLASSES
    losses = LossRows.stack(
        [
            LossParameters(gamma=1.5, weight=np.arange(1.0, CLASSES + 1), by_weights=True),
            LossParameters(smoothing=np.full(CLASSES, 0.3)),
            LossParameters(shift=np.linspace(-1, 1, CLASSES), margin=np.full(CLASSES, 0.2)),
        ],
        CLASSES,
        device=device,
    )
    rates = torch.full((2, CONFIGS), check.lr, device=device)
    settings: dict[str, Any] = {s.name: s.default for s in check.rule.settings} | {
        "weight_decay": 0.1
    }
    start = _start(check.head, device)
    found = []
    for _ in range(2):
        parameters = {part: value.clone() for part, value in start.items()}
        found.append(check.rule(parameters, [settings] * CONFIGS, {}))
    eager, fused = found
    with precision(check.precision):
        for step in range(2):
            batch = context.batch(x, rows[step])
            z = head.logits(eager.parameters, batch)
            _, gradient = loss_and_gradient(z, y[step], losses)
            eager.step(head.gradients(eager.parameters, batch, gradient), rates[step])
    FusedPass(head, fused, precision=check.precision, rates=rates, limits=None, steps=2).train(
        Window(x, rows, y), 0, PassLosses(losses, None, None), Event()
    )
    return all(
        _near(fused.parameters[part], eager.parameters[part], value, check.share)
        for part, value in start.items()
    )


def _near(got: Tensor, expected: Tensor, start: Tensor, share: float) -> bool:
    return bool((got - expected).norm() <= share * (expected - start).norm())


def _start(name: str, device: torch.device) -> Parameters:
    weight = 0.3 * _waves((CONFIGS, CLASSES, DIM), device)
    if name == "cosine":
        return {"weight": weight, "scale": torch.full((CONFIGS, 1), 8.0, device=device)}
    each = _waves((CONFIGS, CLASSES), device)
    return {"weight": weight, "bias": each, "scale": 1 + 0.5 * each}


def _waves(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers in [−1, 1] without a period."""
    size = int(np.prod(shape))
    return torch.arange(size, device=device, dtype=torch.float32).square().sin().view(shape)
