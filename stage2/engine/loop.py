"""The training loop: a fused group from its first batch to its evaluations.

An epoch is a slice of the group's index stream. Every tile walks it with stacked parameters: one
product for the logits, one kernel for all losses, one product for the gradients. Nothing in the
loop touches a Python object per configuration.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.engine.metrics import Evaluation, Tally, macro_accuracy
from stage2.engine.plan import Group, Stream, Tile
from stage2.engine.stream import Rows, Window
from stage2.methods.heads import HEADS, Context, Parameters, TrainedHead
from stage2.methods.losses import LOSSES, Moment
from stage2.methods.optimisers import OPTIMISERS, learning_rates
from stage2.methods.recipe import Recipe
from stage2.methods.samplers import index_stream
from stage2.methods.seeding import seeded

THREADED_FLOPS = 10**9
"""Floating-point operations of a step from which a lone tile shares its products among threads."""

BLOCK_BYTES = 4 << 20
"""Logits of one evaluation block on a CPU; sixteen times as much on a GPU."""


@dataclass(frozen=True)
class ViewData:
    """One view of a bank on a device.

    Attributes
    ----------
    train
        The training split.
    evaluated
        The splits results are measured on.
    counts
        Training counts [K], float64.
    groups
        Masks [K] of the class groups.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    """

    train: Rows
    evaluated: Mapping[str, Rows]
    counts: np.ndarray
    groups: Mapping[str, np.ndarray]
    weight0: Tensor | None = None
    bias0: Tensor | None = None

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
        Best epoch on val, counted from 0; None without val.
    curves
        ``loss`` and, with val, ``val_macro``, one number per epoch.
    parameters
        The head's parameters after the last epoch.
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


def group_stream(stream: Stream, labels: Tensor, copies: int = 1) -> Tensor:
    """The row indices every recipe of a group sees, [epochs, steps, B], from `labels` [N]."""
    assert stream.sampler is not None
    return index_stream(
        stream.sampler,
        labels,
        copies=copies,
        epochs=stream.epochs,
        steps=stream.steps,
        batch_size=stream.batch_size,
        seed=stream.seed,
        settings=dict(stream.sampler_settings),
    )


def run_group(group: Group, data: ViewData, *, workers: int = 1) -> list[Outcome]:
    """Train and evaluate a fused group.

    Parameters
    ----------
    group
        From the planner.
    data
        The group's view.
    workers
        CPU threads; tiles run side by side, one thread each, and a lone large tile uses them all.

    Returns
    -------
    One outcome per recipe, in the group's order.
    """
    begun = time.perf_counter()
    runs = [TileRun(tile, group.stream, data) for tile in group.tiles]
    with _threads(workers, runs) as each:
        if group.stream.sampler is not None:
            train = data.train
            labels = train.labels[: len(train.labels) // train.copies]
            draws = group_stream(group.stream, labels, train.copies).to(train.device)
            shuffler = seeded(group.stream.seed, "windows")
            for epoch in range(group.stream.epochs):
                each(lambda run, epoch=epoch: run.begin_epoch(epoch), runs)
                for window in train.windows(draws[epoch], shuffler):
                    each(lambda run, window=window: run.train(window), runs)
                if "val" in data.evaluated:
                    for x, y in data.evaluated["val"].blocks():
                        each(lambda run, x=x, y=y: run.watch(x, y), runs)
                each(TileRun.end_epoch, runs)
        for split, rows in data.evaluated.items():
            for x, _ in rows.blocks():
                each(lambda run, split=split, x=x: run.evaluate(split, x), runs)
        outcomes = each(TileRun.outcomes, runs)
    seconds = (time.perf_counter() - begun) / len(group.recipes)
    return [replace(outcome, seconds=seconds) for tile in outcomes for outcome in tile]


@contextlib.contextmanager
def _threads(workers: int, runs: list[TileRun]) -> Iterator[Callable]:
    """A map over tiles that uses `workers` threads.

    Tiles run side by side, each on one thread: small operations lose more to the barriers of a
    shared thread pool than they gain, and on a busy machine they lose everything. Only a lone tile
    whose products are large is better off with all threads inside each operation.
    """
    before = torch.get_num_threads()
    pool = None
    try:
        if len(runs) > 1 < workers:
            pool = ThreadPoolExecutor(
                min(workers, len(runs)), initializer=torch.set_num_threads, initargs=(1,)
            )
            yield lambda function, items: list(pool.map(function, items))
        else:
            torch.set_num_threads(workers if runs[0].step_flops > THREADED_FLOPS else 1)
            yield lambda function, items: [function(item) for item in items]
    finally:
        if pool:
            pool.shutdown()
        torch.set_num_threads(before)


class TileRun:
    """A tile in training: stacked parameters, optimiser, learning rates, curves."""

    def __init__(self, tile: Tile, stream: Stream, data: ViewData) -> None:
        self.tile, self.data = tile, data
        self.head = HEADS[tile.head]
        settings = [recipe.part("head") for recipe in tile.recipes]
        self.parameters = self.head.init(settings, data.context)
        self.step_flops = (
            4 * stream.batch_size * len(tile.recipes) * len(data.counts) * data.train.dim
        )
        self.loss_curve: list[Tensor] = []
        self.val_curve: list[Tensor] = []
        self.best: Parameters = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        if isinstance(self.head, TrainedHead):
            recipes = [recipe.settings for recipe in tile.recipes]
            self.optimiser = OPTIMISERS[recipes[0]["optimiser"]](
                self.parameters,
                [{**r.settings, **r.part("optimiser")} for r in tile.recipes],
                self.head.lr_multipliers(settings),
            )
            rates = np.stack([learning_rates(s, stream.steps) for s in recipes], axis=1)
            self._rates = torch.from_numpy(rates).float().to(data.train.device)
            self._scheduled = any(LOSSES[s["loss"]].scheduled for s in recipes)
            self._rows = self._loss_rows(Moment(0, stream.epochs))
            self._epochs, self._steps, self._step = stream.epochs, stream.steps, 0

    def begin_epoch(self, epoch: int) -> None:
        """Bring scheduled losses to this epoch."""
        if self._scheduled and epoch:
            self._rows = self._loss_rows(Moment(epoch, self._epochs))
        self._total = torch.zeros(
            len(self.tile.recipes), device=self.data.train.device, dtype=torch.float64
        )
        self._right: list[Tensor] = []

    def train(self, window: Window) -> None:
        """Take the steps of a window."""
        assert isinstance(self.head, TrainedHead)
        for rows, y in zip(window.rows, window.y, strict=True):
            batch = self.data.context.batch(window.x.index_select(0, rows))
            z = self.head.logits(self.parameters, batch)
            loss, gradient = loss_and_gradient(z, y, self._rows)
            gradients = self.head.gradients(self.parameters, batch, gradient)
            self.optimiser.step(gradients, self._rates[self._step])
            self._total += loss
            self._step += 1

    def watch(self, x: Tensor, y: Tensor) -> None:
        """Note which of the next rows of val, `x` [n, D] and `y` [n], are classified correctly."""
        for rows, z in self._logits(self.parameters, x):
            self._right.append(z.argmax(2) == y[rows, None])

    def end_epoch(self) -> None:
        """Keep the mean loss, and the parameters whose macro accuracy on val is their best."""
        self.loss_curve.append(self._total / self._steps)
        if not self._right:
            return
        y = self.data.evaluated["val"].labels
        macro = macro_accuracy(torch.cat(self._right).t(), y, len(self.data.counts))
        if not self.best:
            self.best = {name: values.clone() for name, values in self.parameters.items()}
        else:
            better = macro > torch.stack(self.val_curve).amax(0)
            for name, values in self.parameters.items():
                self.best[name][better] = values[better]
        self.val_curve.append(macro)

    def evaluate(self, split: str, x: Tensor) -> None:
        """Measure the last and, with val, the selected epoch on the next rows of a split."""
        configs, classes = len(self.tile.recipes), len(self.data.counts)
        for epoch, parameters in {"last": self.parameters, "selected": self.best}.items():
            if parameters:
                if (split, epoch) not in self._tallies:
                    labels = self.data.evaluated[split].labels
                    self._tallies[split, epoch] = Tally(labels, classes, configs)
                for _, z in self._logits(parameters, x):
                    self._tallies[split, epoch].add(z)

    def outcomes(self) -> list[Outcome]:
        """What became of each configuration."""
        configs = len(self.tile.recipes)
        evaluations: list[dict[tuple[str, str], Evaluation]] = [{} for _ in range(configs)]
        for place, tally in self._tallies.items():
            for c, evaluation in enumerate(tally.evaluations(self.data.groups)):
                evaluations[c][place] = evaluation
        curves = {"loss": self.loss_curve, "val_macro": self.val_curve}
        stacked = {name: torch.stack(curve, 1) for name, curve in curves.items() if curve}
        finite = [
            all(e.metrics["nll"] is not None for e in evaluations[c].values())
            and ("loss" not in stacked or bool(stacked["loss"][c].isfinite().all()))
            for c in range(configs)
        ]
        best = stacked["val_macro"].argmax(1).tolist() if self.best else [None] * configs
        return [
            Outcome(
                recipe=recipe,
                status="done" if finite[c] else "diverged",
                evaluations=evaluations[c] if finite[c] else {},
                selected_epoch=best[c],
                curves={name: curve[c].tolist() for name, curve in stacked.items()},
                parameters={name: values[c] for name, values in self.parameters.items()},
            )
            for c, recipe in enumerate(self.tile.recipes)
        ]

    def _logits(self, parameters: Parameters, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Row blocks of features [n, D] and their logits [B, C, K]."""
        row_bytes = 4 * len(self.tile.recipes) * len(self.data.counts)
        size = max(1, BLOCK_BYTES * (16 if x.is_cuda else 1) // row_bytes)
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            yield rows, self.head.logits(parameters, self.data.context.batch(x[rows]))

    def _loss_rows(self, moment: Moment) -> LossRows:
        counts = self.data.counts
        rows = [
            LOSSES[r.settings["loss"]](counts, r.part("loss"), moment) for r in self.tile.recipes
        ]
        return LossRows.stack(rows, len(counts), device=self.data.train.device)
