"""What caching costs: stage 2 on a bank against stage 2 that runs the backbone at every step.

Claim: with 16 augmented copies, the view of the sampler and the generator `batchnorm`, cRT, LWS,
MiSLAS, DisAlign and LOS come within 0.3 points of top-1 and 0.5 of ECE of the papers' way; on plain
images MiSLAS misses its ECE by 4. docs/cache-gap.md has the figures.

    python scripts/measure_cache_gap.py RUN [--recipes crt-cifar lws-cifar mislas disalign los]
        [--seeds 0 1 2] [--ways re-run …] [--copies 0 1 4 16] [--generators none batchnorm]
        [--banks FOLDER]

RUN is a run of `featbank train`. The papers' code freezes the backbone and runs it at every step,
on augmented images and with BatchNorm in train mode: features are normalised by their batch, and
the running statistics that test images meet are those of the sampler's batches. Here the engine
itself trains on such features, computed window by window, so that draws, schedules and heads are
the same in all rows. Recipes of one batch stream share its features, and the seconds are those of
all of them. Between the two stand their parts: fresh augmentation under the statistics of a view;
BatchNorm in train mode on plain images; and the re-run's own features as copies of a bank, of which
a row has at most A, its first draws.

``copies`` are those of the bank: 0 for plain images, A for A augmented ones, of which a sampler
draws one; a bank of fewer copies is the first of the largest. FOLDER keeps the banks. Seconds are
of training and evaluation, without extraction.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featbank import Bank
from stage1 import extract
from stage1.augment import augmented, normalise
from stage1.backbones import Backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import ImageDataset, Preprocessing, Split, batches_of
from stage1.extraction.subject import Trained
from stage1.inference.batchnorm import default_batches, rebalanced
from stage1.inference.options import VIEWS
from stage2 import Recipe
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup, Shape, plan
from stage2.engine.rows import MemoryRows, SplitRows, Window
from stage2.features.loading import load_view

BATCH = 256
MEMORY = 1 << 31
RECIPES = ("crt-cifar", "lws-cifar", "mislas", "disalign", "los")


@dataclass(frozen=True)
class Way:
    """How images become features in training: augmented or not, by their batch or by a view."""

    augments: bool
    by_batch: bool


WAYS = {
    "re-run": Way(augments=True, by_batch=True),
    "augmentation": Way(augments=True, by_batch=False),
    "batch statistics": Way(augments=False, by_batch=True),
}


def main() -> None:
    """Print accuracy, ECE and seconds of every recipe: re-run, its parts, and on banks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--copies", nargs="*", type=int, default=[0, 1, 4, 16])
    parser.add_argument("--generators", nargs="+", default=["none", "batchnorm"])
    parser.add_argument("--banks", type=Path)
    options = parser.parse_args()
    print("recipe      way                      view      top-1          ECE             seconds")
    source = Source.open(options.run)
    for way in options.ways:
        for view in ("batch",) if WAYS[way].by_batch else VIEWS:
            outcomes = rerun(source, recipes_of(options), WAYS[way], view, options.copies)
            for kind, done in outcomes.items():
                report(way + kind, view, done)
    with tempfile.TemporaryDirectory() as folder:
        banks = Banks(options.run, options.banks or Path(folder), max([0, *options.copies]))
        for copies, view, generator in product(options.copies, VIEWS, options.generators):
            recipes = recipes_of(options, view=view, generator=generator)
            name = f"bank, A = {copies}" + (f", {generator}" if generator != "none" else "")
            data = banks.view(copies, view)
            report(name, view, [o for g in groups(recipes, data) for o in timed(g, data)])


def recipes_of(options: argparse.Namespace, **settings: str) -> list[Recipe]:
    """Every recipe with every seed."""
    settings = {"view": "instance", **settings}
    return [Recipe(n, seed=seed, **settings) for n in options.recipes for seed in options.seeds]


def report(way: str, view: str, done: Sequence[Outcome]) -> None:
    """Print a line for every recipe: means and deviations over seeds."""
    for name in dict.fromkeys(outcome.recipe.name for outcome in done):
        same = [outcome for outcome in done if outcome.recipe.name == name]
        metrics = [outcome.evaluations["test", "last"].metrics for outcome in same]
        top1, ece = (np.array([float(m[key] or 0) for m in metrics]) for key in ("top1", "ece"))
        seconds = np.mean([outcome.seconds for outcome in same])
        print(
            f"{name:<10}  {way:<23}  {view:<8}  {_spread(top1)}  {_spread(ece)}  {seconds:8.1f}",
            flush=True,
        )


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():5.2f} ± {values.std(ddof=len(values) > 1):4.2f}"


def groups(recipes: Sequence[Recipe], view: ViewData) -> list[FusedGroup]:
    """Recipes by batch stream."""
    shape = Shape.of(view.counts.astype(int), view.train.dim)
    return plan(recipes, shape, memory=MEMORY)


