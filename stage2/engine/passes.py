"""Passes that take the steps of a window in the trainer's place: compiled, or fused on a GPU."""

from __future__ import annotations

from threading import Event
from typing import NamedTuple, Protocol

from torch import Tensor

from stage2.engine.kernel import LossRows
from stage2.engine.rows import Window


class PassLosses(NamedTuple):
    """The losses of a window: their rows; cosθ* of `angle_factors`, [C, K], or None; and stage-1
    logits of the window's features, where they are kept."""

    rows: LossRows
    best_cosines: Tensor | None
    z0: Tensor | None


class WindowPass(Protocol):
    """Takes the steps of windows, on features that all configurations share."""

    def takes(self, window: Window, losses: PassLosses) -> bool:
        """Whether it is to train on this window, under these losses."""

    def train(
        self, window: Window, step: int, losses: PassLosses, stopped: Event
    ) -> tuple[Tensor, int]:
        """Take the steps of a window, of all steps those from `step` on.

        Returns
        -------
        The sum of their losses [C] float64, and how many were taken before `stopped`.
        """
