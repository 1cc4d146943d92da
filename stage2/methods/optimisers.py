"""Optimisers and learning-rate schedules, every hyper-parameter per configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.interface import Parameters
from stage2.methods.lbfgs import LBFGS
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

OptimiserState = dict[str, Any]
"""Tensors [C, …] that steps change besides the parameters, or mappings of such by parameter."""

SCHEDULES = {
    "cosine": "½(1+cos πt/T) over epochs t = 0…T−1",
    "cosine_prestep": "the same over t = 1…T, so that the last epoch runs at 0",
    "cosine_step": "the same per step instead of per epoch",
    "multistep": "×0.1 at 80 % and again at 90 % of the epochs",
    "constant": "the learning rate as set, throughout",
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
    """An optimiser of stacked parameters, with hyper-parameters of each configuration.

    Parameters
    ----------
    parameters
        Changed in place, each [C, …].
    settings
        One mapping per configuration: ``weight_decay``, the optimiser's own settings and
        ``decay_bias``, which is true where it is missing.
    multipliers
        Learning-rate multipliers [C] of single parameters.
    anchors
        Values that weight decay pulls parameters towards, broadcastable to them; 0 where missing.
    decay_weights
        Multiples of the weight decay of single numbers of a parameter, broadcastable to it; 1 where
        missing.
    biases
        The parameters that ``decay_bias=False`` spares.
    state
        That of the steps before, to continue from; a fresh one by default.

    Attributes
    ----------
    state
        Changed by every step.
    multipliers, anchors
        As given; multipliers as tensors [C].
    decay
        λ of each parameter that any configuration decays, shaped [C, 1, …]; with ``decay_weights``,
        broadcastable to the parameter.
    """

    full_batch: ClassVar[bool] = False
    moments: ClassVar[int] = 1
    """Numbers that it keeps per parameter."""
    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()

    def __init__(
        self,
        parameters: Parameters,
        settings: Sequence[Mapping[str, Any]],
        multipliers: Mapping[str, Sequence[float]],
        *,
        anchors: Parameters | None = None,
        decay_weights: Parameters | None = None,
        biases: Sequence[str] = (),
        state: OptimiserState | None = None,
    ) -> None:
        self.parameters = parameters
        self._like = next(iter(parameters.values()))
        self.multipliers = {name: self._column(values) for name, values in multipliers.items()}
        self.anchors, self.decay_weights = anchors or {}, decay_weights or {}
        everywhere = [s["weight_decay"] for s in settings]
        weights = [s["weight_decay"] if s.get("decay_bias", True) else 0.0 for s in settings]
        decays = {name: weights if name in biases else everywhere for name in parameters}
        self.decay = {
            name: _shaped(self._column(values), parameters[name])
            for name, values in decays.items()
            if any(values)
        }
        for name in self.decay.keys() & self.decay_weights.keys():
            self.decay[name] = self.decay[name] * self.decay_weights[name]
        self._set(settings)
        self.state = state or self._fresh_state()

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        for name, gradient in gradients.items():
            rate = lr * self.multipliers[name] if name in self.multipliers else lr
            p = self.parameters[name]
            self._update(name, p, gradient, _shaped(rate, p))

    @abstractmethod
    def columns(self) -> dict[str, Tensor]:
        """Its own hyper-parameters by name, [C]; one that is neutral everywhere may be missing."""

    @abstractmethod
    def state_of(self, name: str) -> tuple[Tensor, ...]:
        """Its state of a parameter, [C, …] each."""

    def skip(self, steps: int) -> float:
        """Count steps that are taken elsewhere; how many there were before."""
        return 0.0

    @abstractmethod
    def _set(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Stack the optimiser's own hyper-parameters."""

    @abstractmethod
    def _fresh_state(self) -> OptimiserState:
        """The state before the first step."""

    @abstractmethod
    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        """Change the parameter `p` and its state; `lr` broadcasts against it."""

    def _column(self, values: Sequence[float]) -> Tensor:
        """Values [C] as a tensor like the parameters."""
        return torch.tensor(values, dtype=self._like.dtype, device=self._like.device)

    def _zeros(self) -> Parameters:
        """A zero for every number of the parameters."""
        return {name: torch.zeros_like(p) for name, p in self.parameters.items()}


