"""Scaling of logits on val: one temperature, or a scale and a shift per class [Guo et al. 2017 §4].

It follows any head: the head stays as it is, and u = a·z + b takes the place of its logits z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.methods.family import LossParameters
from stage2.methods.lbfgs import minimise

BLOCK_NUMBERS = 1 << 21
"""Logits in double precision at a time."""

TOLERANCE = 1e-6
"""Largest gradient entry of the mean negative log-likelihood at the end."""


@dataclass(frozen=True)
class Calibration:
    """u_k = a_k·z_k + b_k: `scale` a, [C, 1] or [C, K], and `shift` b, [C, K] or None."""

    scale: Tensor
    shift: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Apply to logits [B, C, K], in place."""
        z.mul_(self.scale)
        return z if self.shift is None else z.add_(self.shift)


def calibrate(kind: str, z: Tensor, y: Tensor, *, max_iterations: int = 200) -> Calibration:
    """The scaling with the smallest mean negative log-likelihood.

    Parameters
    ----------
    kind
        ``temperature``: one a = 1/T > 0 per configuration; ``vector``: a and b of every class,
        begun at a = 1, b = 0 and not regularised, as published.
    z, y
        Logits [N, C, K] and labels [N] of the val split.
    max_iterations
        Of L-BFGS. Where val can be separated, the optimum lies at infinity; then this ends it.
    """
    configs, classes = z.shape[1:]
    neutral = [LossParameters()] * configs
    rows = LossRows.stack(neutral, classes, device=z.device, dtype=torch.float64)
    size = max(1, BLOCK_NUMBERS // (configs * classes))

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        calibration = _at(kind, point, classes)
        value, gradient = torch.zeros_like(point[:, 0]), torch.zeros_like(point)
        for start in range(0, len(z), size):
            block = z[start : start + size].double()
            share = len(block) / len(z)
            part, slope = loss_and_gradient(
                calibration(block.clone()), y[start : start + size], rows
            )
            value += share * part
            if kind == "temperature":  # a = e^θ, so that T stays positive
                gradient[:, 0] += share * (slope * block).sum((0, 2)) * calibration.scale[:, 0]
            else:
                gradient[:, :classes] += share * (slope * block).sum(0)
                gradient[:, classes:] += share * slope.sum(0)
        return value, gradient

    numbers = 1 if kind == "temperature" else 2 * classes
    begin = torch.zeros(configs, numbers, dtype=torch.float64, device=z.device)
    if kind == "vector":
        begin[:, :classes] = 1
    found = minimise(
        evaluate,
        begin,
        tolerance=torch.full_like(begin[:, 0], TOLERANCE),
        max_iterations=max_iterations,
        history=10,
    )
    scaling = _at(kind, found.point, classes)
    shift = None if scaling.shift is None else scaling.shift.float()
    return Calibration(scaling.scale.float(), shift)


def _at(kind: str, point: Tensor, classes: int) -> Calibration:
    if kind == "temperature":
        return Calibration(point.exp())
    return Calibration(point[:, :classes], point[:, classes:])
