"""A model in training: one head on one view, C configurations of it in stacked tensors.

One product for the logits, one kernel for all losses, one product for the gradients. Nothing in a
step touches a Python object per configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from threading import Event

import numpy as np
import torch
from torch import Tensor

from stage2.engine import triton_kernel
from stage2.engine.angles import angle_factors, best_cosines
from stage2.engine.blend import Betas, finished, own_features
from stage2.engine.kernel import KERNELS, LossRows, loss_and_gradient
from stage2.engine.optimum import optimum
from stage2.engine.plan import Stream, Tile
from stage2.engine.stream import MemoryRows, Rows, Window
from stage2.methods.family import Moment
from stage2.methods.heads import HEADS, Batch, Context, Parameters, TrainedHead
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import SGD, STEPPED, gathered, learning_rates
from stage2.methods.precision import precision


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
        Those of the bank's train split before rows were held out, which make the class groups.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    keeps_z0
        Whether the stage-1 logits of training rows in memory may be kept as well, [N, K].
    """

    train: Rows
    evaluated: Mapping[str, Rows]
    counts: np.ndarray
    full_counts: np.ndarray
    weight0: Tensor | None = None
    bias0: Tensor | None = None
    keeps_z0: bool = True

    @cached_property
    def train_z0(self) -> Tensor | None:
        """Stage-1 logits of the training rows [N, K], where they may be kept."""
        if not (self.keeps_z0 and isinstance(self.train, MemoryRows)):
            return None
        return self.context.batch(self.train.x).z0[:, 0]

    @cached_property
    def context(self) -> Context:
        """What heads may know of it."""
        train = self.train
        return Context(self.counts, train.dim, train.device, train.blocks, self.weight0, self.bias0)


class Model:
    """The stacked head of a tile on one view: parameters, losses, optimiser, learning rates."""

    def __init__(self, tile: Tile, stream: Stream, data: ViewData) -> None:
        self.recipes, self.stream, self.data = tile.recipes, stream, data
        self.head = HEADS[tile.kind.head]
        settings = [recipe.part("head") for recipe in tile.recipes]
        self.parameters = self.head.init(settings, data.context)
        self.best: Parameters = {}
        if isinstance(self.head, TrainedHead) and stream.epochs:
            self._prepare(self.head, settings)

    @staticmethod
    def gathered(parts: Sequence[tuple[Model, Sequence[int]]]) -> Model:
        """Some configurations of each part, all of one kind and trained in steps, to go on with."""
        whole = copy(parts[0][0])
        assert isinstance(whole.head, TrainedHead)
        whole.recipes = tuple(model.recipes[c] for model, configs in parts for c in configs)
        whole.parameters = gathered([(model.parameters, configs) for model, configs in parts])
        whole.best = gathered([(model.best, configs) for model, configs in parts])
        step = whole._step
        whole._prepare(whole.head, [recipe.part("head") for recipe in whole.recipes])
        whole._optimiser.go_on([(model._optimiser, configs) for model, configs in parts])
        whole._step = step
        return whole

    def _prepare(self, head: TrainedHead, settings: Sequence[Mapping[str, object]]) -> None:
        """What steps need."""
        stream = self.stream
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

    def train(self, window: Window, stopped: Event, betas: Betas | None = None) -> None:
        """Take the steps of a window; `betas` of a generator that has them."""
        head = self.head
        assert isinstance(head, TrainedHead)
        own_beta = None
        if betas and window.made and window.made.blend:
            if betas.shared:
                window = finished(window, betas.values[0])
            else:
                own_beta = betas.values
        with precision(self._precision):
            for rows, y in zip(window.rows, window.y, strict=True):
                if stopped.is_set():
                    return
                batch = self._batch(window, rows, y, own_beta)
                z = head.logits(self.parameters, batch)
                loss, gradient = self._loss(window, rows, y, batch, z)
                del z  # what is let go early leaves its cache to what comes
                gradients = head.gradients(self.parameters, batch, gradient)
                del gradient
                self._optimiser.step(gradients, self._rates[self._step])
                del gradients
                if self._step_limits is not None:
                    head.constrain(self.parameters, self._step_limits)
                self._total += loss
                self._step += 1

    def _batch(self, window: Window, rows: Tensor, y: Tensor, own_beta: Tensor | None) -> Batch:
        context = self.data.context
        if own_beta is None:
            return context.batch(window.x, rows, self._z0)
        return context.batch(own_features(window, rows, y, own_beta))

    def _loss(
        self, window: Window, rows: Tensor, y: Tensor, batch: Batch, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The batch loss [C] and ∂loss/∂z [B, C, K]; `z` is overwritten."""
        assert isinstance(self.head, TrainedHead)
        second = window.made.second if window.made else None
        labels = [y] if second is None else [y, second.y[rows]]
        kappa = teacher = None
        if self._best_cosines is not None:
            assert self._rows.angle is not None
            cosines = [self.head.cosine(self.parameters, batch, z, label) for label in labels]
            cosine, of = torch.cat(cosines), torch.cat(labels)
            kappa = angle_factors(self._best_cosines, cosine, of, self._rows.angle)
        if self._rows.distil is not None:
            teacher = batch.z0
        if second is None:
            return self._kernel(z, y, self._rows, kappa=kappa, teacher=teacher)
        # A mixed row counts as two, one for each label, by their shares.
        share = second.share[rows]
        loss, gradient = self._kernel(
            torch.cat([z, z]),
            torch.cat(labels),
            self._rows,
            kappa=kappa,
            teacher=None if teacher is None else torch.cat([teacher, teacher]),
            row_weight=torch.cat([share, 1 - share]) / len(y),
        )
        return loss, gradient[: len(y)] + gradient[len(y) :]

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

    def parameters_at(self, epoch: str, some: slice = slice(None)) -> Parameters:
        """The parameters of the ``last`` or the ``selected`` epoch, of some configurations."""
        parameters = self.best if epoch == "selected" else self.parameters
        return {name: values[some] for name, values in parameters.items()}

    def logits(self, parameters: Parameters, x: Tensor) -> Tensor:
        """Logits [B, C, K] of the head as it is used, not as it is trained."""
        return self.head.evaluate(parameters, self.data.context.batch(x))

    def _loss_rows(self, moment: Moment) -> LossRows:
        counts = self.data.counts
        rows = [LOSSES[r.settings["loss"]](counts, r.part("loss"), moment) for r in self.recipes]
        return LossRows.stack(rows, len(counts), device=self.data.train.device)
