"""A head on a view of a bank: C configurations of it in stacked tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stage2.engine.rows import MemoryRows, SplitRows
from stage2.engine.state import ModelState
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.heads import HEADS, Context, Parameters, TextClassifier
from stage2.methods.recipe import Recipe


@dataclass(frozen=True)
class ViewData:
    """One view of a bank on a device.

    Attributes
    ----------
    train
        The split that recipes learn from.
    evaluated
        The splits results are measured on.
    counts
        Its class counts [K], float64.
    full_counts
        Those of the bank's train split before rows were held out, or from outside, which order the
        classes and make the usual groups.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    unit0
        Whether it takes features of length 1.
    text
        The classifier that text makes, where the bank has text and rows have one length.
    tokens
        T where a row is T tokens one after the other, or None.
    keeps_z0
        Whether the stage-1 logits of training rows in memory may be kept as well, [N, K].
    parts
        Of evaluated splits of very many rows, the part of each row whose right ones are summed,
        [N] int32 (`stage2.features.parts`).
    val_groups
        Source group of each row of val [N], 0 … G − 1, where some have several rows; else None.
    blended
        Classes [K] bool whose training rows depend on β, where a generator makes such rows.
    facts
        The facts about classes beside the rows.
    """

    train: SplitRows
    evaluated: Mapping[str, SplitRows]
    counts: np.ndarray
    full_counts: np.ndarray
    weight0: Tensor | None = None
    bias0: Tensor | None = None
    unit0: bool = False
    text: TextClassifier | None = None
    tokens: int | None = None
    keeps_z0: bool = True
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    val_groups: np.ndarray | None = None
    blended: Tensor | None = None
    facts: ClassFacts = ROWS_ALONE

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Classes [K] bool of each class group that results are measured by, by its key."""
        return self.facts.groups_of(self.full_counts).masks

    @cached_property
    def train_z0(self) -> Tensor | None:
        """Stage-1 logits of the training rows [N, K], where they may be kept."""
        if not (self.keeps_z0 and isinstance(self.train, MemoryRows)):
            return None
        rows, start = len(self.train.labels), 0
        kept = torch.empty(0)
        for x, _ in self.train.blocks():
            z0 = self.context.batch(x).z0[:, 0]
            if len(z0) == rows:
                return z0
            kept = kept if start else z0.new_empty(rows, z0.shape[1])
            kept[start : start + len(z0)] = z0
            start += len(z0)
            del x, z0  # before the next ones are made
        return kept

    @cached_property
    def context(self) -> Context:
        """The view as heads see it."""
        train = self.train
        start = self.weight0, self.bias0, self.unit0, self.text, self.tokens
        return Context(self.counts, train.dim, train.device, train.blocks, *start, self.facts)


class Model:
    """The stacked head of C recipes on one view, trained or not.

    Parameters
    ----------
    recipes
        All with the same head.
    data
        The view.
    state
        Parameters to start from; the head's initial ones by default.
    """

    def __init__(
        self, recipes: Sequence[Recipe], data: ViewData, state: ModelState | None = None
    ) -> None:
        self.recipes, self.data = recipes, data
        self.head = HEADS[recipes[0].head]
        self.state = state or ModelState(
            parameters=self.head.init([r.part("head") for r in recipes], data.context),
            best={},
            optimiser={},
        )

    def keep_best(self, better: Tensor) -> None:
        """Keep the current parameters of the configurations `better` [C] bool as their best."""
        parameters, best = self.state["parameters"], self.state["best"]
        if not best:
            best.update({name: values.clone() for name, values in parameters.items()})
        for name, values in parameters.items():
            chosen = better.view(-1, *[1] * (values.dim() - 1))
            torch.where(chosen, values, best[name], out=best[name])

    def parameters_at(self, epoch: str, configs: slice = slice(None)) -> Parameters:
        """The parameters of the ``last`` or the ``selected`` epoch."""
        parameters = self.state["best" if epoch == "selected" else "parameters"]
        return {name: values[configs] for name, values in parameters.items()}

    def logits(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Logits [B, C, K] as the head is used, which may differ from those it is trained on."""
        return self.head.evaluate(parameters, self.data.context.batch(x))
