"""β of configurations: how it moves, and what rows that depend on it are for each of them.

A made row is base + β_y·direction, and only that much is a configuration's own: all random draws
lie in base and direction, which a group shares. Where the configurations of a tile have the same β,
a window is finished once for all of them; where they differ, each batch is, for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stage2.engine.stream import Window
from stage2.methods.recipe import Recipe


class Betas:
    """β of C configurations and K classes, and how it moves [GLAG §4.2].

    Parameters
    ----------
    recipes
        The configurations, with ``beta`` and ``beta_step`` among the settings of their generator.
    blended
        Classes [K] bool that have a β.

    Attributes
    ----------
    values
        [C, K] float32; 0 for a class without β.
    shared
        Whether all configurations have the same values.
    """

    def __init__(self, recipes: Sequence[Recipe], blended: Tensor) -> None:
        settings = [recipe.part("generator") for recipe in recipes]
        begin = torch.tensor([s["beta"] for s in settings], device=blended.device)
        step = torch.tensor([s["beta_step"] for s in settings], device=blended.device)
        self.values, self._step = begin[:, None] * blended, step[:, None] * blended
        self._blended, self._moving = blended, bool(step.any())
        self._accuracy: Tensor | None = None
        self._history: list[Tensor] = []
        self._look()

    def begin_epoch(self) -> None:
        """Remember the values an epoch is drawn with."""
        if self._moving:
            self._history.append(self.values.clone())

    def move(self, accuracy: Tensor) -> None:
        """Add or take a step where a class's accuracy on val [C, K] is higher or lower than an
        epoch before; NaN for a class without val rows, whose β stays."""
        if self._moving and self._accuracy is not None:
            change = (accuracy - self._accuracy).sign().nan_to_num_(0).float()
            self.values = (self.values + change * self._step).clamp_(0, 1)
            self._look()
        self._accuracy = accuracy

    @staticmethod
    def gathered(parts: Sequence[tuple[Betas, Sequence[int]]]) -> Betas:
        """Those of some configurations of each part, with what they have been."""
        whole = copy(parts[0][0])
        some = [(betas, list(configs)) for betas, configs in parts]
        whole.values = torch.cat([betas.values[configs] for betas, configs in some])
        whole._step = torch.cat([betas._step[configs] for betas, configs in some])
        whole._moving = bool(whole._step.any())
        if whole._accuracy is not None:
            known = [(betas._accuracy, configs) for betas, configs in some]
            whole._accuracy = torch.cat([a[configs] for a, configs in known if a is not None])
        epochs = max(len(betas._history) for betas, _ in some)
        histories = [
            (betas._history or [betas.values] * epochs, configs) for betas, configs in some
        ]
        whole._history = [
            torch.cat([history[epoch][configs] for history, configs in histories])
            for epoch in range(epochs)
        ]
        whole._look()
        return whole

    def traces(self, config: int) -> dict[str, np.ndarray]:
        """``beta`` [epochs, K] of a configuration whose β moves, NaN for classes without."""
        if not bool(self._step[config].any()):
            return {}
        trace = torch.stack([values[config] for values in self._history])
        trace[:, ~self._blended] = torch.nan
        return {"beta": trace.cpu().numpy()}

    def _look(self) -> None:
        self.shared = bool((self.values == self.values[:1]).all())


def finished(window: Window, beta: Tensor) -> Window:
    """A window for configurations that have the same `beta` [K]."""
    assert window.made is not None
    blend = window.made.blend
    assert blend is not None
    made = torch.addcmul(blend.base, blend.direction, beta.index_select(0, blend.y)[:, None])
    x = torch.cat([window.x, blend.finish(made)])
    return replace(window, x=x, made=replace(window.made, x=x, blend=None))


def own_features(window: Window, rows: Tensor, y: Tensor, beta: Tensor) -> Tensor:
    """A batch for configurations that differ in `beta` [C, K]: the `rows` [B] with labels `y` [B]
    of a window as each configuration sees them, [B, C, D]."""
    assert window.made is not None
    blend = window.made.blend
    assert blend is not None
    slot = rows - len(window.x)
    same, own = (slot < 0).nonzero().view(-1), (slot >= 0).nonzero().view(-1)
    x = blend.base.new_empty(len(rows), len(beta), blend.base.shape[1])
    x[same] = window.x[rows[same], None]
    base, direction = blend.base[slot[own], None], blend.direction[slot[own], None]
    x[own] = blend.finish(torch.addcmul(base, direction, beta.t()[y[own], :, None]))
    return x
