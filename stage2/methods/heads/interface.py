"""What a head is: logits and analytic gradients for C configurations at once.

Axes: B rows of a batch, C configurations, K classes, D features. Parameters are stacked along C,
so that one matrix product serves every configuration of a fused group. There is no gradient to the
features, which are frozen, and no autograd: each head's few lines of algebra stand in its file and
are checked against float64 autograd in the tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from featbank.bank import require_samples
from featbank.settings import Setting
from stage2.methods.seeding import seeded

Parameters = dict[str, Tensor]
"""Stacked parameters by name: each [C, …]."""

Settings = Mapping[str, Any]
"""A head's own settings of one configuration, and its ``seed``."""


@dataclass(frozen=True)
class Context:
    """What a head may know of the bank when it is initialised.

    Attributes
    ----------
    counts
        Training counts [K], float64.
    dim
        D.
    device
        Where parameters belong.
    blocks
        Goes through the training rows: features [n, D] and labels [n], which may lie in a file.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    """

    counts: np.ndarray
    dim: int
    device: torch.device
    blocks: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    weight0: Tensor | None = None
    bias0: Tensor | None = None

    def batch(self, x: Tensor) -> Batch:
        """Features [B, D] as a batch."""
        return Batch(x, self.weight0, self.bias0)


@dataclass(frozen=True)
class Batch:
    """Rows of one split with what heads derive from them, each computed once.

    Attributes
    ----------
    x
        Features [B, D].
    weight0, bias0
        The stage-1 classifier, or None.
    """

    x: Tensor
    weight0: Tensor | None = None
    bias0: Tensor | None = None

    @cached_property
    def z0(self) -> Tensor:
        """Stage-1 logits z⁰ = W₀x + b₀, [B, K]."""
        assert self.weight0 is not None
        assert self.bias0 is not None
        return torch.addmm(self.bias0, self.x, self.weight0.t())

    @cached_property
    def unit(self) -> Tensor:
        """Features of length 1, [B, D]."""
        return torch.nn.functional.normalize(self.x, dim=1)


class Head(ABC):
    """A classifier on frozen features; as it stands one with nothing to train, finished by `init`.

    A subclass gets a line in `HEADS` of `stage2.methods.heads`; all else follows from there.
    """

    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()
    trained: ClassVar[bool] = False
    """Whether gradient steps change it: whether it is a `TrainedHead`."""
    uses_counts: ClassVar[bool] = False
    """Whether it needs log n_k, and so a training sample in every class."""

    def needs_classifier(self, settings: Settings) -> bool:
        """Whether these settings need the bank's stage-1 classifier."""
        return settings.get("init") == "stage1"

    def require(self, counts: np.ndarray) -> None:
        """Raise `EmptyClass` where training counts [K] leave the head without what it needs."""
        if self.uses_counts:
            name = type(self).__module__.rpartition(".")[2]  # a head's file bears its name
            require_samples(counts, f"Head {name!r}", "Leave the recipe out of the sweep.")

    @abstractmethod
    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Initial parameters, stacked over the C `settings`, on the context's device."""

    @abstractmethod
    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Logits [B, C, K]; a fresh tensor the caller may overwrite."""


class TrainedHead(Head):
    """A head that gradient steps change."""

    trained = True

    @abstractmethod
    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        """Gradients of the trained parameters from `grad` = ∂L/∂logits [B, C, K] (contiguous)."""

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        """Learning-rate multipliers of single parameters, [C] each; 1 where not named."""
        return {}


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b for every configuration in one product: [B, D] × [C, K, D] → [B, C, K]."""
    configs, classes, dim = weight.shape
    flat = weight.view(configs * classes, dim).t()
    z = x @ flat if bias is None else torch.addmm(bias.view(-1), x, flat)
    return z.view(len(x), configs, classes)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """∂L/∂W of `project`, [C, K, D], from `grad` [B, C, K]."""
    rows, configs, classes = grad.shape
    return (grad.view(rows, configs * classes).t() @ x).view(configs, classes, x.shape[1])


def uniform(seed: int, shape: Sequence[int], bound: float, purpose: str) -> Tensor:
    """Values U(−bound, bound), a function of the recipe's seed and the purpose alone."""
    generator = seeded(seed, purpose)
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


def fresh_linear(settings: Sequence[Settings], context: Context) -> Parameters:
    """W and b ~ U(±1/√D), as `torch.nn.Linear` begins; the same for equal seeds."""
    classes, dim = len(context.counts), context.dim
    bound = 1 / math.sqrt(dim)
    drawn = {
        seed: (
            uniform(seed, (classes, dim), bound, "weight"),
            uniform(seed, (classes,), bound, "bias"),
        )
        for seed in {s["seed"] for s in settings}
    }
    return {
        "weight": torch.stack([drawn[s["seed"]][0] for s in settings]).to(context.device),
        "bias": torch.stack([drawn[s["seed"]][1] for s in settings]).to(context.device),
    }


def stage1_linear(configs: int, context: Context) -> Parameters:
    """W₀ and b₀, once per configuration."""
    assert context.weight0 is not None
    assert context.bias0 is not None
    return {
        "weight": context.weight0.expand(configs, -1, -1).clone(),
        "bias": context.bias0.expand(configs, -1).clone(),
    }


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Values [C] as a float tensor on the device of `like`."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)