class SGD(Optimiser):
    """Stochastic gradient descent with momentum, as in PyTorch.

    v ← μv + (g + λp), p ← p − lr·v; with Nesterov p ← p − lr·(g + λp + μv).
    """

    description = "stochastic gradient descent with momentum"
    source = "crt"
    settings = (
        Setting("momentum", 0.9, "momentum coefficient μ", low=0, below=1),
        Setting("nesterov", False, "use Nesterov momentum"),
    )

    def _set(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self._momentum = self._column([s["momentum"] for s in settings])
        nesterov = [float(s["nesterov"]) for s in settings]
        self._nesterov = self._column(nesterov) if any(nesterov) else None

    def columns(self) -> dict[str, Tensor]:
        nesterov = {} if self._nesterov is None else {"nesterov": self._nesterov}
        return {"momentum": self._momentum, **nesterov}

    def state_of(self, name: str) -> tuple[Tensor, ...]:
        return (self.state["velocity"][name],)

    def _fresh_state(self) -> OptimiserState:
        return {"velocity": self._zeros()}

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        v, momentum = self.state["velocity"][name], _shaped(self._momentum, p)
        if name in self.decay:
            gradient.addcmul_(p, self.decay[name])
            if name in self.anchors:
                gradient.addcmul_(self.anchors[name], self.decay[name], value=-1)
        torch.addcmul(gradient, v, momentum, out=v)
        if self._nesterov is not None:
            # With ν = 1 for Nesterov, else 0: p − lr·[ν(g + μv) + (1−ν)v].
            ahead = _shaped(self._nesterov, p)
            p.addcmul_(gradient, lr * ahead, value=-1)
            lr = lr * (1 - ahead * (1 - momentum))
        p.addcmul_(v, lr, value=-1)


class AdamW(Optimiser):
    """Adam with decoupled weight decay, as in PyTorch.

    m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², then
    p ← (1−lr·λ)p − lr·m̂/(√ŝ + ε) with m̂ = m/(1−β₁ᵗ), ŝ = s/(1−β₂ᵗ) at step t.
    """

    moments = 2
    description = "Adam with decoupled weight decay"
    source = "adamw"
    settings = (
        Setting("beta1", 0.9, "β₁, decay rate of the mean gradient", low=0, below=1),
        Setting("beta2", 0.999, "β₂, decay rate of the mean squared gradient", low=0, below=1),
        Setting("eps", 1e-8, "ε, added to the root mean square", above=0),
    )

    def _set(self, settings: Sequence[Mapping[str, Any]]) -> None:
        # In float64: 1 − βᵗ of a β near 1 would lose its digits.
        self._betas = torch.tensor(
            [[s[name] for s in settings] for name in ("beta1", "beta2")],
            dtype=torch.float64,
            device=self._like.device,
        )
        self._shares = (1 - self._betas).to(self._like.dtype)
        self._eps = self._column([s["eps"] for s in settings])

    def columns(self) -> dict[str, Tensor]:
        return {"beta1": self._betas[0], "beta2": self._betas[1], "eps": self._eps}

    def state_of(self, name: str) -> tuple[Tensor, ...]:
        return self.state["mean"][name], self.state["square"][name]

    def skip(self, steps: int) -> float:
        before = float(self.state["steps"][0])
        self.state["steps"] += steps
        return before

    def _fresh_state(self) -> OptimiserState:
        steps = torch.zeros(len(self._like), dtype=torch.float64, device=self._like.device)
        return {"mean": self._zeros(), "square": self._zeros(), "steps": steps}

    def step(self, gradients: Parameters, lr: Tensor) -> None:
        """One step at the learning rates `lr` [C]; `gradients` are overwritten."""
        self._ratio, self._floor = self._counted()
        super().step(gradients, lr)

    def _counted(self) -> tuple[Tensor, Tensor]:
        """Count a step; its results of `adamw_rates`, [C] each."""
        steps = self.state["steps"].add_(1)
        # Configurations that train together have taken the same number of steps.
        return adamw_rates(self._betas, self._eps, steps[0])

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        first, second = (_shaped(share, p) for share in self._shares)
        mean = self.state["mean"][name].lerp_(gradient, first)
        square = self.state["square"][name].lerp_(gradient.square_(), second)
        if name in self.decay:
            decay = lr * self.decay[name]
            p.mul_(1 - decay)
            if name in self.anchors:
                p.addcmul_(self.anchors[name], decay)
        spread = torch.sqrt(square, out=gradient).add_(_shaped(self._floor, p))
        p.addcmul_(torch.div(mean, spread, out=spread), lr * _shaped(self._ratio, p), value=-1)


def adamw_rates(betas: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """r = √(1−β₂ᵗ)/(1−β₁ᵗ) and ε√(1−β₂ᵗ), [C] or [steps, C] each, of AdamW's step
    m̂/(√ŝ + ε) = r·m/(√s + ε√(1−β₂ᵗ)).

    Parameters
    ----------
    betas, eps
        β₁ and β₂ [2, C] float64, and ε [C].
    t
        The number of a step, or those of several, [steps].
    """
    first, second = (1 - beta ** t[..., None] for beta in betas)
    root = second.sqrt()
    return (root / first).to(eps.dtype), eps * root.to(eps.dtype)


STEPPED: dict[str, type[Optimiser]] = {"sgd": SGD, "adamw": AdamW}
"""Optimisers that take steps, by name."""

OPTIMISERS: dict[str, type[Optimiser | LBFGS]] = {**STEPPED, "lbfgs": LBFGS}
"""Every optimiser by name."""


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """[C] values broadcast against a parameter [C, …]."""
    return values.view(-1, *[1] * (like.dim() - 1))
