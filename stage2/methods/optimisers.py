"""Optimisers and learning-rate schedules, every hyper-parameter per configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage2.methods.heads.interface import Parameters, column

SCHEDULES = {
    "cosine": "½(1+cos πt/T) over epochs t = 0…T−1",
    "cosine_prestep": "the same over t = 1…T, so that the last epoch runs at 0",
    "cosine_step": "the same per step instead of per epoch",
    "multistep": "×0.1 at 80 % and again at 90 % of the epochs",
    "constant": "unchanged",
}
"""Every schedule by name."""


def learning_rates(settings: Mapping[str, Any], steps: int) -> np.ndarray:
    """Learning rate of every step, [T·steps] float64, for T epochs of `steps` steps.

    Over the first `warmup` epochs the rate is lr·(t+1)/warmup instead.
    """
    epochs, warmup = settings["epochs"], settings["warmup"]
    t = np.arange(epochs, dtype=np.float64).repeat(steps)
    progress = {
        "cosine": t / epochs,
        "cosine_prestep": (t + 1) / epochs,
        "cosine_step": np.arange(epochs * steps) / (epochs * steps),
    }.get(settings["schedule"])
    if progress is not None:
        factor = (1 + np.cos(np.pi * progress)) / 2
    elif settings["schedule"] == "multistep":
        factor = 0.1 ** ((t >= 0.8 * epochs).astype(float) + (t >= 0.9 * epochs))
    else:
        factor = np.ones_like(t)
    factor = np.where(t < warmup, (t + 1) / max(warmup, 1), factor)
    return settings["lr"] * factor


class SGD:
    """Stochastic gradient descent with momentum, stacked over configurations.

    The update of PyTorch's SGD: v ← μv + (g + λp), p ← p − lr·v, with Nesterov p ← p − lr·(g + λp
    + μv).

    Parameters
    ----------
    parameters
        Changed in place, each [C, …].
    settings
        One mapping per configuration: ``momentum``, ``nesterov``, ``weight_decay``.
    multipliers
        Learning-rate multipliers [C] of single parameters.
    """

    def __init__(
        self,
        parameters: Parameters,
        settings: Sequence[Mapping[str, Any]],
        multipliers: Mapping[str, Sequence[float]],
    ) -> None:
        self.parameters = parameters
        self._velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._multiplier = {
            name: _per_config(m, parameters[name]) for name, m in multipliers.items()
        }
        some = next(iter(parameters.values()))
        self._momentum = column([s["momentum"] for s in settings], some)
        self._decay = column([s["weight_decay"] for s in settings], some)
        nesterov = [bool(s["nesterov"]) for s in settings]
        self._nesterov = column([float(n) for n in nesterov], some) if any(nesterov) else None

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        for name, gradient in gradients.items():
            p, v = self.parameters[name], self._velocity[name]
            rate = _shaped(lr, p)
            if name in self._multiplier:
                rate = rate * self._multiplier[name]
            momentum = _shaped(self._momentum, p)
            gradient.addcmul_(p, _shaped(self._decay, p))
            v.mul_(momentum).add_(gradient)
            update = v
            if self._nesterov is not None:
                ahead = gradient.addcmul_(v, momentum)
                update = torch.where(_shaped(self._nesterov, p) > 0, ahead, v)
            p.addcmul_(update, rate, value=-1)


class AdamW:
    """Adam with decoupled weight decay, stacked over configurations; β = (0.9, 0.999), ε = 1e-8.

    Parameters as for `SGD`, of which it uses ``weight_decay``.
    """

    def __init__(
        self,
        parameters: Parameters,
        settings: Sequence[Mapping[str, Any]],
        multipliers: Mapping[str, Sequence[float]],
    ) -> None:
        self.parameters = parameters
        self._first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._multiplier = {
            name: _per_config(m, parameters[name]) for name, m in multipliers.items()
        }
        some = next(iter(parameters.values()))
        self._decay = column([s["weight_decay"] for s in settings], some)
        self._steps = 0

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        self._steps += 1
        bias1, bias2 = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for name, gradient in gradients.items():
            p, m, v = self.parameters[name], self._first[name], self._second[name]
            rate = _shaped(lr, p)
            if name in self._multiplier:
                rate = rate * self._multiplier[name]
            m.lerp_(gradient, 0.1)
            v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            p.mul_(1 - rate * _shaped(self._decay, p))
            denominator = (v / bias2).sqrt_().add_(1e-8)
            p.addcmul_(m / denominator, rate / bias1, value=-1)


OPTIMISERS: dict[str, type[SGD] | type[AdamW]] = {"sgd": SGD, "adamw": AdamW}
"""Every optimiser by name."""


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """[C] values broadcast against a parameter [C, …]."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _per_config(values: Sequence[float], like: Tensor) -> Tensor:
    return _shaped(column(values, like), like)
