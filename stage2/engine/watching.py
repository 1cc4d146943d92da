"""A look at a group while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stage2.engine.tile import TileRun
from stage2.methods.recipe import Recipe


@dataclass(frozen=True)
class Look:
    """The best configuration of a group at a moment.

    Attributes
    ----------
    recipe
        Best on val so far; without val the one of the smallest loss.
    loss
        Its training loss in the last epoch.
    val
        Its best macro accuracy on val so far in percent; None without val.
    """

    recipe: Recipe
    loss: float
    val: float | None


@dataclass(frozen=True)
class Moment:
    """The end of an epoch of a fused group.

    Attributes
    ----------
    epoch, epochs
        Epochs that are over, and in all; of a group on folds those of one fold.
    fold, folds
        The fold, counted from 0, and how many there are.
    tiles
        The tiles that still train.
    """

    epoch: int
    epochs: int
    tiles: Sequence[TileRun]
    fold: int = 0
    folds: int = 1

    @property
    def recipes(self) -> int:
        """The number of recipes that still train."""
        return sum(len(run.tile.recipes) for run in self.tiles)

    @property
    def share(self) -> float:
        """The share of the group's training that is over."""
        return (self.fold + self.epoch / self.epochs) / self.folds

    def look(self) -> Look:
        """The best configuration at this moment; on a GPU this waits for the epoch."""
        looks = []
        for run in self.tiles:
            curves = run.state["curves"]
            losses = curves["loss"][:, -1].tolist()
            val = curves["val_macro"].amax(1).tolist() if "val_macro" in curves else None
            for c, (recipe, loss) in enumerate(zip(run.tile.recipes, losses, strict=True)):
                looks.append(Look(recipe, loss, None if val is None else val[c]))
        return max(looks, key=_goodness)


def _goodness(look: Look) -> float:
    """The order of looks, best last; −∞ where the loss diverged."""
    if not math.isfinite(look.loss):
        return -math.inf
    return -look.loss if look.val is None else look.val


Watching = Callable[[Moment], None]
"""Called at the end of every epoch, in the thread that trains."""
