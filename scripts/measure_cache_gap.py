"""What caching costs: stage 2 on a bank against stage 2 that runs the backbone at every step.

Question: how far are accuracy and ECE on a bank with A augmented copies from those of training the
papers' way, and which part of that way makes the difference?

    python scripts/measure_cache_gap.py RUN [--recipes crt lws mislas disalign los] [--seeds 0 1]
        [--copies 0 1 4 16]

RUN is a run of `featbank train`. The papers' code freezes the backbone and runs it at every step,
on augmented images and with BatchNorm in train mode: features are normalised by their batch, and
the running statistics that test images meet are those of the sampler's batches. Here the engine
itself trains on such features, computed window by window, so that draws, schedules and heads are
the same in all columns. Between the two stand their parts: fresh augmentation under the statistics
of stage 1, and BatchNorm in train mode on plain images.

``copies`` are those of the bank: 0 for plain images, A for A augmented ones, of which a sampler
draws one. Time is that of training and evaluation, extraction not included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featbank import Bank
from stage1 import extract
from stage1.augment import augmented, normalise
from stage1.backbones import Backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import Preprocessing, Split, batches_of
from stage1.extraction.subject import Trained
from stage2 import Recipe, sweep
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import Shape, plan
from stage2.engine.rows import SplitRows, Window

BATCH = 256
MEMORY = 1 << 31
WAYS = ("re-run", "augmentation", "batch statistics")


def main() -> None:
    """Print accuracy, ECE and seconds of every recipe: re-run, its parts, and on banks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["crt", "lws", "mislas", "disalign", "los"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--copies", nargs="+", type=int, default=[0, 1, 4, 16])
    options = parser.parse_args()
    recipes = [
        Recipe(name, view=view, seed=seed)
        for name in options.recipes
        for view in ("instance", "balanced")
        for seed in options.seeds
    ]
    print("recipe      way                view      top-1           ECE            seconds")
    rerun = Rerun(options.run)
    once = [recipe for recipe in recipes if recipe.settings["view"] == "instance"]
    for way in WAYS:
        report(way, [rerun.train(recipe, way) for recipe in once])
    for copies in options.copies:
        report(f"bank, A = {copies}", cached(options.run, recipes, copies))


def report(way: str, done: Sequence[tuple[Recipe, Outcome, float]]) -> None:
    """Print a line for every recipe and view: means over seeds, and ranges."""
    by_recipe: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for recipe, outcome, seconds in done:
        metrics = outcome.evaluations["test", "last"].metrics
        figures = float(metrics["top1"] or 0), float(metrics["ece"] or 0), seconds
        by_recipe.setdefault((recipe.name, recipe.settings["view"]), []).append(figures)
    for (name, view), figures in by_recipe.items():
        top1, ece, seconds = np.transpose(figures)
        print(
            f"{name:<10}  {way:<17}  {view:<8}  {_spread(top1)}  {_spread(ece)}"
            f"  {seconds.mean():8.1f}",
            flush=True,
        )


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():5.2f} ± {values.std(ddof=len(values) > 1):4.2f}"


def cached(
    run: Path, recipes: Sequence[Recipe], copies: int
) -> list[tuple[Recipe, Outcome, float]]:
    """Outcomes on a bank of so many augmented copies; 0 for plain images."""
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank.h5"
        extract(run, bank, augmentations=copies)
        with Bank(bank) as opened:
            outcomes = sweep(opened, recipes).outcomes
    return [(outcome.recipe, outcome, outcome.seconds) for outcome in outcomes]


class Rerun:
    """A run's images and backbone, on which recipes train without a bank."""

    def __init__(self, run: Path) -> None:
        origin = Trained.open(run, None)
        self.checkpoint, self.dataset = origin.checkpoint, load_dataset(origin.dataset)

    def train(self, recipe: Recipe, way: str) -> tuple[Recipe, Outcome, float]:
        """Train a recipe in one of `WAYS`; with its outcome and seconds."""
        backbone, counts = self.checkpoint.model(), self.dataset.train_counts
        weight, bias = backbone.linear_classifiers()[0]
        rows = {
            name: BackboneRows(backbone, split, self.checkpoint.preprocessing, way)
            for name, split in self.dataset.splits.items()
        }
        view = ViewData(
            train=rows["train"],
            evaluated={"test": rows["test"]},
            counts=counts.astype(np.float64),
            full_counts=counts,
            weight0=weight,
            bias0=bias,
        )
        (group,) = plan([recipe], Shape.of(counts, backbone.dim), memory=MEMORY)
        started = time.perf_counter()
        (outcome,) = run_group(group, view)
        return recipe, outcome, time.perf_counter() - started


class BackboneRows(SplitRows):
    """Rows of a split whose features are computed whenever they are asked for."""

    copies = 1

    def __init__(
        self, backbone: Backbone, split: Split, preprocessing: Preprocessing, way: str
    ) -> None:
        self.backbone, self.split, self.preprocessing = backbone, split, preprocessing
        self.labels, self.dim = split.labels, backbone.dim
        self.augments, self.trains = way != "batch statistics", way != "augmentation"

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order: plain images, in eval mode."""
        rows = torch.arange(len(self.labels)).split(BATCH)
        for batch, images in zip(rows, self._images(rows), strict=True):
            yield self._features(normalise(images, self.preprocessing)), self.labels[batch]

    def windows(
        self, draws: Tensor, generator: torch.Generator, epoch: int = 0
    ) -> Iterator[Window]:
        """A window for every batch."""
        self.backbone.train(self.trains)
        for rows, images in zip(draws, self._images(draws.unbind()), strict=True):
            if self.augments:
                (x,) = augmented(images, self.preprocessing, generator=generator)
            else:
                x = normalise(images, self.preprocessing)
            batch = torch.arange(len(rows))[None]
            yield Window(self._features(x), batch, self.labels[rows][None])
        self.backbone.eval()

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        return self.backbone.branch_features(images)[0]

    def _images(self, rows: Sequence[Tensor]) -> Iterator[Tensor]:
        return batches_of(self.split.images, rows, torch.device("cpu"))


if __name__ == "__main__":
    main()
