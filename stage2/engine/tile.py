"""A tile from its first batch to its results: C configurations of one kind, side by side.

It has a model per view; their outputs are averaged, calibrated and measured together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from threading import Event

import numpy as np
import torch
from torch import Tensor

from stage2.engine.blend import Betas
from stage2.engine.calibration import Calibration, calibrate
from stage2.engine.generation import GeneratedRows
from stage2.engine.metrics import UNCALIBRATED, Evaluation, class_accuracy
from stage2.engine.model import Model, ViewData
from stage2.engine.plan import Stream, Tile
from stage2.engine.stream import Window, block_rows
from stage2.engine.tally import Tally, label_rank
from stage2.methods.heads import Parameters
from stage2.methods.recipe import Recipe

UNTRAINED_BLOCKS = 8
"""How much larger blocks of heads without training are: k-NN goes through all rows for each."""

CALIBRATION_BYTES = 1 << 28
"""Logits of val held at once while a calibration is fitted, if those of one configuration fit."""


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes
    ----------
    recipe
        The recipe.
    status
        ``done``; ``diverged`` where the loss left the finite numbers; ``stopped`` where halving
        ended it, after as many epochs as its curves have.
    evaluations
        By split and epoch (``last``, ``selected``); empty where it diverged, of val and the last
        epoch alone where it was stopped.
    selected_epoch
        Best epoch on val, counted from 0; None without val or without epochs.
    curves
        ``loss`` and, with val, ``val_macro``, one number per epoch; for L-BFGS ``loss`` (with the
        decay's part) and ``gradient_norm``, one per iteration and one before.
    parameters
        The head's parameters at the end, under ``view.name`` where it has several views; a
        calibration's as ``calibration.scale`` and ``calibration.shift``.
    selected
        The same at the selected epoch; empty without one.
    traces
        Arrays over the epochs: ``beta`` [epochs, K] where β moves, NaN for classes without.
    seconds
        The recipe's share of its group's time.
    """

    recipe: Recipe
    status: str
    evaluations: dict[tuple[str, str], Evaluation]
    selected_epoch: int | None
    curves: dict[str, list[float]]
    parameters: Parameters
    selected: Parameters = field(default_factory=dict)
    traces: dict[str, np.ndarray] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)


