"""Feature generators: training sets that are made as they are drawn.

A `Generator` is prepared, with its settings, on the training features of a view. The resulting
`Generation` says which rows an epoch may draw and makes the features of those that are drawn,
window by window, so that an epoch is never in memory as a whole. Recipes that share a generator and
its settings share what is made. Only β may differ between them: a row that depends on it is made in
two parts, `base` and `direction`, which hold all random draws, and each configuration takes
base + β_y·direction.

Axes: N items, A augmentation copies of each, M rows an epoch may draw, R rows drawn, D features, K
classes, T rows that depend on β.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.generators.tukey import STAGE1, FeatureSpace
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

Settings = Mapping[str, Any]
"""A generator's own settings."""


@dataclass(frozen=True)
class Features:
    """The training features of a view, in memory.

    Attributes
    ----------
    x, labels
        [A·N, D] float32 and [A·N] int64; row a·N + i is copy a of item i.
    copies
        A.
    counts
        Training counts n_k [K] float64, of items.
    facts
        The facts about classes beside the rows.
    """

    x: Tensor
    labels: Tensor
    copies: int
    counts: np.ndarray
    facts: ClassFacts = ROWS_ALONE

    @property
    def items(self) -> Tensor:
        """Labels of the items, [N]."""
        return self.labels[: len(self.labels) // self.copies]


@dataclass(frozen=True)
class Blend:
    """Rows that each configuration completes with its own β: finish(base + β_y·direction).

    Attributes
    ----------
    base, direction
        [T, D].
    y
        Their labels [T].
    finish
        Map from the space they are made in to that of the other rows, elementwise.
    """

    base: Tensor
    direction: Tensor
    y: Tensor
    finish: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Second:
    """The second label of mixed rows, in the order of the features.

    Attributes
    ----------
    y
        Labels [R].
    share
        What the first label counts in the loss, [R] in [0, 1]; the second counts the rest.
    """

    y: Tensor
    share: Tensor


@dataclass(frozen=True)
class Made:
    """Drawn rows, in the order that is cheapest to make, and possibly some that were not drawn.

    Attributes
    ----------
    x
        Features [S, D].
    rows
        Place of each drawn row, [R] int64: a row of `x`, or S + t for row t of `blend`.
    y
        Labels of the drawn rows, [R].
    blend
        Rows that depend on β, if there are any.
    second
        The second label of mixed rows, if there are any.
    """

    x: Tensor
    rows: Tensor
    y: Tensor
    blend: Blend | None = None
    second: Second | None = None


class Generation(ABC):
    """A generator prepared on the features of a view.

    Attributes
    ----------
    labels
        Labels [M] of the rows an epoch may draw: the N items, then those that are made.
    blended
        Classes [K] bool whose made rows depend on β; None where none ever does.
    """

    labels: Tensor
    blended: Tensor | None = None

    @abstractmethod
    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        """The features of drawn rows.

        Parameters
        ----------
        draws
            Batches of rows [steps, B]; row a·M + i is row i, where it is an item in its copy a.
        epoch
            Counted from 0.
        random
            On the device of the features.
        """

    def space(self, x: Tensor) -> Tensor:
        """Features [n, D] as a head sees them: val and test go through this as well."""
        return x


@dataclass(frozen=True)
class NeedsVal:
    """Why and of which classes a generator needs val.

    Attributes
    ----------
    why
        What it does, a clause with a recipe as its subject: "moves β by the accuracy on val".
    classes
        Classes [K] bool whose rows of val it uses.
    without, effect
        A setting at which it needs none, ``beta_step=0``, and what that does: "Fix β".
    """

    why: str
    classes: np.ndarray
    without: str
    effect: str


class Generator(ABC):
    """A feature generator; a line in `GENERATORS` registers it."""

    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()
    own: ClassVar[tuple[str, ...]] = ()
    """Settings that may differ between recipes that share what is made."""
    fills: ClassVar[bool] = True
    """Whether it fills every class up to the largest; otherwise an epoch draws the items."""
    mixes: ClassVar[bool] = False
    """Whether made rows have two labels."""

    def space(self, settings: Settings) -> FeatureSpace | None:
        """The space of the features that heads see; None for one that no exported head can have."""
        return STAGE1

    def moves_features(self, settings: Settings) -> bool:
        """Whether heads see features of another space than that of stage 1."""
        return self.space(settings) != STAGE1

    def needs_val(
        self, settings: Settings, counts: np.ndarray, facts: ClassFacts = ROWS_ALONE
    ) -> NeedsVal | None:
        """Its need of val rows, for training counts [K]; None where it has none."""
        return None

    @abstractmethod
    def prepare(self, settings: Settings, features: Features) -> Generation:
        """Work out what the draws need: class statistics, neighbours."""
