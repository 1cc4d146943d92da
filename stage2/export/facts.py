"""The contents of a head file besides its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featbank.bank import ClassGroups
from stage2.export.headprior import HeadPrior
from stage2.export.inputs import Input


@dataclass(frozen=True)
class HeadFacts:
    """The contents of a head file besides its weights.

    Attributes
    ----------
    class_names
        K names, in the order of the logits.
    views, dim
        The views of the bank that it was trained on, in this order, and D of the first.
    bank
        Fingerprint of the bank it was trained on.
    recipe
        ``id``, ``name`` and ``settings`` of the recipe, the seed among them.
    seed, epoch
        The seed, and ``last`` or ``selected``.
    metrics
        By split, as `stage2.engine.metrics.METRICS` names them.
    groups
        The rules of the class groups, by their names.
    version
        featbank's.
    prior
        The class prior of its outputs; None in a head of an older version.
    inputs
        The arrays that each view is made of, by view; empty where the views are the arrays, all
        [N, D].
    members
        The place of each class's group among `groups` [K], −1 for none; empty where these are the
        usual ones by the class counts of `prior`.
    background
        The class for rows that show none of the others; None where the bank names none.
    """

    class_names: list[str]
    views: list[str]
    dim: int
    bank: str
    recipe: dict[str, Any]
    seed: int
    epoch: str
    metrics: dict[str, dict[str, float | None]]
    groups: dict[str, str]
    version: str
    prior: HeadPrior | None = None
    inputs: list[list[Input]] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    background: int | None = None

    @property
    def class_groups(self) -> ClassGroups | None:
        """The class groups; None where they are unknown, in a head of an older version."""
        if self.members:
            return ClassGroups(
                tuple(self.groups), tuple(self.groups.values()), np.array(self.members)
            )
        return ClassGroups.usual(np.array(self.prior.class_counts)) if self.prior else None

    @property
    def arrays(self) -> list[Input]:
        """The arrays that the head takes, in this order."""
        if self.inputs:
            return [part for parts in self.inputs for part in parts]
        return [Input(view, (self.dim,)) for view in self.views]
