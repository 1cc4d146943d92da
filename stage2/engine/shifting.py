"""Rows that a classifier gets right when it knows the shifted prior of the test rows [SADE].

Axes: B rows of a block, C configurations, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stage2.engine.details import SHIFT_RATIOS, class_places
from stage2.engine.native.measuring import Places

_STRENGTHS = [math.log(ratio) for ratio in SHIFT_RATIOS]
LEVELS = (*(-level for level in _STRENGTHS[::-1]), 0.0, *_STRENGTHS)
"""λ of the priors π_k ∝ exp(−λ·place_k): from the steepest backward to the steepest forward one."""

_FAR = 2 * max(LEVELS)
"""Bounds on λ farther than this are as good as none."""


class ShiftTally:
    """Counts the rows that are right under each shifted prior, block by block.

    With the prior known, class k's logit is u_k − λ·place_k, where u are the logits under equal
    shares. Row y is right where u_k − u_y < λ·(place_k − place_y) for every other class k: for λ
    between the largest (u_k − u_y)/(place_k − place_y) over the classes behind y and the smallest
    over those before it. Both come from one pass over the logits, whatever the number of priors.

    Parameters
    ----------
    counts
        Full training counts [K], which order the classes.
    log_prior
        Log of the prior [C, K] that the logits are made for.
    """

    def __init__(self, counts: np.ndarray, log_prior: Tensor) -> None:
        self._place = torch.from_numpy(class_places(counts)).to(log_prior)
        self._log_prior = log_prior if (log_prior != log_prior[:, :1]).any() else None
        self._levels = torch.tensor(LEVELS).to(log_prior)
        self._configs, self._classes = log_prior.shape
        cells = self._classes * self._configs
        self._changes = torch.zeros(
            (len(LEVELS) + 1) * cells, dtype=torch.float64, device=log_prior.device
        )

    @property
    def places(self) -> Places:
        """Inputs of `measured` for the bounds of rows."""
        return Places(self._place, self._log_prior, _FAR)

    def add(self, low: Tensor, high: Tensor, y: Tensor) -> None:
        """Add rows with labels [B] that are right for λ between their bounds [B, C]."""
        first, last = (torch.bucketize(each, self._levels) for each in (low, high))
        cell = y[:, None] * self._configs + torch.arange(self._configs, device=y.device)
        right = (first < last).double().view(-1)
        cells = self._classes * self._configs
        self._changes.index_add_(0, (first * cells + cell).view(-1), right)
        self._changes.index_add_(0, (last * cells + cell).view(-1), -right)

    def right(self) -> np.ndarray:
        """Right rows by level and class, [11, C, K]."""
        by_level = self._changes.view(len(LEVELS) + 1, self._classes, self._configs).cumsum(0)
        return by_level[:-1].transpose(1, 2).cpu().numpy()

    def bounds(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The λ between which rows with logits [B, C, K] and labels [B] are right, [B, C] each."""
        return shift_bounds(z, y, self.places)


def shift_bounds(z: Tensor, y: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """The λ between which rows with logits [B, C, K] and labels [B] are right, [B, C] each."""
    place, log_prior, far = places
    behind = place - place[y][:, None]  # [B, K], 0 for y itself alone
    inverse = torch.where(behind == 0, 0.0, 1 / behind)
    label = y.view(-1, 1, 1).expand(-1, z.shape[1], 1)
    gap = z - z.gather(2, label)
    if log_prior is not None:
        gap.sub_(log_prior).add_(log_prior.t()[y][:, :, None])
    bound = gap.mul_(inverse[:, None]).clamp_(-far, far)
    # Moved apart by sign, both kinds of bounds are the ends of one range.
    apart = 4 * far
    bound.add_(apart * behind.sign()[:, None])
    return bound.amax(2) - apart, bound.amin(2) + apart  # `aminmax` takes ten times as long