def timed(group: FusedGroup, view: ViewData) -> list[Outcome]:
    """Train a group; each outcome has the seconds of all."""
    started = time.perf_counter()
    outcomes = run_group(group, view)
    seconds = time.perf_counter() - started
    return [replace(outcome, seconds=seconds) for outcome in outcomes]


class Banks:
    """Banks of plain images and of augmented copies, extracted where they are not there yet."""

    def __init__(self, run: Path, folder: Path, most: int) -> None:
        self.run, self.folder, self.most = run, folder, most

    def view(self, copies: int, name: str) -> ViewData:
        """A view of so many augmented copies; 0 for plain images."""
        stored = self.most if copies else 0
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{stored}.h5"
        if not path.exists():
            extract(self.run, path, augmentations=stored)
        with Bank(path) as bank:
            data = load_view(bank, name)
        assert isinstance(data.train, MemoryRows)
        rows = len(data.train.labels) // data.train.copies * max(1, copies)
        first = MemoryRows(data.train.x[:rows], data.train.labels[:rows], copies=max(1, copies))
        return replace(data, train=first)


@dataclass(frozen=True)
class Source:
    """A run's images and backbone."""

    checkpoint: Any
    dataset: ImageDataset

    @staticmethod
    def open(run: Path) -> Source:
        """Load both."""
        origin = Trained.open(run, None)
        return Source(origin.checkpoint, load_dataset(origin.dataset))

    def backbone(self, view: str) -> Backbone:
        """The backbone, for ``balanced`` with the statistics of `featbank extract`."""
        model, train = self.checkpoint.model(), self.dataset.splits["train"]
        if view != "balanced":
            return model
        batches = default_batches(len(train.labels))
        preprocessing = self.checkpoint.preprocessing
        return rebalanced(model, train, preprocessing=preprocessing, batches=batches, seed=0)


def rerun(
    source: Source, recipes: Sequence[Recipe], way: Way, view: str, copies: Sequence[int]
) -> dict[str, list[Outcome]]:
    """Train recipes without a bank; where batches normalise, also on the features as copies."""
    counts = source.dataset.train_counts
    outcomes: dict[str, list[Outcome]] = {"": []}

    def fresh() -> ViewData:
        backbone = source.backbone(view)
        weight, bias = backbone.linear_classifiers()[0]
        rows = {
            name: BackboneRows(backbone, split, source.checkpoint.preprocessing, way)
            for name, split in source.dataset.splits.items()
        }
        return ViewData(
            train=rows["train"],
            evaluated={"test": rows["test"]},
            counts=counts.astype(np.float64),
            full_counts=counts,
            weight0=weight,
            bias0=bias,
        )

    for group in groups(recipes, fresh()):
        data = fresh()
        outcomes[""] += timed(group, data)
        assert isinstance(data.train, BackboneRows)
        for most in filter(None, copies if way.by_batch else ()):
            banked = replace(data, train=data.train.as_copies(most))
            outcomes.setdefault(f", first {most}", []).extend(timed(group, banked))
    return outcomes


class BackboneRows(SplitRows):
    """Rows of a split whose features are computed whenever they are asked for."""

    copies = 1

    def __init__(
        self, backbone: Backbone, split: Split, preprocessing: Preprocessing, way: Way
    ) -> None:
        self.backbone, self.split, self.preprocessing = backbone, split, preprocessing
        self.labels, self.dim, self.way = split.labels, backbone.dim, way
        self.made: list[tuple[Tensor, Tensor]] = []

    def as_copies(self, most: int) -> MemoryRows:
        """The features made so far as copies: of each row its first draws, over again if fewer."""
        drawn, x = map(torch.cat, zip(*self.made, strict=True))
        order, counts = drawn.argsort(stable=True), drawn.bincount(minlength=len(self.labels))
        copy = torch.arange(most)[:, None] % counts.clamp(max=most).clamp(min=1)
        place = (counts.cumsum(0) - counts + copy).clamp(max=len(order) - 1)
        labels = self.labels.repeat(most)
        return MemoryRows(x[order[place.flatten()]], labels, copies=most)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order: plain images, in eval mode."""
        rows = torch.arange(len(self.labels)).split(BATCH)
        for batch, images in zip(rows, self._images(rows), strict=True):
            yield self._features(normalise(images, self.preprocessing)), self.labels[batch]

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """A window for every batch."""
        self.backbone.train(self.way.by_batch)
        for rows, images in zip(draws, self._images(draws.unbind()), strict=True):
            if self.way.augments:
                (x,) = augmented(images, self.preprocessing, generator=generator)
            else:
                x = normalise(images, self.preprocessing)
            features = self._features(x)
            self.made.append((rows, features))
            yield Window(features, torch.arange(len(rows))[None], self.labels[rows][None])
        self.backbone.eval()

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        return self.backbone.branch_features(images)[0]

    def _images(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        return batches_of(self.split.images, rows, torch.device("cpu"))


if __name__ == "__main__":
    main()
