"""β of configurations: how it moves, and the rows that depend on it.

A generated row is base + β_y·direction. All random draws are in base and direction, which the
configurations of a group share; only β is their own. Where the configurations of a tile have the
same β, a window is finished once for all of them; where it differs, the rows of a batch that depend
on β are finished for each configuration, and are a batch of their own to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stage2.engine.rows import Window
from stage2.engine.state import BetaState
from stage2.methods.recipe import Recipe


class Betas:
    """β of C configurations and K classes, and how it moves [GLAG §4.2].

    Parameters
    ----------
    recipes
        The configurations, with ``beta`` and ``beta_step`` among the settings of their generator.
    blended
        Classes [K] bool that have a β.
    state
        To continue from; by default β has its initial value.

    Attributes
    ----------
    state
        Replaced tensor by tensor as β moves.
    shared
        Whether all configurations have the same values.
    """

    def __init__(
        self, recipes: Sequence[Recipe], blended: Tensor, state: BetaState | None = None
    ) -> None:
        settings = [recipe.part("generator") for recipe in recipes]
        step = torch.tensor([s["beta_step"] for s in settings], device=blended.device)
        self._blended, self._step = blended, step[:, None] * blended
        self._moving = bool(step.any())
        if state is None:
            initial = torch.tensor([s["beta"] for s in settings], device=blended.device)
            values = initial[:, None] * blended
            state = BetaState(
                values=values,
                accuracy=torch.full_like(values, torch.nan),
                history=values.new_empty(len(recipes), 0, len(blended)),
            )
        self.state = state
        self.shared = self._all_same()

    @property
    def values(self) -> Tensor:
        """β [C, K]."""
        return self.state["values"]

    def begin_epoch(self) -> None:
        """Record the values that an epoch is drawn with."""
        history, values = self.state["history"], self.values[:, None]
        self.state["history"] = (
            torch.cat([history, values], 1)
            if self._moving
            else values.expand(-1, history.shape[1] + 1, -1)  # as many epochs, without a copy
        )

    def move(self, accuracy: Tensor) -> None:
        """Add or subtract a step where a class's accuracy on val [C, K] is higher or lower than an
        epoch before; NaN for a class without val rows, whose β stays."""
        if self._moving:
            change = (accuracy - self.state["accuracy"]).sign().nan_to_num_(0).float()
            self.state["values"] = (self.values + change * self._step).clamp_(0, 1)
            self.shared = self._all_same()
        self.state["accuracy"] = accuracy

    def traces(self, config: int) -> dict[str, np.ndarray]:
        """``beta`` [epochs, K] of a configuration whose β moves, NaN for classes without."""
        if not bool(self._step[config].any()):
            return {}
        trace = self.state["history"][config].clone()
        trace[:, ~self._blended] = torch.nan
        return {"beta": trace.cpu().numpy()}

    def _all_same(self) -> bool:
        return bool((self.values == self.values[:1]).all())


def finished(window: Window, beta: Tensor) -> Window:
    """The window of configurations that have the same `beta` [K]."""
    assert window.made is not None
    blend = window.made.blend
    assert blend is not None
    made = torch.addcmul(blend.base, blend.direction, beta.index_select(0, blend.y)[:, None])
    x = torch.cat([window.x, blend.finish(made)])
    return replace(window, x=x, made=replace(window.made, x=x, blend=None))


def own_last(window: Window) -> tuple[Window, list[int]]:
    """The window with the rows that depend on β last in each batch, and the number of others."""
    blended = window.rows >= len(window.x)
    order = blended.byte().argsort(dim=1, stable=True)
    rows, y = window.rows.gather(1, order), window.y.gather(1, order)
    return replace(window, rows=rows, y=y), (~blended).sum(1).tolist()


def own_features(window: Window, rows: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    """The features [B, C, D] of `rows` [B] of a window that depend on β, with labels `y` [B], for
    configurations that differ in `beta` [C, K]."""
    assert window.made is not None
    blend = window.made.blend
    assert blend is not None
    slot = rows - len(window.x)  # rows beyond those of `x` are rows of the blend
    base, direction = blend.base[slot, None], blend.direction[slot, None]
    return blend.finish(torch.addcmul(base, direction, beta.t()[y, :, None]))
