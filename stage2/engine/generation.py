"""Generated features in training: an epoch is generated window by window, as it is drawn.

A window is a fixed number of bytes of features, whatever the memory budget and the tiles, and its
random numbers follow from the seed, the epoch and its place in the epoch: the same seed generates
the same features. All recipes of a group share the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from featbank import errors
from stage2.engine.model import ViewData
from stage2.engine.plan import BatchStream
from stage2.engine.rows import MemoryRows, SplitRows, Window
from stage2.methods.generators import GENERATORS, Features, Generation

WINDOW_BYTES = 128 << 20
"""Bytes of features generated at once on a CPU; eight times as many on a GPU, where a window has
costs that do not grow with its rows."""


def window_bytes(kind: str) -> int:
    """`WINDOW_BYTES` on ``cpu`` or ``cuda``."""
    return WINDOW_BYTES * (8 if kind == "cuda" else 1)


def generating(view: ViewData, stream: BatchStream) -> ViewData:
    """The view as the recipes of a stream see it.

    Where they generate features, its training rows are those of the generation, and all features
    are in the generation's space.

    Raises
    ------
    ConfigError
        Where the training features are not in memory.
    """
    if stream.generator is None:
        return view
    if not isinstance(view.train, MemoryRows):
        raise errors.ConfigError(
            f"Generator {stream.generator!r} needs the training features in memory, they are "
            "streamed. Raise --memory."
        )
    assert not view.train.packed, "generators take float32 features"
    generator, settings = GENERATORS[stream.generator], dict(stream.generator_settings)
    train = view.train
    features = Features(train.x, train.labels, train.copies, view.counts, view.facts)
    prepared = view.context.derived.setdefault("generation", {})
    key = (stream.generator, stream.generator_settings)
    if key not in prepared:
        prepared.clear()  # groups of one generator follow one another, whatever their seeds
        prepared[key] = generator.prepare(settings, features)
    generation = prepared[key]
    made = replace(view, train=GeneratedRows(view.train, generation), blended=generation.blended)
    if not generator.moves_features(settings):
        return made
    evaluated = {name: MovedRows(rows, generation) for name, rows in view.evaluated.items()}
    return replace(made, evaluated=evaluated, weight0=None, bias0=None)


class MovedRows(SplitRows):
    """The rows of a split, moved to the space of a generation."""

    def __init__(self, rows: SplitRows, generation: Generation) -> None:
        self.labels, self.copies, self.dim = rows.labels, rows.copies, rows.dim
        self._rows, self._generation = rows, generation

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows in order: features [n, D] and labels [n]."""
        for x, y in self._rows.blocks():
            yield self._generation.space(x), y

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The windows of the rows, moved."""
        for window in self._rows.windows(draws, generator, epoch, following):
            yield replace(window, x=self._generation.space(window.x))


class GeneratedRows(SplitRows):
    """The rows of a generation, generated when an epoch draws them."""

    def __init__(self, rows: MemoryRows, generation: Generation) -> None:
        self.generation = generation
        self.labels = generation.labels.repeat(rows.copies)
        self.copies, self.dim = rows.copies, rows.dim
        self._real = MovedRows(rows, generation)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training rows that are not generated, in the generation's space."""
        return self._real.blocks()

    def windows(
        self,
        draws: Tensor,
        generator: torch.Generator,
        epoch: int = 0,
        following: Tensor | None = None,
    ) -> Iterator[Window]:
        """The epoch as it was drawn, generated window by window."""
        seed = int(torch.randint(2**62, (), generator=generator))
        random = torch.Generator(self.device).manual_seed(seed)
        size = window_bytes(self.device.type)
        steps = max(1, size // (4 * self.dim * draws.shape[1]))
        for part in draws.to(self.device, non_blocking=True).split(steps):
            made = self.generation.make(part, epoch, random)
            yield Window(made.x, made.rows.view_as(part), made.y.view_as(part), made)