class TileRun:
    """A tile from its first batch to its evaluations: one model per view, outputs averaged."""

    def __init__(self, tile: Tile, stream: Stream, views: Sequence[ViewData]) -> None:
        self.tile, self.stream, self.data = tile, stream, views[0]
        self.models = [Model(tile, stream, data) for data in views]
        self._configs, self._classes = len(tile.recipes), len(self.data.counts)
        self._betas: Betas | None = None
        train = self.data.train
        if isinstance(train, GeneratedRows) and train.generation.blended is not None:
            self._betas = Betas(tile.recipes, train.generation.blended)
        self._curves: dict[str, list[Tensor]] = {}
        self._own_curves: list[dict[str, list[float]]] = [{} for _ in tile.recipes]
        self._calibrations: dict[str, Calibration] = {}
        self._uncalibrated: dict[str, list[Tensor]] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    @property
    def step_flops(self) -> int:
        """Floating-point operations of a step's products."""
        return 4 * self.stream.batch_size * self._configs * self._classes * self.data.train.dim

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch."""
        if self._betas:
            self._betas.begin_epoch()
        for model in self.models:
            model.begin_epoch(epoch)
        self._right: list[Tensor] = []

    def train(self, view: int, window: Window, stopped: Event) -> None:
        """Take the steps of a window of a view."""
        self.models[view].train(window, stopped, self._betas)

    def watch(self, views: Sequence[Tensor], y: Tensor) -> None:
        """Note which of the next val rows are right, for the choice of the epoch."""
        for rows, z in self._outputs("last", views):
            self._right.append((label_rank(z, y[rows])[0] == 0).t())

    def end_epoch(self) -> None:
        """Close the curves of an epoch; remember the parameters where val is best; move β."""
        losses = [model.end_epoch(self.stream.steps) for model in self.models]
        self._curves.setdefault("loss", []).append(torch.stack(losses).mean(0))
        if not self._right:
            return
        labels = self.data.evaluated["val"].labels
        accuracy = class_accuracy(torch.cat(self._right, 1), labels, self._classes)
        if self._betas:
            self._betas.move(accuracy)
        macro = accuracy.nanmean(1)
        curve = self._curves.setdefault("val_macro", [])
        better = macro > torch.stack(curve).amax(0) if curve else torch.ones_like(macro) > 0
        for model in self.models:
            model.keep_best(better)
        curve.append(macro)

    def scores(self) -> list[float]:
        """The best macro accuracy on val so far of each configuration; −∞ where it diverged."""
        finite = torch.stack(self._curves["loss"]).isfinite().all(0)
        best = torch.stack(self._curves["val_macro"]).amax(0)
        return torch.where(finite, best, -torch.inf).tolist()

    @staticmethod
    def gathered(parts: Sequence[tuple[TileRun, Sequence[int]]]) -> TileRun:
        """Some configurations of each part, all of one kind and trained in steps, to go on with."""
        whole = copy(parts[0][0])
        whole.tile = Tile(tuple(run.tile.recipes[c] for run, configs in parts for c in configs))
        whole._configs = len(whole.tile.recipes)
        whole.models = [
            Model.gathered([(run.models[view], configs) for run, configs in parts])
            for view in range(len(whole.models))
        ]
        if betas := [(run._betas, configs) for run, configs in parts if run._betas]:
            whole._betas = Betas.gathered(betas)
        whole._curves = {
            name: [
                torch.cat([run._curves[name][epoch][list(configs)] for run, configs in parts])
                for epoch in range(len(curve))
            ]
            for name, curve in whole._curves.items()
        }
        whole._own_curves = [{} for _ in whole.tile.recipes]
        whole._calibrations, whole._uncalibrated, whole._tallies = {}, {}, {}
        return whole

    def without_selected(self) -> TileRun:
        """The same without the parameters of the selected epochs, which are then not measured."""
        for model in self.models:
            model.best = {}
        return self

    def optimise(self) -> None:
        """Take recipes that are trained without steps to their optimum."""
        if self.tile.recipes[0].trained:
            found = [model.optimise() for model in self.models]
            for name in found[0]:
                for c, own in enumerate(self._own_curves):
                    own[name] = found[0][name][c]

    def calibrate(self) -> None:
        """Fit the calibrations to val, but for rows of classes that nothing was learned about: no
        scaling makes them right, and a few would scale all logits away."""
        if self.tile.kind.calibration == "none":
            return
        val = [model.data.evaluated["val"] for model in self.models]
        labels = self.data.evaluated["val"].labels
        learned = torch.from_numpy(self.data.counts > 0).to(labels.device)[labels]
        size = max(1, CALIBRATION_BYTES // (4 * len(labels) * self._classes))
        for epoch in self._epochs():
            parts = []
            for start in range(0, self._configs, size):
                some = slice(start, start + size)
                blocks = [
                    z
                    for xs in aligned([rows.blocks() for rows in val])
                    for _, z in self._outputs(epoch, xs, some)
                ]
                ridge = [r.settings.get("calibration_ridge", 0) for r in self.tile.recipes[some]]
                z, y = torch.cat(blocks)[learned], labels[learned]
                parts.append(calibrate(self.tile.kind.calibration, z, y, ridge=torch.tensor(ridge)))
            shifts = [part.shift for part in parts if part.shift is not None]
            self._calibrations[epoch] = Calibration(
                torch.cat([part.scale for part in parts]), torch.cat(shifts) if shifts else None
            )

    def evaluate(self, split: str, views: Sequence[Tensor]) -> None:
        """Measure the last and, with val, the selected epoch on the next rows of a split."""
        for epoch in self._epochs():
            if (split, epoch) not in self._tallies:
                labels, counts = self.data.evaluated[split].labels, self.data.full_counts
                self._tallies[split, epoch] = Tally(
                    labels,
                    self._classes,
                    self._configs,
                    counts,
                    closer=(split, epoch) == self._looked_at,
                )
            tally = self._tallies[split, epoch]
            for _, z in self._outputs(epoch, views):
                if epoch in self._calibrations:
                    if split == "val":
                        self._note_uncalibrated(epoch, z, tally.next_labels(len(z)))
                    self._calibrations[epoch](z)
                tally.add(z)

    def outcomes(self, status: str = "done") -> list[Outcome]:
        """What became of each configuration; `status` where it did not diverge."""
        evaluations: list[dict[tuple[str, str], Evaluation]] = [{} for _ in self.tile.recipes]
        for place, tally in self._tallies.items():
            norms = self._weight_norms(place[1])
            for c, evaluation in enumerate(tally.evaluations(weight_norm=norms)):
                evaluations[c][place] = evaluation
        self._add_uncalibrated(evaluations)
        stacked = {name: torch.stack(curve, 1) for name, curve in self._curves.items()}
        best = stacked["val_macro"].argmax(1).tolist() if "val_macro" in stacked else None
        outcomes = []
        for c, recipe in enumerate(self.tile.recipes):
            curves = {name: curve[c].tolist() for name, curve in stacked.items()}
            curves |= self._own_curves[c]
            finite = all(e.metrics["nll"] is not None for e in evaluations[c].values()) and bool(
                np.isfinite(curves.get("loss", [0.0])).all()
            )
            outcomes.append(
                Outcome(
                    recipe=recipe,
                    status=status if finite else "diverged",
                    evaluations=evaluations[c] if finite else {},
                    selected_epoch=best[c] if best else None,
                    curves=curves,
                    parameters=self._parameters(c, "last"),
                    selected=self._parameters(c, "selected") if self.models[0].best else {},
                    traces=self._betas.traces(c) if self._betas else {},
                )
            )
        return outcomes

    def _note_uncalibrated(self, epoch: str, z: Tensor, y: Tensor) -> None:
        """Note which of the next val rows are right before calibration."""
        self._uncalibrated.setdefault(epoch, []).append((label_rank(z, y)[0] == 0).t())

    def _add_uncalibrated(
        self, evaluations: Sequence[Mapping[tuple[str, str], Evaluation]]
    ) -> None:
        """Put the macro accuracy on val before calibration beside the metrics: what was fitted to
        val must not be ranked by it."""
        labels = self.data.evaluated["val"].labels if self._uncalibrated else None
        for epoch, right in self._uncalibrated.items():
            assert labels is not None
            macro = class_accuracy(torch.cat(right, 1), labels, self._classes).nanmean(1)
            for own, value in zip(evaluations, macro.tolist(), strict=True):
                own["val", epoch].metrics[UNCALIBRATED] = value

    def _weight_norms(self, epoch: str) -> Tensor | None:
        """‖w_k‖ of each configuration [C, K], where one head has such rows."""
        model, *others = self.models
        if others:
            return None
        return model.head.weight_norm(model.parameters_at(epoch), model.data.context)

    @property
    def _looked_at(self) -> tuple[str, str]:
        """The split and epoch that a report shows: test where the bank has it, what ranks."""
        return "test" if "test" in self.data.evaluated else "val", self._epochs()[-1]

    def _epochs(self) -> list[str]:
        return ["last", *(["selected"] if self.models[0].best else [])]

    def _outputs(
        self, epoch: str, views: Sequence[Tensor], some: slice = slice(None)
    ) -> Iterator[tuple[slice, Tensor]]:
        """Row blocks of features [n, D], one per view, and the logits [B, C, K] of some
        configurations: those of the one model, or the average of several, as logarithms of
        probabilities or as it is asked."""
        parameters = [model.parameters_at(epoch, some) for model in self.models]
        numbers = len(self.tile.recipes[some]) * self._classes
        size = block_rows(numbers, views[0].device)
        size *= 1 if self.tile.recipes[0].trained else UNTRAINED_BLOCKS
        for start in range(0, len(views[0]), size):
            rows = slice(start, start + size)
            z = [
                model.logits(own, x[rows])
                for model, own, x in zip(self.models, parameters, views, strict=True)
            ]
            yield rows, z[0] if len(z) == 1 else _average(z, self.tile.kind.average)

    def _parameters(self, c: int, epoch: str) -> Parameters:
        """What a configuration has learned by the ``last`` or the ``selected`` epoch."""
        several = len(self.models) > 1
        found = {
            f"{view}.{name}" if several else name: values[c]
            for view, model in zip(self.stream.views, self.models, strict=True)
            for name, values in model.parameters_at(epoch).items()
        }
        if calibration := self._calibrations.get(epoch):
            found["calibration.scale"] = calibration.scale[c]
            if calibration.shift is not None:
                found["calibration.shift"] = calibration.shift[c]
        return found


def aligned(streams: Sequence[Iterator[tuple[Tensor, Tensor]]]) -> Iterator[list[Tensor]]:
    """Blocks of the same rows from several splits that are cut differently: features [n, D]."""
    held = [next(stream)[0] for stream in streams]
    while True:
        rows = min(map(len, held))
        yield [x[:rows] for x in held]
        held = [x[rows:] for x in held]
        try:
            held = [
                x if len(x) else next(stream)[0] for x, stream in zip(held, streams, strict=True)
            ]
        except StopIteration:
            return


def _average(z: Sequence[Tensor], what: str | None) -> Tensor:
    stacked = torch.stack(list(z))
    if what == "logits":
        return stacked.mean(0)
    return torch.log_softmax(stacked, 3).logsumexp(0)
