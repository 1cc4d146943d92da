"""Units of a sweep, timed for a few steps on a sample of the bank's rows.

A group of E epochs of S steps takes about  a + E·(S·t + w):  a for setting up and evaluating, t for
a step, w for the accuracy on val after an epoch. A unit (`stage2.engine.work`) is run through the
engine with few steps and epochs, from which a, t and w follow.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace

import numpy as np
import torch

from featbank.bank import Bank
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.plan import BatchStream, FusedGroup, Tile, default_memory
from stage2.engine.rows import MemoryRows
from stage2.engine.work import ITERATIONS, Unit
from stage2.features.budgets import held_bytes, packable, view_budget, view_bytes
from stage2.features.loading import facts_of, text_of
from stage2.methods.heads import HEADS
from stage2.methods.heads.interface import BLOCK_ROWS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe

SAMPLE_BYTES = 16 << 20
"""Bytes of features sampled from a split."""

STEP_FLOPS = 2 * 10**9
"""Floating-point operations per step above which a tile is timed with fewer configurations on a
CPU. A GPU computes many configurations in less time than as many times one: there a tile is timed
at its size."""

STEPS_SECONDS = 0.1
"""Time for which the steps of a unit are measured, where its epoch has enough of them."""

EVALUATED_ROWS = 2048
"""Rows sampled from val and test at most."""


class Sample:
    """A sample of a bank's rows as views for the engine, and the time that reading takes."""

    def __init__(self, bank: Bank, device: str, workers: int, *, folded: bool = False) -> None:
        self._bank, self._device, self._workers, self._folded = bank, device, workers, folded
        self._views: dict[tuple[str, str], ViewData] = {}
        self._read_bytes, self._read_seconds = 0, 0.0
        self._on_gpu = torch.device(device).type == "cuda"
        self.evaluated = bank.evaluated

    def rows(self, split: str) -> int:
        """Number of rows sampled from a split."""
        fit = SAMPLE_BYTES // (4 * max(map(self._bank.dim_of, self._bank.views)))
        fit = min(fit, EVALUATED_ROWS) if split in self.evaluated else fit
        return min(self._bank.rows(split), max(fit, 2 * self._bank.num_classes))

    def seconds(self, unit: Unit) -> float:
        """Thread-seconds of a whole unit, from short runs."""
        stream, train_on = unit.stream, unit.stream.train_on
        tiles = unit.tiles[: self._workers]
        if not self._on_gpu:
            size = 4 * stream.batch_size * self._logit_flops(stream)
            most = max(1, STEP_FLOPS // max(1, size))
            tiles = tuple(Tile(tile.recipes[:most]) for tile in tiles)
        part = FusedGroup(stream, tiles)
        views = [self._view(view, train_on) for view in stream.views]
        evaluations = self._growth(*self.evaluated)
        if unit.stepped:
            whole = self._stepped(part, views, evaluations)
        elif unit.recipe.trained:
            whole = self._optimised(part, views, evaluations)
        else:
            whole = self._run(part, views, 0, 0)
            if self._growth(train_on) > 1:  # the cost of training rows: neighbours, moments
                twice = torch.arange(len(views[0].train.labels)).repeat(2)
                double = self._run(part, [_with_rows(view, twice) for view in views], 0, 0)
                whole += max(0.0, double - whole) * (self._growth(train_on) - 1)
            whole *= evaluations
        return whole * len(tiles) * unit.configs / len(part.recipes)

    def loading(self, view: str, train_on: str) -> float:
        """Seconds for reading a view into memory."""
        size = sum(view_bytes(self._bank, split, view) for split in (*self.evaluated, train_on))
        return size * self._read_seconds / self._read_bytes

    def reading(self, stream: BatchStream, memory: int | None) -> float:
        """Seconds for reading a group's streamed features in every epoch."""
        size = sum(
            view_bytes(self._bank, stream.train_on, view)
            for view in stream.views
            if self._budgets(view, stream, memory)[stream.train_on] is not None
        )
        return stream.epochs * size * self._read_seconds / self._read_bytes

    def features(self, group: FusedGroup, memory: int | None) -> int:
        """Bytes of features that a group holds in memory, streamed or not, and of the stage-1
        logits of training rows where it reads them."""
        stream, size = group.stream, 0
        generates = stream.generator is not None
        reads_z0 = not generates and any(map(_reads_z0, group.recipes))
        for view in stream.views:
            for split, held in self._budgets(view, stream, memory).items():
                packed = not generates and packable(
                    self._bank, split, view, device=self._device, memory=self._share(stream, memory)
                )
                whole = held_bytes(self._bank, split, view, packed)
                size += held or whole * self._times(split, stream)
                if reads_z0 and split == stream.train_on and held is None:
                    rows = math.prod(self._bank.shape(split, view)[:2])
                    made = 2 * min(rows, BLOCK_ROWS)  # blocks on their way into it
                    size += 4 * (rows + made) * self._bank.num_classes
        return size

    def _times(self, split: str, stream: BatchStream) -> int:
        """Copies of a split in memory: the one trained on is there once more, cut to a fold."""
        return 1 + (self._folded and split == stream.train_on)

    def _budgets(self, view: str, stream: BatchStream, memory: int | None) -> dict[str, int | None]:
        return view_budget(
            self._bank,
            view,
            device=self._device,
            memory=self._share(stream, memory),
            train_on=stream.train_on,
            folded=self._folded,
        )

    def _share(self, stream: BatchStream, memory: int | None) -> int:
        return (memory or default_memory(self._device)) // len(stream.views)

    def _stepped(self, part: FusedGroup, views: list[ViewData], evaluations: float) -> float:
        """a + E·(S·t + w), from runs of one epoch and of up to three."""
        steps, epochs = part.stream.steps, part.stream.epochs
        few = min(2, steps)
        self._run(part, views, 1, few)  # allocators, caches and compilers
        base = self._run(part, views, 1, few)
        many, longer = few, base
        while many < steps and longer - base < STEPS_SECONDS:
            many = min(steps, 4 * many)
            longer = self._run(part, views, 1, many)
        step = max(0.0, longer - base) / (many - few) if many > few else 0.0
        watch = 0.0  # that of a single epoch is part of `ends`
        if (more := min(3, epochs)) > 1:
            epoch = (self._run(part, views, more, few) - base) / (more - 1)
            watch = max(0.0, epoch - few * step)
        ends = max(0.0, base - few * step - watch)
        return ends * evaluations + epochs * (steps * step + watch * evaluations)

    def _optimised(self, part: FusedGroup, views: list[ViewData], evaluations: float) -> float:
        """The same with iterations in place of steps, from two and from six of them on few rows."""
        size = 4 * len(part.recipes) * self._logit_flops(part.stream)
        rows = len(views[0].train.labels)
        if not self._on_gpu:
            rows = min(rows, max(STEP_FLOPS // size, 2 * self._bank.num_classes))
        few = [_with_rows(view, torch.arange(rows)) for view in views]
        base, longer = (self._run(_bounded(part, bound), few, 0, 0) for bound in (2, 6))
        each = max(0.0, longer - base) / 4
        growth = self._bank.rows(part.stream.train_on) / rows
        return max(0.0, base - 2 * each) * evaluations + ITERATIONS * each * growth

    def _logit_flops(self, stream: BatchStream) -> int:
        """K·D."""
        return self._bank.num_classes * max(map(self._bank.dim_of, stream.views))

    def _run(self, part: FusedGroup, views: list[ViewData], epochs: int, steps: int) -> float:
        started = time.perf_counter()
        group = FusedGroup(replace(part.stream, epochs=epochs, steps=steps), part.tiles)
        with warnings.catch_warnings():  # the bank may well have what the sample lacks
            warnings.simplefilter("ignore")
            list(run_group(group, *views, workers=self._workers, parameters=False))
        return time.perf_counter() - started

    def _growth(self, *splits: str) -> float:
        """Rows of the bank as a multiple of those of the sample."""
        rows = sum(self._bank.rows(split) for split in splits)
        return rows / sum(self.rows(split) for split in splits)

    def _view(self, view: str, train_on: str) -> ViewData:
        if (view, train_on) in self._views:
            return self._views[view, train_on]
        rows = {split: self._memory_rows(split, view) for split in (*self.evaluated, train_on)}
        train = rows.pop(train_on)
        counts = torch.bincount(train.labels, minlength=self._bank.num_classes).cpu().numpy()
        shape = self._bank.num_classes, self._bank.dim_of(view)
        weight, bias = self._bank.classifier(view) or (
            np.full(shape, 1e-3, np.float32),
            np.zeros(shape[0], np.float32),
        )
        data = ViewData(
            train=train,
            evaluated=rows,
            counts=counts.astype(np.float64),
            full_counts=self._bank.full_counts,
            weight0=torch.from_numpy(weight).to(self._device),
            bias0=torch.from_numpy(bias).to(self._device),
            text=text_of(self._bank, view, self._device),
            tokens=self._bank.tokens(view),
            facts=facts_of(self._bank, train_on),
        )
        return self._views.setdefault((view, train_on), data)

    def _memory_rows(self, split: str, view: str) -> MemoryRows:
        """Rows from all over a split, first one of every class; relabelled where a class is missing
        from the sample."""
        started = time.perf_counter()
        wanted, total = self.rows(split), self._bank.rows(split)
        pieces = 1 if wanted == total else 8
        starts = [i * total // pieces for i in range(pieces)]
        size = wanted // pieces
        x = np.concatenate([self._bank.read(split, view, a, a + size) for a in starts])
        self._read_bytes += x.size * 4
        self._read_seconds += time.perf_counter() - started
        labels = self._bank.labels(split)
        y = np.concatenate([labels[a : a + size] for a in starts])
        missing = np.setdiff1d(labels, y)
        _, first = np.unique(y, return_index=True)
        y[np.setdiff1d(np.arange(len(y)), first)[: len(missing)]] = missing
        _, first = np.unique(y, return_index=True)
        order = np.concatenate([first, np.setdiff1d(np.arange(len(y)), first)])
        return MemoryRows(
            torch.from_numpy(x[order]).float().to(self._device),
            torch.from_numpy(y[order]).to(self._device),
        )


def _reads_z0(recipe: Recipe) -> bool:
    """Whether training reads the stage-1 logits."""
    if not recipe.trained:
        return False
    return HEADS[recipe.head].reads_z0 or LOSSES[recipe.settings["loss"]].needs_classifier


def _with_rows(view: ViewData, rows: torch.Tensor) -> ViewData:
    """A view with these of its training rows."""
    assert isinstance(view.train, MemoryRows)
    return replace(view, train=MemoryRows(view.train.x[rows], view.train.labels[rows]))


def _bounded(part: FusedGroup, iterations: int) -> FusedGroup:
    """The group with a bound of the iterations."""
    bound = {"max_iterations": iterations}
    tiles = [[Recipe(r.name, **{**r.settings, **bound}) for r in t.recipes] for t in part.tiles]
    return FusedGroup(part.stream, tuple(Tile(tuple(recipes)) for recipes in tiles))
