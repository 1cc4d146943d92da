"""Scaling of logits on val: one temperature, or a scale and a shift per class [Guo et al. 2017 §4].

It applies to any head: the head stays as it is, and u = a·z + b replaces its logits z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featbank.bank.source_groups import deal_groups
from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.engine.temperature import fit_temperature
from stage2.methods.family import LossParameters
from stage2.methods.lbfgs import minimise

FOLDS = 5
"""Folds of val, for figures on val after a calibration."""

ROWS_OF_VECTOR = 5
"""Rows of val from which on a class has a scale and shift of its own: with 2, ECE rises."""

_MANY_ROWS = 20
"""Rows of val per class from which on vector scaling needs less of a ridge."""

BLOCK_NUMBERS = 1 << 21
"""Logits in double precision per block of rows on a CPU; 32 times as many on a GPU, where a small
block takes as long as its operations take to launch."""

TOLERANCE = 1e-6
"""Largest gradient entry of the mean negative log-likelihood at the end."""


def default_ridge(rows: int, classes: int) -> float:
    """λ of vector scaling by the rows of val and the classes that have some; measured in
    docs/recipes.md."""
    return 1e-2 if rows < _MANY_ROWS * classes else 1e-3


def rows_of_vector(rows: np.ndarray) -> np.ndarray:
    """Rows of val of each class [K], 0 of those that have too few for vector scaling."""
    return np.where(rows >= ROWS_OF_VECTOR, rows, 0)


def val_folds(y: Tensor, groups: np.ndarray | None = None) -> Tensor:
    """The fold 0 … 4 of each row with labels y [N]: the rows of a class, and all rows, in parts
    whose sizes differ by one at most; of source `groups` [N], 0 … G − 1, whole ones, as
    `deal_groups` deals them."""
    if groups is not None:
        return torch.from_numpy(deal_groups(y.cpu().numpy(), groups, FOLDS)[groups]).to(y.device)
    folds = torch.empty_like(y)
    folds[y.argsort(stable=True)] = torch.arange(len(y), device=y.device) % FOLDS
    return folds


@dataclass(frozen=True)
class Calibration:
    """u_k = a_k·z_k + b_k: `scale` a, [C, 1] or [C, K], and `shift` b, [C, K] or None."""

    scale: Tensor
    shift: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Apply to logits [B, C, K], in place."""
        z.mul_(self.scale)
        return z if self.shift is None else z.add_(self.shift)

    @staticmethod
    def joined(parts: Sequence[Calibration]) -> Calibration:
        """Those of several configurations side by side."""
        shifts = [part.shift for part in parts if part.shift is not None]
        return Calibration(
            torch.cat([part.scale for part in parts]), torch.cat(shifts) if shifts else None
        )


def calibrate(
    kind: str,
    z: Tensor,
    y: Tensor,
    *,
    ridge: Tensor | None = None,
    least: int = 1,
    max_iterations: int = 200,
) -> Calibration:
    """The scaling with the smallest mean negative log-likelihood.

    Parameters
    ----------
    kind
        ``temperature``: one a = 1/T > 0 per configuration. ``vector``: a_k > 0 and b_k of every
        class, starting from the temperature, with the penalty λ Σ_k [log²(a_k·T) + b_k²]. A class
        with fewer than `least` rows keeps a = 1/T and b = 0, and is left out of the likelihood,
        which would push it down: val has too little evidence about it. Published vector scaling has
        λ = 0.
    z, y
        Logits [N, C, K] and labels [N] of the val split.
    ridge
        λ ≥ 0 of each configuration [C], for ``vector``; 0 by default.
    least
        Rows of a class that has a scale and shift of its own, for ``vector``.
    max_iterations
        Iterations of L-BFGS at most, for ``vector``. Where val is separable and λ is 0, the optimum
        lies at infinity and this ends the search.
    """
    configs, classes = z.shape[1:]
    temperature = fit_temperature(z, y).scale[:, None]
    if kind == "temperature":
        return Calibration(temperature.float())
    rows = torch.bincount(y, minlength=classes)
    known = (rows >= least).nonzero().squeeze(1)
    if not len(known):
        return Calibration(temperature.repeat(1, classes).float(), torch.zeros_like(z[0]))
    evident = rows[y] >= least
    labels = torch.bucketize(y[evident], known)
    # θ = log a_k·T and b of the classes with rows, from θ = b = 0: the temperature itself. The
    # penalty is then λ‖(θ, b)‖².
    solution = _minimum(
        z[evident][:, :, known],
        labels,
        torch.zeros(configs, 2 * len(known)),
        scale=temperature,
        ridge=torch.zeros(configs) if ridge is None else ridge,
        max_iterations=max_iterations,
    )
    scale, shift = temperature.repeat(1, classes), torch.zeros_like(z[0], dtype=torch.float64)
    scale[:, known] *= solution[:, : len(known)].exp()
    shift[:, known] = solution[:, len(known) :]
    return Calibration(scale.float(), shift.float())


def _minimum(
    z: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    scale: Tensor,
    ridge: Tensor,
    max_iterations: int,
) -> Tensor:
    """Minimise the mean negative log-likelihood of u = `scale`·exp(θ)·z + b, starting from `start`.

    A point is θ and b, [C, 2K]. Scales are searched by their logarithm, which keeps them positive.
    With g = ∂L/∂u of `loss_and_gradient` and a = `scale`·exp(θ)::

        ∂L/∂θ_k = Σ_rows g_k·z_k·a_k,    ∂L/∂b_k = Σ_rows g_k
    """
    configs, classes = z.shape[1:]
    rows = LossRows.stack(
        [LossParameters()] * configs, classes, device=z.device, dtype=torch.float64
    )
    numbers = BLOCK_NUMBERS * (32 if z.is_cuda else 1)
    size = max(1, numbers // (configs * classes))
    start = start.to(z.device, torch.float64)
    penalty = ridge.to(start)[:, None]

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        a = scale * point[:, :classes].exp()
        calibration = Calibration(a, point[:, classes:])
        value, gradient = torch.zeros_like(point[:, 0]), torch.zeros_like(point)
        for first in range(0, len(z), size):
            block = z[first : first + size].double()
            share = len(block) / len(z)  # the kernel gives the mean over its rows
            part, slope = loss_and_gradient(
                calibration(block.clone()), y[first : first + size], rows
            )
            value += share * part
            gradient[:, :classes] += share * (slope * block).sum(0) * a
            gradient[:, classes:] += share * slope.sum(0)
        value += (penalty * point.square()).sum(1)
        gradient += 2 * penalty * point
        return value, gradient

    return minimise(
        evaluate,
        start,
        tolerance=torch.full_like(start[:, 0], TOLERANCE),
        max_iterations=max_iterations,
        history=10,
    ).point
