"""A loss of the registry for autograd: what a network that is no head can be trained under.

The kernels of `stage2.engine.kernel` give a loss with its gradient; here one of them stands in an
autograd graph, with C = 1. The logits may come from anywhere; stage 1 takes it as its objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featbank import errors
from featbank.settings import resolved
from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.family import LossParameters, Moment
from stage2.methods.losses import LOSSES

UNSUITED = {
    "sla": ("weighs samples by angles measured over a whole bank", "logit_adjusted"),
    "distil": ("learns from the logits of a finished stage 1", "ce"),
    "ldam": ("is a margin on cosines and the classifier of stage 1 is linear", "class_balanced"),
}
"""Losses that logits alone do not give: why, and which to take instead."""


class Objective:
    """A loss of `LOSSES` as a function of logits that autograd goes through.

    Parameters
    ----------
    loss
        Its name.
    settings
        Its settings; texts are read as on a command line.
    class_counts
        Training counts n_k [K].
    epochs
        T, for the losses that change on their way.

    Raises
    ------
    ConfigError
        As `objective_settings`.
    EmptyClass
        As `stage2.methods.family.Loss`.

    Examples
    --------
    >>> objective = Objective("balanced_softmax", class_counts=[30, 10], epochs=1)
    >>> round(objective(torch.zeros(1, 2), torch.tensor([0]), epoch=0).item(), 4)  # -log 30/40
    0.2877
    """

    def __init__(
        self,
        loss: str,
        settings: Mapping[str, Any] | None = None,
        *,
        class_counts: np.ndarray,
        epochs: int,
    ) -> None:
        self._settings = objective_settings(loss, settings or {})
        self._loss = LOSSES[loss]
        self._changes = self._loss.changes(self._settings)
        self._counts = np.asarray(class_counts, np.float64)
        self._epochs = epochs
        self._parameters(0)  # an empty class is told before training, not in it
        self._held: tuple[tuple[int, torch.device, torch.dtype], LossRows] | None = None

    def __call__(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """The batch's loss, a scalar; its backward is the kernel's own gradient.

        Parameters
        ----------
        logits
            [B, K] on any device. float64 stays; all else is computed in float32, under autocast
            too.
        labels
            [B] int64, on the same device.
        epoch
            t of 0…T−1.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            kernel, rows = KERNELS[self._loss.kernel], self._rows(epoch, logits)
            return _KernelLoss.apply(logits, labels, kernel, rows)

    def _rows(self, epoch: int, logits: Tensor) -> LossRows:
        key = (epoch if self._changes else 0, logits.device, logits.dtype)
        if self._held is None or self._held[0] != key:
            rows = LossRows.stack(
                [self._parameters(key[0])],
                len(self._counts),
                device=logits.device,
                dtype=logits.dtype,
            )
            self._held = key, rows
        return self._held[1]

    def _parameters(self, epoch: int) -> LossParameters:
        row = self._loss(self._counts, self._settings, Moment(epoch, self._epochs))
        assert row.angle == row.distil == 0, "a loss that needs more than logits; see UNSUITED"
        return row


def objective_settings(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a loss: those `given`, checked and read where they are texts, and defaults.

    Raises
    ------
    ConfigError
        For an unknown loss, one of `UNSUITED`, or a wrong setting.
    """
    if loss not in LOSSES:
        raise errors.ConfigError(f"Unknown loss {loss!r}. {errors.closest(loss, LOSSES)}")
    if loss in UNSUITED:
        why, instead = UNSUITED[loss]
        raise errors.ConfigError(
            f"Loss {loss!r} is not for stage 1: it {why}. Take {instead!r} here, and {loss!r} on "
            "the bank, in stage 2."
        )
    settings, owner = LOSSES[loss].settings, f"loss {loss!r}"
    texts = {s.name: s for s in settings if isinstance(given.get(s.name), str)}
    read = {n: texts[n].parse(v, owner) if n in texts else v for n, v in given.items()}
    return resolved(settings, read, owner)


class _KernelLoss(torch.autograd.Function):
    """A kernel of `KERNELS` on logits [B, K], a row of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        kernel: Callable[..., tuple[Tensor, Tensor]],
        rows: LossRows,
    ) -> Tensor:
        loss, gradient = kernel(logits.unsqueeze(1).clone(), labels, rows)
        ctx.save_for_backward(gradient)
        return loss[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.squeeze(1) * upstream, None, None, None
