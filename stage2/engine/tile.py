"""A tile in training: C configurations of one kind in stacked tensors.

One product for the logits, one kernel for all losses, one product for the gradients. Nothing in a
step touches a Python object per configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event

import numpy as np
import torch
from torch import Tensor

from stage2.engine import triton_kernel
from stage2.engine.angles import angle_factors, best_cosines
from stage2.engine.calibration import Calibration, calibrate
from stage2.engine.kernel import KERNELS, LossRows, loss_and_gradient
from stage2.engine.metrics import Evaluation, Tally, label_rank, macro_accuracy
from stage2.engine.optimum import optimum
from stage2.engine.plan import Stream, Tile
from stage2.engine.stream import MemoryRows, Rows, Window
from stage2.methods.heads import HEADS, Context, Parameters, TrainedHead
from stage2.methods.losses import LOSSES, Moment
from stage2.methods.optimisers import SGD, STEPPED, learning_rates
from stage2.methods.precision import precision
from stage2.methods.recipe import Recipe

BLOCK_BYTES = 4 << 20
"""Logits of one evaluation block on a CPU; 128 times as much on a GPU, where small blocks would
read the weights of a large tile again and again."""

UNTRAINED_BLOCKS = 8
"""How much larger blocks of heads without training are: k-NN goes through all rows for each."""

CALIBRATION_BYTES = 1 << 28
"""Logits of val held at once while a calibration is fitted, if those of one configuration fit."""


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
    bank_counts
        Those of the bank's train split, which make the class groups.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    keeps_z0
        Whether the stage-1 logits of training rows in memory may be kept as well, [N, K].
    """

    train: Rows
    evaluated: Mapping[str, Rows]
    counts: np.ndarray
    bank_counts: np.ndarray
    weight0: Tensor | None = None
    bias0: Tensor | None = None
    keeps_z0: bool = True

    @cached_property
    def train_z0(self) -> Tensor | None:
        """Stage-1 logits of the training rows [N, K], where they may be kept."""
        if not (self.keeps_z0 and isinstance(self.train, MemoryRows)):
            return None
        return self.context.batch(self.train.x).z0

    @cached_property
    def context(self) -> Context:
        """What heads may know of it."""
        train = self.train
        return Context(self.counts, train.dim, train.device, train.blocks, self.weight0, self.bias0)


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes
    ----------
    recipe
        The recipe.
    status
        ``done``, or ``diverged`` where the loss left the finite numbers.
    evaluations
        By split and epoch (``last``, ``selected``); empty where it diverged.
    selected_epoch
        Best epoch on val, counted from 0; None without val or without epochs.
    curves
        ``loss`` and, with val, ``val_macro``, one number per epoch; for L-BFGS ``loss`` (with the
        decay's part) and ``gradient_norm``, one per iteration and one before.
    parameters
        The head's parameters at the end, under ``view.name`` where it has several views; a
        calibration's as ``calibration.scale`` and ``calibration.shift``.
    seconds
        The recipe's share of its group's time.
    """

    recipe: Recipe
    status: str
    evaluations: dict[tuple[str, str], Evaluation]
    selected_epoch: int | None
    curves: dict[str, list[float]]
    parameters: Parameters
    seconds: float = field(default=0.0, compare=False)


class Model:
    """The stacked head of a tile on one view: parameters, losses, optimiser, learning rates."""

    def __init__(self, tile: Tile, stream: Stream, data: ViewData) -> None:
        self.recipes, self.data = tile.recipes, data
        self.head = HEADS[tile.kind.head]
        settings = [recipe.part("head") for recipe in tile.recipes]
        self.parameters = self.head.init(settings, data.context)
        self.best: Parameters = {}
        if isinstance(self.head, TrainedHead) and stream.epochs:
            self._prepare(self.head, settings, stream)

    def _prepare(
        self, head: TrainedHead, settings: Sequence[Mapping[str, object]], stream: Stream
    ) -> None:
        """What steps need."""
        recipes = [recipe.settings for recipe in self.recipes]
        context, device = self.data.context, self.data.train.device
        losses = [LOSSES[s["loss"]] for s in recipes]
        self._kernel, optimiser = KERNELS[losses[0].kernel], STEPPED[recipes[0]["optimiser"]]
        if triton_kernel.available(device):
            if self._kernel is loss_and_gradient:
                self._kernel = triton_kernel.loss_and_gradient
            if optimiser is SGD:
                optimiser = triton_kernel.FusedSGD
        self._optimiser = optimiser(
            self.parameters,
            [{**r.settings, **r.part("optimiser")} for r in self.recipes],
            head.lr_multipliers(settings),
            anchors=head.anchors(settings, context),
            biases=head.biases,
        )
        rates = np.stack([learning_rates(s, stream.steps) for s in recipes], axis=1)
        self._rates = torch.from_numpy(rates).float().to(device)
        self._precision = recipes[0]["precision"]
        reads_z0 = head.reads_z0 or any(loss.needs_classifier for loss in losses)
        self._z0 = self.data.train_z0 if reads_z0 else None
        self._scheduled = any(
            loss.changes(r.part("loss")) for loss, r in zip(losses, self.recipes, strict=True)
        )
        self._epochs, self._step = stream.epochs, 0
        self._rows = self._loss_rows(Moment(0, stream.epochs))
        self._step_limits = head.limits(settings, context, "step")
        self._epoch_limits = head.limits(settings, context, "epoch")

    def begin_epoch(self, epoch: int) -> None:
        """Bring losses that change over the epochs to this one."""
        assert isinstance(self.head, TrainedHead)
        if self._scheduled and epoch:
            self._rows = self._loss_rows(Moment(epoch, self._epochs))
        self._best_cosines = None
        if self._rows.angle is not None:
            train, context = self.data.train, self.data.context
            self._best_cosines = best_cosines(self.head, self.parameters, train, context)
        self._total = torch.zeros(
            len(self.recipes), device=self.data.train.device, dtype=torch.float64
        )

    def train(self, window: Window, stopped: Event) -> None:
        """Take the steps of a window."""
        head = self.head
        assert isinstance(head, TrainedHead)
        context = self.data.context
        with precision(self._precision):
            for rows, y in zip(window.rows, window.y, strict=True):
                if stopped.is_set():
                    return
                batch = context.batch(window.x, rows, self._z0)
                z = head.logits(self.parameters, batch)
                kappa = None
                if self._best_cosines is not None:
                    assert self._rows.angle is not None
                    cosine = head.cosine(self.parameters, batch, z, y)
                    kappa = angle_factors(self._best_cosines, cosine, y, self._rows.angle)
                teacher = None if self._rows.distil is None else batch.z0
                loss, gradient = self._kernel(z, y, self._rows, kappa=kappa, teacher=teacher)
                del z  # what is let go early leaves its cache to what comes
                gradients = head.gradients(self.parameters, batch, gradient)
                del gradient
                self._optimiser.step(gradients, self._rates[self._step])
                del gradients
                if self._step_limits is not None:
                    head.constrain(self.parameters, self._step_limits)
                self._total += loss
                self._step += 1

    def end_epoch(self, steps: int) -> Tensor:
        """The epoch's mean loss [C]."""
        if self._epoch_limits is not None:
            assert isinstance(self.head, TrainedHead)
            self.head.constrain(self.parameters, self._epoch_limits)
        return self._total / steps

    def optimise(self) -> dict[str, list[list[float]]]:
        """Take convex recipes to their optimum; curves of each."""
        assert isinstance(self.head, TrainedHead)
        context, copies = self.data.context, self.data.train.copies
        self.parameters, found = optimum(self.head, self.recipes, self.parameters, context, copies)
        return {"loss": found.values, "gradient_norm": found.norms}

    def keep_best(self, better: Tensor) -> None:
        """Keep the parameters of the configurations `better` [C] as the selected ones."""
        if not self.best:
            self.best = {name: values.clone() for name, values in self.parameters.items()}
        for name, values in self.parameters.items():
            self.best[name][better] = values[better]

    def logits(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Logits [B, C, K] of the head as it is used, not as it is trained."""
        return self.head.evaluate(parameters, self.data.context.batch(x))

    def _loss_rows(self, moment: Moment) -> LossRows:
        counts = self.data.counts
        rows = [LOSSES[r.settings["loss"]](counts, r.part("loss"), moment) for r in self.recipes]
        return LossRows.stack(rows, len(counts), device=self.data.train.device)


class TileRun:
    """A tile from its first batch to its evaluations: one model per view, outputs averaged."""

    def __init__(self, tile: Tile, stream: Stream, views: Sequence[ViewData]) -> None:
        self.tile, self.stream, self.data = tile, stream, views[0]
        self.models = [Model(tile, stream, data) for data in views]
        self._configs, self._classes = len(tile.recipes), len(self.data.counts)
        self._curves: dict[str, list[Tensor]] = {}
        self._own_curves: list[dict[str, list[float]]] = [{} for _ in tile.recipes]
        self._calibrations: dict[str, Calibration] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    @property
    def step_flops(self) -> int:
        """Floating-point operations of a step's products."""
        return 4 * self.stream.batch_size * self._configs * self._classes * self.data.train.dim

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch."""
        for model in self.models:
            model.begin_epoch(epoch)
        self._right: list[Tensor] = []

    def train(self, view: int, window: Window, stopped: Event) -> None:
        """Take the steps of a window of a view."""
        self.models[view].train(window, stopped)

    def watch(self, views: Sequence[Tensor], y: Tensor) -> None:
        """Note which of the next val rows are right, for the choice of the epoch."""
        for rows, z in self._outputs("last", views):
            self._right.append((label_rank(z, y[rows])[0] == 0).t())

    def end_epoch(self) -> None:
        """Close the curves of an epoch; remember the parameters where val is best."""
        losses = [model.end_epoch(self.stream.steps) for model in self.models]
        self._curves.setdefault("loss", []).append(torch.stack(losses).mean(0))
        if not self._right:
            return
        labels = self.data.evaluated["val"].labels
        macro = macro_accuracy(torch.cat(self._right, 1), labels, self._classes)
        curve = self._curves.setdefault("val_macro", [])
        better = macro > torch.stack(curve).amax(0) if curve else torch.ones_like(macro) > 0
        for model in self.models:
            model.keep_best(better)
        curve.append(macro)

    def optimise(self) -> None:
        """Take recipes that are trained without steps to their optimum."""
        if self.tile.recipes[0].trained:
            found = [model.optimise() for model in self.models]
            for name in found[0]:
                for c, own in enumerate(self._own_curves):
                    own[name] = found[0][name][c]

    def calibrate(self) -> None:
        """Fit the calibrations to val."""
        if self.tile.kind.calibration == "none":
            return
        val = [model.data.evaluated["val"] for model in self.models]
        labels = self.data.evaluated["val"].labels
        size = max(1, CALIBRATION_BYTES // (4 * len(labels) * self._classes))
        for epoch in self._epochs():
            parts = []
            for some in torch.arange(self._configs, device=labels.device).split(size):
                blocks = [
                    z.index_select(1, some)
                    for xs in aligned([rows.blocks() for rows in val])
                    for _, z in self._outputs(epoch, xs)
                ]
                parts.append(calibrate(self.tile.kind.calibration, torch.cat(blocks), labels))
            shifts = [part.shift for part in parts if part.shift is not None]
            self._calibrations[epoch] = Calibration(
                torch.cat([part.scale for part in parts]), torch.cat(shifts) if shifts else None
            )

    def evaluate(self, split: str, views: Sequence[Tensor]) -> None:
        """Measure the last and, with val, the selected epoch on the next rows of a split."""
        for epoch in self._epochs():
            if (split, epoch) not in self._tallies:
                labels, counts = self.data.evaluated[split].labels, self.data.bank_counts
                self._tallies[split, epoch] = Tally(labels, self._classes, self._configs, counts)
            for _, z in self._outputs(epoch, views):
                if epoch in self._calibrations:
                    self._calibrations[epoch](z)
                self._tallies[split, epoch].add(z)

    def outcomes(self) -> list[Outcome]:
        """What became of each configuration."""
        evaluations: list[dict[tuple[str, str], Evaluation]] = [{} for _ in self.tile.recipes]
        for place, tally in self._tallies.items():
            norms = self._weight_norms(place[1])
            for c, evaluation in enumerate(tally.evaluations(weight_norm=norms)):
                evaluations[c][place] = evaluation
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
                    status="done" if finite else "diverged",
                    evaluations=evaluations[c] if finite else {},
                    selected_epoch=best[c] if best else None,
                    curves=curves,
                    parameters=self._parameters(c),
                )
            )
        return outcomes

    def _weight_norms(self, epoch: str) -> Tensor | None:
        """‖w_k‖ of each configuration [C, K], where one head has such rows."""
        model, *others = self.models
        if others:
            return None
        parameters = model.best if epoch == "selected" else model.parameters
        return model.head.weight_norm(parameters, model.data.context)

    def _epochs(self) -> list[str]:
        return ["last", *(["selected"] if self.models[0].best else [])]

    def _outputs(self, epoch: str, views: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """Row blocks of features [n, D], one per view, and their logits [B, C, K]: those of the one
        model, or the average of several, as logarithms of probabilities or as it is asked."""
        bytes_ = BLOCK_BYTES * (128 if views[0].is_cuda else 1)
        bytes_ *= 1 if self.tile.recipes[0].trained else UNTRAINED_BLOCKS
        size = max(1, bytes_ // (4 * self._configs * self._classes))
        for start in range(0, len(views[0]), size):
            rows = slice(start, start + size)
            z = [
                model.logits(model.best if epoch == "selected" else model.parameters, x[rows])
                for model, x in zip(self.models, views, strict=True)
            ]
            yield rows, z[0] if len(z) == 1 else _average(z, self.tile.kind.average)

    def _parameters(self, c: int) -> Parameters:
        """What a configuration has learned."""
        several = len(self.models) > 1
        found = {
            f"{view}.{name}" if several else name: values[c]
            for view, model in zip(self.stream.views, self.models, strict=True)
            for name, values in model.parameters.items()
        }
        if calibration := self._calibrations.get("last"):
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
