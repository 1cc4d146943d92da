"""The public contract over the registries, and that it finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stage2.methods.family import Loss, LossParameters, Moment
from stage2.methods.heads import HEADS, Batch, Context, Parameters
from stage2.methods.heads.linear import Linear
from stage2.methods.losses import LOSSES
from stage2.testing import check_head, check_loss


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_keeps_the_contract(name: str) -> None:
    """Reference: `check_loss`, at every choice and end of a range of its settings."""
    check_loss(LOSSES[name])


@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_the_contract(name: str) -> None:
    """Reference: `check_head`, at every choice and end of a range of its settings."""
    check_head(HEADS[name])


class Inventive(Linear):
    """Has a gradient of something that is no parameter."""

    def gradients(self, parameters: Parameters, batch: Batch, grad: torch.Tensor) -> Parameters:
        found = super().gradients(parameters, batch, grad)
        return {**found, "scale": found["bias"]}


class Wrong(Linear):
    """Has a gradient twice too large."""

    def gradients(self, parameters: Parameters, batch: Batch, grad: torch.Tensor) -> Parameters:
        found = super().gradients(parameters, batch, grad)
        return {**found, "weight": 2 * found["weight"]}


class Leaky(Linear):
    """Mixes its configurations."""

    def logits(self, parameters: Parameters, batch: Batch) -> torch.Tensor:
        z = super().logits(parameters, batch)
        return z + 0.1 * z.mean(1, keepdim=True)


class Unstacked(Linear):
    """Has parameters without the axis of configurations."""

    def init(self, settings: Sequence[Any], context: Context) -> Parameters:
        return {name: value[0] for name, value in super().init(settings, context).items()}


class SharedOnly(Linear):
    """Takes for granted that all configurations see the same features."""

    def logits(self, parameters: Parameters, batch: Batch) -> torch.Tensor:
        configs, classes, dim = parameters["weight"].shape
        z = batch.x @ parameters["weight"].view(-1, dim).t()
        return z.view(-1, configs, classes) + parameters["bias"]


class OldTeacher(Linear):
    """Broadcasts the stage-1 logits a second time."""

    def logits(self, parameters: Parameters, batch: Batch) -> torch.Tensor:
        return super().logits(parameters, batch) + 0 * batch.z0[:, None]


class FirstOnly(Linear):
    """Looks at the features of the first configuration alone."""

    def gradients(self, parameters: Parameters, batch: Batch, grad: torch.Tensor) -> Parameters:
        shared = batch.x if batch.x.dim() == 2 else batch.x[:, 0]
        return super().gradients(parameters, batch.context.batch(shared), grad)


BROKEN: dict[type[Linear], str] = {
    Inventive: "has no parameters {'scale'}",
    Wrong: "gradient of weight differs",
    Leaky: "alone differs",
    Unstacked: "not stacked",
    SharedOnly: "features of each configuration's own.* logits are",
    OldTeacher: r"logits are \(7, 7, 3, 5\), not \[B, C, K\] = \(7, 3, 5\)",
    FirstOnly: "features of each configuration's own.* gradients of weight differs",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_head_is_found(broken: type[Linear]) -> None:
    """Reference: what was broken on purpose."""
    with pytest.raises(AssertionError, match=BROKEN[broken]):
        check_head(broken())


def _row(**values: Any) -> Callable[[np.ndarray, dict[str, Any], Moment], LossParameters]:
    return lambda counts, settings, moment: LossParameters(**values)


def _by_count(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    with np.errstate(divide="ignore"):
        return LossParameters(shift=np.log(counts))


BROKEN_LOSSES = {
    "weight is": replace(LOSSES["ce"], function=_row(weight=np.ones(3))),
    "shift is": replace(LOSSES["ce"], function=_by_count),
    "is not refused": replace(LOSSES["balanced_softmax"], uses_counts=False),
}


@pytest.mark.parametrize("told", BROKEN_LOSSES)
def test_a_broken_loss_is_found(told: str) -> None:
    """Reference: what was broken on purpose."""
    loss: Loss = BROKEN_LOSSES[told]
    with np.errstate(divide="ignore"), pytest.raises(AssertionError, match=told):
        check_loss(loss)
