"""The evaluation of a tile that is trained on folds: all held-out rows measured as one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stage2.engine.evaluation import held_bytes
from stage2.engine.metrics import Evaluation
from stage2.engine.outcome import Outcome
from stage2.engine.plan import Tile
from stage2.engine.tally import Tally
from stage2.engine.temperature import Fitted, class_balanced, fit_temperature
from stage2.engine.tile import TileRun


@dataclass(frozen=True)
class HeldOut:
    """The rows that folds hold out, each of them once.

    Attributes
    ----------
    split
        The name of the split that they make up.
    labels
        Labels of the rows [M], fold after fold, on the device of the logits.
    places
        The place of each in the split, whose rows are in the bank's order, [M].
    counts
        Full training counts [K] of the bank.
    groups
        Classes [K] bool of each class group, by key.
    """

    split: str
    labels: Tensor
    places: np.ndarray
    counts: np.ndarray
    groups: Mapping[str, np.ndarray]

    @cached_property
    def order(self) -> np.ndarray:
        """The rows in the order of the split, as indices of `labels`."""
        return np.argsort(self.places)


class PooledEvaluation:
    """Metrics of the configurations of a tile on the rows that folds hold out.

    Each fold's head is measured on the rows that it has not seen, and their sums are added up: the
    metrics are those of all rows together, not means over folds. A temperature is fitted on each
    fold, to the rows that it holds out.
    """

    def __init__(self, tile: Tile, held_out: HeldOut) -> None:
        self.split = held_out.split
        self._recipes, self._held_out = tile.recipes, held_out
        configs, classes = len(tile.recipes), len(held_out.counts)
        self._tally = Tally(held_out.labels, classes, configs, held_out.counts, held_out.groups)
        self._weight = class_balanced(held_out.labels, classes)
        self._fitted: list[Fitted] = []  # of each fold
        self._shares: list[Tensor] = []  # Σ of the weights of its rows
        self._losses: list[Tensor] = []  # [C, epochs] of each fold

    def fit(self, run: TileRun) -> None:
        """Fit the temperatures of a fold to the rows that it holds out, before these are added."""
        rows = self._tally.next_rows(len(run.views[0].evaluated[self.split].labels))
        y, weight = self._held_out.labels[rows], self._weight[rows]
        logits = run.all_logits("last", self.split, held_bytes(y.device))
        self._fitted.append(Fitted.joined([fit_temperature(z, y, weight) for _, z in logits]))
        self._shares.append(weight.sum())

    def add(self, run: TileRun, views: Sequence[Tensor]) -> None:
        """Measure the heads of a fold on the next rows that it holds out."""
        for _, z in run.outputs("last", views):
            self._tally.add(z)

    def end_fold(self, run: TileRun) -> None:
        """Keep the training losses of a fold."""
        if "loss" in run.state["curves"]:
            self._losses.append(run.state["curves"]["loss"])

    def _pooled(self) -> Fitted:
        """The geometric mean of the folds' temperatures, and the likelihood of every row at that of
        its fold."""
        share = torch.stack(self._shares)[:, None]
        scale = (share * torch.stack([fitted.scale for fitted in self._fitted]).log()).sum(0).exp()
        nll = (share * torch.stack([fitted.nll for fitted in self._fitted])).sum(0)
        return Fitted(scale, nll, torch.cat([fitted.losses for fitted in self._fitted], 1))

    def outcomes(self) -> list[Outcome]:
        """The outcome of each configuration: one evaluation, and the mean loss over the folds."""
        loss = torch.stack(self._losses).mean(0) if self._losses else None
        outcomes = []
        for c, (recipe, evaluation) in enumerate(
            zip(self._recipes, self._tally.evaluations(fitted=self._pooled()), strict=True)
        ):
            finite = evaluation.metrics["nll"] is not None and (
                loss is None or bool(loss[c].isfinite().all())
            )
            outcomes.append(
                Outcome(
                    recipe=recipe,
                    status="done" if finite else "diverged",
                    evaluations={
                        (self.split, "last"): self._in_order(evaluation)
                        if finite
                        else _unmeasured(evaluation)
                    },
                    selected_epoch=None,
                    curves={} if loss is None else {"loss": loss[c].tolist()},
                    parameters={},
                )
            )
        return outcomes

    def _in_order(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation with its rows in the order of the split."""
        order, details = self._held_out.order, evaluation.details
        if "losses" in details:
            details = {**details, "losses": details["losses"][order]}
        return replace(evaluation, correct=evaluation.correct[order], details=details)


def _unmeasured(evaluation: Evaluation) -> Evaluation:
    """The record that a configuration was trained on the folds and diverged on one of them."""
    return Evaluation(
        dict.fromkeys(evaluation.metrics),
        np.full_like(evaluation.per_class, np.nan),
        np.zeros_like(evaluation.correct),
    )
