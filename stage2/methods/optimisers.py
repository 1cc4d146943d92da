"""Optimisers and learning-rate schedules, every hyper-parameter per configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from featbank.settings import Setting
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


class Optimiser(ABC):
    """What optimisers share: stacked parameters and their per-configuration hyper-parameters.

    Parameters
    ----------
    parameters
        Changed in place, each [C, …].
    settings
        One mapping per configuration: ``weight_decay`` and the optimiser's own settings.
    multipliers
        Learning-rate multipliers [C] of single parameters.
    """

    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()

    def __init__(
        self,
        parameters: Parameters,
        settings: Sequence[Mapping[str, Any]],
        multipliers: Mapping[str, Sequence[float]],
    ) -> None:
        self.parameters = parameters
        self._some = next(iter(parameters.values()))
        self._multiplier = {n: column(m, self._some) for n, m in multipliers.items()}
        self._decay = column([s["weight_decay"] for s in settings], self._some)
        self._start(settings)

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        for name, gradient in gradients.items():
            rate = lr * self._multiplier[name] if name in self._multiplier else lr
            p = self.parameters[name]
            self._update(name, p, gradient, _shaped(rate, p), _shaped(self._decay, p))

    @abstractmethod
    def _start(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Make the optimiser's own state of the parameters."""

    @abstractmethod
    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor, decay: Tensor) -> None:
        """Change `p` and the optimiser's state of it; `lr` and `decay` broadcast against it."""


class SGD(Optimiser):
    """Stochastic gradient descent with momentum, as PyTorch has it.

    v ← μv + (g + λp), p ← p − lr·v; with Nesterov p ← p − lr·(g + λp + μv).
    """

    description = "stochastic gradient descent with momentum"
    source = "crt"
    settings = (
        Setting("momentum", 0.9, "momentum μ", low=0, below=1),
        Setting("nesterov", False, "Nesterov's momentum"),
    )

    def _start(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self._velocity = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._momentum = column([s["momentum"] for s in settings], self._some)
        nesterov = [float(s["nesterov"]) for s in settings]
        self._nesterov = column(nesterov, self._some) if any(nesterov) else None

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor, decay: Tensor) -> None:
        v, momentum = self._velocity[name], _shaped(self._momentum, p)
        gradient.addcmul_(p, decay)
        v.mul_(momentum).add_(gradient)
        update = v
        if self._nesterov is not None:
            ahead = gradient.addcmul_(v, momentum)
            update = torch.where(_shaped(self._nesterov, p) > 0, ahead, v)
        p.addcmul_(update, lr, value=-1)


class AdamW(Optimiser):
    """Adam with decoupled weight decay, β = (0.9, 0.999), ε = 1e-8, as PyTorch has it."""

    description = "Adam with decoupled weight decay"
    source = "adamw"

    def _start(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self._first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._steps = 0

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        self._steps += 1
        super().step(gradients, lr)

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor, decay: Tensor) -> None:
        first = self._first[name].lerp_(gradient, 0.1)
        second = self._second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        p.mul_(1 - lr * decay)
        spread = (second / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
        p.addcmul_(first / spread, lr / (1 - 0.9**self._steps), value=-1)


OPTIMISERS: dict[str, type[Optimiser]] = {"sgd": SGD, "adamw": AdamW}
"""Every optimiser by name."""


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """[C] values broadcast against a parameter [C, …]."""
    return values.view(-1, *[1] * (like.dim() - 1))
