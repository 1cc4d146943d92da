"""A tile in training: C configurations side by side, a model per view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np
import torch
from torch import Tensor

from stage2.engine.blend import Betas
from stage2.engine.metrics import class_accuracy, epoch_accuracy
from stage2.engine.model import Model, ViewData
from stage2.engine.optimum import optimum
from stage2.engine.plan import BatchStream, Tile
from stage2.engine.rows import Window, block_rows
from stage2.engine.state import TileState, select
from stage2.engine.tally import label_rank
from stage2.engine.trainer import Trainer
from stage2.methods.averaging import averaged
from stage2.methods.precision import precision

UNTRAINED_BLOCKS = 8
"""Factor by which blocks of rows are larger for heads without training: k-NN searches all training
rows once per block."""


class TileRun:
    """The training of a tile; the outputs of its models are averaged.

    Parameters
    ----------
    tile, stream, views
        The tile, and the batch stream and views of its group.
    state
        To continue from; by default training starts from the beginning.

    Attributes
    ----------
    state
        Everything that training changes, shared with the models.
    models
        One per view.
    optimised
        Curves by name and configuration of recipes that are trained without steps.
    """

    def __init__(
        self,
        tile: Tile,
        stream: BatchStream,
        views: Sequence[ViewData],
        state: TileState | None = None,
    ) -> None:
        self.tile, self.stream, self.views = tile, stream, views
        known = state["models"] if state else {}
        self.models = [Model(tile.recipes, data, known.get(i)) for i, data in enumerate(views)]
        self._trainers = [Trainer(model, stream) for model in self.models if stream.epochs]
        self._betas: Betas | None = None
        if (blended := views[0].blended) is not None:
            self._betas = Betas(tile.recipes, blended, state.get("betas") if state else None)
        self.state = TileState(
            models={i: model.state for i, model in enumerate(self.models)},
            curves=state["curves"] if state else {},
        )
        if self._betas:
            self.state["betas"] = self._betas.state
        # On a GPU a lower precision is for speed, of evaluation as well; a CPU only rounds for it.
        on_gpu = views[0].train.device.type == "cuda"
        self._precision = tile.key.precision if on_gpu else "fp32"
        self.optimised: dict[str, list[list[float]]] = {}
        self._right: list[Tensor] = []

    @property
    def classes(self) -> int:
        """K."""
        return len(self.views[0].counts)

    @property
    def step_flops(self) -> int:
        """Floating-point operations of the products of a step."""
        dim, configs = self.views[0].train.dim, len(self.tile.recipes)
        return 4 * self.stream.batch_size * configs * self.classes * dim

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch."""
        if self._betas:
            self._betas.begin_epoch()
        for trainer in self._trainers:
            trainer.begin_epoch(epoch)
        self._right.clear()

    def train(self, view: int, window: Window, stopped: Event) -> None:
        """Take the steps of a window of a view."""
        self._trainers[view].train(window, stopped, self._betas)

    def watch(self, views: Sequence[Tensor], y: Tensor) -> None:
        """Record which of the next val rows are right, for the choice of the epoch."""
        for rows, z in self.outputs("last", views):
            self._right.append((label_rank(z, y[rows])[0] == 0).t())

    def end_epoch(self) -> None:
        """Extend the curves by an epoch; keep the parameters where val is best; move β."""
        self._extend("loss", torch.stack([t.end_epoch() for t in self._trainers]).mean(0))
        if not self._right:
            return
        labels = self.views[0].evaluated["val"].labels
        accuracy = class_accuracy(torch.cat(self._right, 1), labels, self.classes)
        if self._betas:
            self._betas.move(accuracy)
        macro = epoch_accuracy(accuracy)
        curve = self.state["curves"].get("val_macro")
        better = torch.ones_like(macro) > 0 if curve is None else macro > curve.amax(1)
        for model in self.models:
            model.keep_best(better)
        self._extend("val_macro", macro)

    def scores(self) -> list[float]:
        """The best macro accuracy on val so far of each configuration; −∞ where it diverged."""
        finite = self.state["curves"]["loss"].isfinite().all(1)
        best = self.state["curves"]["val_macro"].amax(1)
        return torch.where(finite, best, -torch.inf).tolist()

    def optimise(self) -> None:
        """Take recipes that are trained without steps to their optimum."""
        if not self.tile.recipes[0].trained:
            return
        for model in self.models:
            context, copies = model.data.context, model.data.train.copies
            model.state["parameters"], minimum = optimum(
                model.recipes, model.state["parameters"], context, copies
            )
            if model is self.models[0]:
                self.optimised = {"loss": minimum.values, "gradient_norm": minimum.norms}

    def traces(self, config: int) -> dict[str, np.ndarray]:
        """Arrays over the epochs of one configuration: β where it moves."""
        return self._betas.traces(config) if self._betas else {}

    def epochs(self) -> list[str]:
        """The epochs that have parameters: ``last`` and, with val, ``selected``."""
        return ["last", *(["selected"] if self.models[0].state["best"] else [])]

    def outputs(
        self, epoch: str, views: Sequence[Tensor], configs: slice = slice(None)
    ) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows and their logits [B, C, K], averaged over the views.

        Parameters
        ----------
        epoch
            ``last`` or ``selected``.
        views
            Features [n, D] of the same rows in each view.
        configs
            Configurations to compute.
        """
        parameters = [model.parameters_at(epoch, configs) for model in self.models]
        numbers = len(self.tile.recipes[configs]) * self.classes
        size = block_rows(numbers, views[0].device)
        size *= 1 if self.tile.recipes[0].trained else UNTRAINED_BLOCKS
        for start in range(0, len(views[0]), size):
            rows = slice(start, start + size)
            with precision(self._precision):
                z = [
                    model.logits(p, x[rows])
                    for model, p, x in zip(self.models, parameters, views, strict=True)
                ]
            key = self.tile.key
            yield rows, z[0] if len(z) == 1 else averaged(z, key.average == "logits", key.shares)

    def all_logits(self, epoch: str, split: str, held: int) -> Iterator[tuple[slice, Tensor]]:
        """Configurations and their logits [N, C', K] on all rows of a split, of as many at a time
        as `held` bytes have room for, and of one at least."""
        rows = [view.evaluated[split] for view in self.views]
        size = max(1, held // (4 * len(rows[0].labels) * self.classes))
        for start in range(0, len(self.tile.recipes), size):
            configs = slice(start, start + size)
            count = len(self.tile.recipes[configs])
            z = torch.empty(len(rows[0].labels), count, self.classes, device=rows[0].device)
            filled = 0
            for part in self.logit_blocks(epoch, split, configs):
                z[filled : filled + len(part)] = part
                filled += len(part)
            yield configs, z

    def logit_blocks(
        self, epoch: str, split: str, configs: slice = slice(None)
    ) -> Iterator[Tensor]:
        """Logits [B, C', K] on all rows of a split, block by block."""
        for xs in aligned([view.evaluated[split].blocks() for view in self.views]):
            for _, z in self.outputs(epoch, xs, configs):
                yield z

    def _extend(self, curve: str, values: Tensor) -> None:
        """Add the values [C] of an epoch to a curve."""
        curves = self.state["curves"]
        past = [curves[curve]] if curve in curves else []
        curves[curve] = torch.cat([*past, values[:, None]], 1)


def rejoined(parts: Sequence[tuple[TileRun, Sequence[int]]]) -> TileRun:
    """Combine selected configurations of several runs, alike in kind and progress, into one that
    continues training."""
    first, _ = parts[0]
    recipes = tuple(run.tile.recipes[c] for run, configs in parts for c in configs)
    state = select([(run.state, configs) for run, configs in parts])
    return TileRun(Tile(recipes), first.stream, first.views, state)


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
