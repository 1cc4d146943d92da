"""A small long-tailed problem with everything a recipe may need, in memory or as a bank file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featbank import Bank, write_bank
from stage2.engine import loop
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup, Shape, plan
from stage2.engine.rows import MemoryRows
from stage2.methods import samplers
from stage2.methods.heads import TextClassifier
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import PUBLISHED_NORM

COUNTS = (70, 36, 20, 12, 8, 4)
MEMORY = 1 << 30
TEXT_SCALE = 20.0


class _Views(dict[tuple[str, str], np.ndarray]):
    """Features by split and view; the tokens of a view side by side are the view."""

    def __missing__(self, key: tuple[str, str]) -> np.ndarray:
        split, view = key
        if not view.endswith(":tokens"):
            raise KeyError(key)
        return self[split, view.removesuffix(":tokens")]


@dataclass(frozen=True)
class Problem:
    """Arrays of a bank: ``x[split, view]`` [N, D] float32, ``y[split]``, ``w0`` [K, D], ``b0``; and
    T where the rows are tokens."""

    x: dict[tuple[str, str], np.ndarray]
    y: dict[str, np.ndarray]
    w0: np.ndarray
    b0: np.ndarray
    tokens: int | None = None

    @property
    def text(self) -> np.ndarray:
        """A classifier of text embeddings [K, D] float32, near W₀."""
        near = self.w0 + np.roll(self.w0, 1, axis=1) / 2
        length = np.linalg.norm(near, axis=1, keepdims=True)
        return TEXT_SCALE / PUBLISHED_NORM * near / length

    @property
    def counts(self) -> np.ndarray:
        """Training counts [K]."""
        return np.bincount(self.y["train"], minlength=len(self.w0))

    def view(self, view: str = "instance") -> ViewData:
        """The view as the engine takes it."""
        rows = {
            split: MemoryRows(torch.from_numpy(self.x[split, view]), torch.from_numpy(y))
            for split, y in self.y.items()
        }
        return ViewData(
            train=rows.pop("train"),
            evaluated=rows,
            counts=self.counts.astype(np.float64),
            full_counts=self.counts,
            weight0=torch.from_numpy(self.w0),
            bias0=torch.from_numpy(self.b0),
            tokens=self.tokens,
            text=TextClassifier(torch.from_numpy(self.text), TEXT_SCALE),
        )

    def double(self, view: str = "instance") -> dict[str, torch.Tensor]:
        """What the reference trains on, in float64."""
        return {
            "x": torch.from_numpy(self.x["train", view]).double(),
            "y": torch.from_numpy(self.y["train"]),
            "n": torch.from_numpy(self.counts).double(),
            "w0": torch.from_numpy(self.w0).double(),
            "b0": torch.from_numpy(self.b0).double(),
        }

    @property
    def shape(self) -> Shape:
        """N, D, K, T."""
        return Shape.of(self.counts, self.w0.shape[1], self.tokens or 1)

    def bank(self, path: Path, *, text: bool = True) -> Bank:
        """The problem as a bank file, opened, with `text` of its classes or without."""
        features: dict[str, dict[str, np.ndarray]] = {}
        for (split, view), rows in self.x.items():
            features.setdefault(split, {})[view] = rows
        write_bank(
            path,
            features,
            self.y,
            class_names=[f"class {k}" for k in range(len(self.w0))],
            classifier={"instance": (self.w0, self.b0)},
            text={"instance": (self.text[None], TEXT_SCALE)} if text else None,
        )
        return Bank(path)


def problem(
    counts: Sequence[int] = COUNTS,
    *,
    dim: int = 8,
    val: int = 7,
    test: int = 10,
    seed: int = 0,
    spread: float = 1.0,
) -> Problem:
    """Gaussian classes; `val` and `test` rows per class, no val split for 0."""
    rng = np.random.default_rng(seed)
    classes = len(counts)
    means = rng.normal(0, 1, (classes, dim))
    y = {"train": np.repeat(np.arange(classes), counts)}
    y |= {s: np.repeat(np.arange(classes), n) for s, n in (("val", val), ("test", test)) if n}
    x = _Views()
    for split, labels in y.items():
        rng.shuffle(labels)
        clean = means[labels] + rng.normal(0, spread, (len(labels), dim))
        x[split, "instance"] = clean.astype(np.float32)
        x[split, "balanced"] = (1.1 * clean + 0.1).astype(np.float32)
    w0 = (0.6 * means + rng.normal(0, 0.2, means.shape)).astype(np.float32)
    b0 = (0.3 * np.log(np.maximum(counts, 1)) + rng.normal(0, 0.1, classes)).astype(np.float32)
    return Problem(x, y, w0, b0)


def group_stream(*arguments: Any, **options: Any) -> torch.Tensor:
    """A group's whole index stream, [epochs, steps, B]."""
    return torch.stack(list(loop.group_stream(*arguments, **options)))


def index_stream(*arguments: Any, **options: Any) -> torch.Tensor:
    """A sampler's whole index stream, [epochs, steps, B]."""
    return torch.stack(list(samplers.index_stream(*arguments, **options)))


def groups_of(recipes: Sequence[Recipe], made: Problem, **options: Any) -> list[FusedGroup]:
    """The plan of a sweep over the problem."""
    return plan(recipes, made.shape, **{"memory": MEMORY, **options})


def run(
    recipes: Sequence[Recipe], made: Problem, *, workers: int = 1, **options: Any
) -> dict[Recipe, Outcome]:
    """Plan and train; outcomes by recipe."""
    outcomes: dict[Recipe, Outcome] = {}
    for group in groups_of(recipes, made, workers=workers, **options):
        views = [made.view(view) for view in group.stream.views]
        outcomes |= {o.recipe: o for o in run_group(group, *views, workers=workers)}
    return outcomes
