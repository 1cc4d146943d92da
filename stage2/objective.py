"""The losses of the registry as objectives of stage 1, or of any network under autograd.

The kernels of `stage2.engine.kernel` compute a loss together with its gradient. Here one of them is
a node of an autograd graph, with C = 1; the logits may come from anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featbank import errors
from featbank.settings import resolved
from stage2.engine.angles import angle_factors
from stage2.engine.cloud import Cloud
from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.family import LossParameters, Moment
from stage2.methods.losses import LOSSES


class AutogradLoss:
    """A loss of `LOSSES` as a function of logits that autograd can differentiate.

    Parameters
    ----------
    loss
        Its name.
    settings
        Its settings; texts are parsed as on a command line.
    class_counts
        Training counts n_k [K].
    epochs
        T, for the losses that change during training.
    classifier
        What gives the logits, ``linear`` or ``cosine``.
    switch
        Epoch of 0…T from which a loss that weighs rows does so. Before it, `sla` for example is
        `logit_adjusted`, with the same strength of the prior [SLA §4.2].

    Raises
    ------
    ConfigError
        As `objective_settings` and `classifier_problem`; for a switch epoch that is negative, or
        of a loss that weighs no rows.
    EmptyClass
        As `stage2.methods.family.Loss`.

    Examples
    --------
    >>> objective = AutogradLoss("balanced_softmax", class_counts=[30, 10], epochs=1)
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
        classifier: str = "linear",
        switch: int = 0,
    ) -> None:
        self._settings = objective_settings(loss, settings or {})
        if problem := classifier_problem(loss, classifier):
            raise errors.ConfigError(problem)
        if switch < 0 or (switch and not LOSSES[loss].weighs_rows):
            names = " or ".join(repr(name) for name in weighing_rows())
            raise errors.ConfigError(
                f"A switch epoch is for loss {names}, and ≥ 0; got {switch} for {loss!r}. Leave it "
                f"out, or take {names}."
            )
        self._loss, self._switch = LOSSES[loss], switch
        if caution := self._loss.caution(self._settings):
            warnings.warn(caution)
        self._changes = switch > 0 or self._loss.changes(self._settings)
        self._counts = np.asarray(class_counts, np.float64)
        self._epochs = epochs
        self._parameters(0)  # raises for an empty class now, not in the midst of training
        self._held: tuple[tuple[int, torch.device, torch.dtype], LossRows] | None = None
        self._cloud: tuple[tuple[int, torch.device], Cloud] | None = None

    def needs_angles(self, epoch: int) -> bool:
        """Whether a call of this epoch needs `cosine` and `best`."""
        return self._parameters(epoch).angle > 0

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        epoch: int,
        *,
        cosine: Tensor | None = None,
        best: Tensor | None = None,
    ) -> Tensor:
        """The batch's loss, a scalar; its backward is the kernel's own gradient.

        Parameters
        ----------
        logits
            [B, K] on any device. float64 stays; all else is computed in float32, even under
            autocast.
        labels
            [B] int64, on the same device.
        epoch
            t of 0…T−1.
        cosine
            cosθ between each row's features and the weight of its class, [B]. This and `best` are
            used where `needs_angles` says so, and get no gradient.
        best
            cosθ*_k of the training sample of class k with the largest logit for it, [K].
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            kernel, rows = KERNELS[self._loss.kernel], self._rows(epoch, logits)
            if rows.angle is not None:
                assert cosine is not None, "see needs_angles"
                assert best is not None, "see needs_angles"
                of_best, of_own = best.detach().to(logits.dtype), cosine.detach().to(logits.dtype)
                kappa = angle_factors(of_best[None], of_own[:, None], labels, rows.angle)
                kernel = partial(kernel, kappa=kappa)
            if rows.cloud is not None:
                noise = self._clouds(epoch, logits.device).lower(
                    torch.zeros_like(logits)[:, None], rows.cloud
                )
                logits = logits + noise[:, 0]
            return _KernelLoss.apply(logits, labels, kernel, rows)

    def _clouds(self, epoch: int, device: torch.device) -> Cloud:
        """The noise of an epoch, which starts anew with it and is the same in every training."""
        if self._cloud is None or self._cloud[0] != (epoch, device):
            self._cloud = (epoch, device), Cloud(0, device)
            self._cloud[1].begin_epoch(epoch)
        return self._cloud[1]

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
        if epoch < self._switch:  # without κ
            row = replace(row, frozen_gamma=0.0, angle=0.0)
        return row


def weighing_rows() -> list[str]:
    """The losses that weigh rows, which stage 1 may put off."""
    return [name for name, loss in LOSSES.items() if loss.weighs_rows]


def objective_settings(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a loss: those `given`, checked, and parsed if they are texts, and defaults.

    Raises
    ------
    ConfigError
        For an unknown loss, one that is unsuited for stage 1, a wrong setting, or settings that do
        not go together.
    """
    if loss not in LOSSES:
        raise errors.ConfigError(f"Unknown loss {loss!r}. {errors.closest(loss, LOSSES)}")
    entry = LOSSES[loss]
    if entry.unsuited:
        raise errors.ConfigError(
            f"Loss {loss!r} is not for stage 1: it {entry.unsuited}. Take {entry.instead!r} here, "
            f"and {loss!r} on the bank, in stage 2."
        )
    settings, owner = entry.settings, f"loss {loss!r}"
    texts = {s.name: s for s in settings if isinstance(given.get(s.name), str)}
    read = {n: texts[n].parse(v, owner) if n in texts else v for n, v in given.items()}
    values = resolved(settings, read, owner)
    if problem := entry.conflict(values):
        raise errors.ConfigError(f"Loss {loss!r} {problem}")
    return values


def classifier_problem(loss: str, classifier: str) -> str | None:
    """Why a loss does not fit the classifier, and what does; None if it fits."""
    entry = LOSSES.get(loss)
    if entry is None or not entry.needs_cosine or classifier == "cosine":
        return None
    return (
        f"Loss {loss!r} is a margin on cosines, and the classifier is {classifier}. Take "
        f"--classifier cosine, or loss {entry.instead!r}."
    )


class _KernelLoss(torch.autograd.Function):
    """A kernel of `KERNELS` on logits [B, K] as a node of the graph."""

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
