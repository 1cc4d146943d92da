"""The steps of a model: one product for the logits, one kernel for all losses, one product for the
gradients. Nothing in a step touches a Python object per configuration.
"""

from __future__ import annotations

from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage2.engine.angles import angle_factors, best_cosines
from stage2.engine.blend import Betas, finished, own_features, own_last
from stage2.engine.cloud import Cloud
from stage2.engine.gpu.available import available, fuses
from stage2.engine.gpu.binary import KERNELS as GPU_KERNELS
from stage2.engine.gpu.fused import fused_pass
from stage2.engine.gpu.graph import StepGraph, pays, refilled
from stage2.engine.gpu.update import FUSED
from stage2.engine.kernel import KERNELS, LossRows
from stage2.engine.model import Model
from stage2.engine.native.compiled import CompiledPass, compiled_pass
from stage2.engine.passes import PassLosses, WindowPass
from stage2.engine.plan import BatchStream
from stage2.engine.rows import Window
from stage2.methods.family import Moment
from stage2.methods.heads import Batch, Parameters, trained_head
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import STEPPED, learning_rates
from stage2.methods.precision import precision


class Trainer:
    """Trains a model: its losses, optimiser, learning rates and limits.

    All of these follow from the recipes and the view; what steps change is the model's state, which
    it continues.
    """

    def __init__(self, model: Model, stream: BatchStream) -> None:
        self.model, self.stream = model, stream
        self.recipes, data = model.recipes, model.data
        self.head = trained_head(self.recipes[0].head)
        recipes = [recipe.settings for recipe in self.recipes]
        settings = [recipe.part("head") for recipe in self.recipes]
        context, device = data.context, data.train.device
        losses = [LOSSES[s["loss"]] for s in recipes]
        kernels, optimiser = KERNELS, STEPPED[recipes[0]["optimiser"]]
        if available(device):
            kernels, optimiser = {**KERNELS, **GPU_KERNELS}, FUSED.get(optimiser, optimiser)
        self._kernel = kernels[losses[0].kernel]
        self._optimiser = optimiser(
            model.state["parameters"],
            [{**r.settings, **r.part("optimiser")} for r in self.recipes],
            self.head.lr_multipliers(settings),
            anchors=self.head.anchors(settings, context),
            decay_weights=self.head.decay_weights(settings, context),
            biases=self.head.biases,
            state=model.state["optimiser"],
        )
        model.state["optimiser"] = self._optimiser.state
        rates = [learning_rates(s, stream.steps).astype(np.float32) for s in recipes]
        self._rates = torch.from_numpy(np.stack(rates, axis=1)).to(device)
        self._step = 0
        self._precision = recipes[0]["precision"]
        reads_z0 = self.head.reads_z0 or any(loss.needs_classifier for loss in losses)
        self._kept_z0 = self._z0 = data.train_z0 if reads_z0 else None
        self._scheduled = any(
            loss.changes(r.part("loss")) for loss, r in zip(losses, self.recipes, strict=True)
        )
        self._rows = self._loss_rows(0)
        self._cloud = None if self._rows.cloud is None else Cloud(stream.seed, device)
        self._best_cosines: Tensor | None = None
        self._step_limits = self.head.limits(settings, context, "step")
        self._epoch_limits = self.head.limits(settings, context, "epoch")
        given: dict[str, Any] = {
            "kernel": losses[0].kernel,
            "precision": self._precision,
            "rates": self._rates,
            "limits": self._step_limits,
        }
        shape = (len(recipes), len(data.counts), data.train.dim)
        replayed = pays(device, shape, stream.batch_size, stream.steps * stream.epochs)
        replayed = replayed and self._cloud is None  # a graph would replay the draws as well
        self._graph = StepGraph(self._take, device) if replayed else None
        self._pass: WindowPass | None
        if fuses(device):
            given |= {"steps": stream.steps, "replayed": replayed}
            self._pass = fused_pass(model, self._optimiser, **given)
        else:
            self._pass = compiled_pass(model, self._optimiser, **given)
        self._total = torch.zeros(len(recipes), device=device, dtype=torch.float64)

    def begin_epoch(self, epoch: int) -> None:
        """Bring learning rates, and losses that change over the epochs, to this one."""
        self._step = epoch * self.stream.steps
        if self._cloud:
            self._cloud.begin_epoch(epoch)
        if self._scheduled and epoch:
            rows = self._loss_rows(epoch)
            self._rows = refilled(self._rows, rows) if self._graph else rows
        if self._rows.angle is not None:
            data, parameters = self.model.data, self.model.state["parameters"]
            known = self._best_cosines
            best = best_cosines(self.head, parameters, data.train, data.context)
            self._best_cosines = known.copy_(best) if self._graph and known is not None else best
        else:
            self._best_cosines = None
        self._total.zero_()

    def train(self, window: Window, stopped: Event, betas: Betas | None = None) -> None:
        """Take the steps of a window; `betas` of a generator that has them."""
        self._z0 = self._kept_z0
        if self._z0 is not None and window.items is not None:
            self._z0 = self._z0.index_select(0, window.items)
        own_beta, common = None, [self.stream.batch_size] * len(window.rows)
        if betas and window.made and window.made.blend:
            if betas.shared:
                window = finished(window, betas.values[0])
            elif isinstance(self._pass, CompiledPass):
                self._train_each(self._pass, window, betas.values, stopped)
                return
            else:
                own_beta, (window, common) = betas.values, own_last(window)
        losses = PassLosses(self._rows, self._best_cosines, self._z0)
        if self._pass and own_beta is None and self._pass.takes(window, losses):
            total, steps = self._pass.train(window, self._step, losses, stopped)
            self._total += total
            self._step += steps
            return
        rates = self._rates[self._step : self._step + len(window.rows)]
        if self._graph and window.made is None and window.items is None:
            bound = [self._z0, self._best_cosines, self._rows]
            self._step += self._graph.train(window, rates, bound, stopped)
            return
        for i, first in enumerate(common):
            if stopped.is_set():
                return
            self._take(window, rates, i, own_beta, first)
            self._step += 1

    def _train_each(
        self, compiled: CompiledPass, window: Window, betas: Tensor, stopped: Event
    ) -> None:
        """Take the steps of a window for one configuration after the other, with its own β [C, K]:
        just as if it trained alone."""
        losses, steps = PassLosses(self._rows, self._best_cosines, self._z0), 0
        for c, beta in enumerate(betas):
            own = finished(window, beta)
            only = range(c, c + 1)
            total, steps = compiled.train(own, self._step, losses, stopped, only)
            self._total += total
        self._step += steps

    def _take(
        self,
        window: Window,
        rates: Tensor,
        i: int,
        own_beta: Tensor | None = None,
        first: int = 0,
    ) -> None:
        """Take step `i` of a window at learning rates [steps, C]; rows from `first` on have
        features of each configuration's own β."""
        head, parameters = self.head, self.model.state["parameters"]
        rows, y = window.rows[i], window.y[i]
        with precision(self._precision):
            batches = self._batches(window, rows, y, own_beta, first)
            z = _joined([head.logits(parameters, batch) for batch in batches])
            loss, gradient = self._loss(window, rows, y, batches, z)
            del z  # free early so that its cache lines can be reused
            gradients = self._gradients(batches, gradient, first)
            del gradient
            self._optimiser.step(gradients, rates[i])
            del gradients
            if self._step_limits is not None:
                head.constrain(parameters, self._step_limits)
            self._total += loss

    def end_epoch(self) -> Tensor:
        """The epoch's mean loss [C]."""
        if self._epoch_limits is not None:
            self.head.constrain(self.model.state["parameters"], self._epoch_limits)
        self.head.settle(self.model.state["parameters"], self.model.data.context)
        return self._total / self.stream.steps

    def _batches(
        self, window: Window, rows: Tensor, y: Tensor, own_beta: Tensor | None, first: int
    ) -> list[Batch]:
        """The first rows, whose features are those of all configurations; and the others."""
        context = self.model.data.context
        if own_beta is None:
            return [context.batch(window.x, rows, self._z0)]
        batches = [context.batch(window.x, rows[:first], self._z0)] if first else []
        if first < len(rows):
            own = own_features(window, rows[first:], y[first:], own_beta)
            batches.append(context.batch(own))
        return batches

    def _gradients(self, batches: list[Batch], gradient: Tensor, first: int) -> Parameters:
        """Those of the rows of all batches together."""
        head, parameters = self.head, self.model.state["parameters"]
        if len(batches) == 1:
            return head.gradients(parameters, batches[0], gradient)
        parts = gradient.tensor_split([first])
        each = [head.gradients(parameters, *pair) for pair in zip(batches, parts, strict=True)]
        return {name: values.add_(each[1][name]) for name, values in each[0].items()}

    def _loss(
        self, window: Window, rows: Tensor, y: Tensor, batches: list[Batch], z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The batch loss [C] and ∂loss/∂z [B, C, K]; `z` is overwritten."""
        second = window.made.second if window.made else None
        labels = [y] if second is None else [y, second.y[rows]]
        kappa = teacher = None
        if self._best_cosines is not None:
            assert self._rows.angle is not None
            cosines = [self._cosine(batches, z, label) for label in labels]
            cosine, of = torch.cat(cosines), torch.cat(labels)
            kappa = angle_factors(self._best_cosines, cosine, of, self._rows.angle)
        if self._rows.distil is not None:
            teacher = _joined([batch.z0 for batch in batches])
        if self._cloud and self._rows.cloud is not None:
            self._cloud.lower(z, self._rows.cloud)
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

    def _cosine(self, batches: list[Batch], z: Tensor, y: Tensor) -> Tensor:
        """cos(x, w_y) of the rows of all batches, [B, C]."""
        parameters, sizes = self.model.state["parameters"], [len(batch.x) for batch in batches]
        parts = zip(batches, z.split(sizes), y.split(sizes), strict=True)
        return _joined([self.head.cosine(parameters, *part) for part in parts])

    def _loss_rows(self, epoch: int) -> LossRows:
        """The losses as they are in an epoch."""
        data, moment = self.model.data, Moment(epoch, self.stream.epochs)
        counts, facts = data.counts, data.facts
        rows = [
            LOSSES[r.settings["loss"]](counts, r.part("loss"), moment, facts) for r in self.recipes
        ]
        return LossRows.stack(rows, len(counts), device=data.train.device)


def _joined(parts: list[Tensor]) -> Tensor:
    """Rows [B, …] of one or two batches; an axis of 1 beside one of C stands for all C."""
    if len(parts) == 1:
        return parts[0]
    shape = parts[1].shape[1:]
    return torch.cat([part.expand(-1, *shape) for part in parts])
