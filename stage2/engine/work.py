"""The work of a fused group in floating-point operations, and groups cut by it for many workers.

A *unit*, the tiles of a group that have one key, costs per configuration and row what its head
computes forward and backward, plus a fixed overhead per tile and step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from stage2.engine.plan import BatchStream, FusedGroup, Shape, Tile, TileKey
from stage2.methods.recipe import Recipe

ITERATIONS = 150
"""Iterations assumed of a full-batch optimiser, each a pass over the features or slightly more."""

CALL_FLOPS = 10**6
"""Fixed overhead of a tile's step, in floating-point operations that take as long."""


@dataclass(frozen=True)
class Unit:
    """The tiles of a group that have one key."""

    stream: BatchStream
    tiles: tuple[Tile, ...]

    @property
    def key(self) -> tuple[BatchStream, TileKey, int]:
        """Equal for units that cost the same per configuration and step."""
        shared = replace(self.stream, seed=0, epochs=min(1, self.stream.epochs), steps=0)
        return shared, self.tiles[0].key, len(self.tiles[0].recipes)

    @property
    def configs(self) -> int:
        """Number of configurations."""
        return sum(len(tile.recipes) for tile in self.tiles)

    @property
    def stepped(self) -> bool:
        """Whether it is trained in steps."""
        return self.stream.epochs > 0

    @property
    def recipe(self) -> Recipe:
        """The first recipe, which represents all."""
        return self.tiles[0].recipes[0]

    def work(self, shape: Shape, evaluated: int) -> float:
        """Floating-point operations, roughly, on a training split of this `shape` and `evaluated`
        rows of val and test."""
        size = shape.size(self.recipe)
        per_row = len(self.stream.views) * (4 * size.parameters + 30 * size.per_row)
        calls = len(self.tiles) * CALL_FLOPS
        if self.stepped:
            steps = self.stream.epochs * self.stream.steps
            return steps * (self.configs * self.stream.batch_size * per_row + calls)
        rows = ITERATIONS * shape.rows if self.recipe.trained else evaluated
        return self.configs * rows * per_row + calls


def units_of(group: FusedGroup) -> list[Unit]:
    """The units of a group."""
    by_key: dict[TileKey, list[Tile]] = {}
    for tile in group.tiles:
        by_key.setdefault(tile.key, []).append(tile)
    return [Unit(group.stream, tuple(tiles)) for tiles in by_key.values()]


def group_work(group: FusedGroup, shape: Shape, evaluated: int) -> float:
    """Floating-point operations of a group, on all its folds where it has some.

    Parameters
    ----------
    group
        The group.
    shape
        Sizes of the split that it is trained on.
    evaluated
        Rows of val and test.
    """
    streams = group.folds or (group.stream,)
    units = (unit for s in streams for unit in units_of(FusedGroup(s, group.tiles)))
    return sum(unit.work(shape, evaluated) for unit in units)


def spread(
    groups: Iterable[FusedGroup], count: int, work: Callable[[FusedGroup], float]
) -> list[FusedGroup]:
    """Cut groups so that none has much more than half of a worker's share of all work.

    Tiles stay whole, so that results do not change. Parts of a group stay adjacent.

    Parameters
    ----------
    groups
        The groups of a sweep.
    count
        Workers that train side by side; 1 leaves groups as they are.
    work
        The work of a group, in any unit.
    """
    groups = list(groups)
    if count < 2:
        return groups
    costs = [work(group) for group in groups]
    most = sum(costs) / (2 * count)
    return [
        part
        for group, cost in zip(groups, costs, strict=True)
        for part in _dealt(group, math.ceil(cost / most) if most else 1, work)
    ]


def _dealt(
    group: FusedGroup, count: int, work: Callable[[FusedGroup], float]
) -> Iterable[FusedGroup]:
    """A group in `count` parts of about the same work, or as many as it has tiles: the largest tile
    first, each to the part that has least."""
    count = min(count, len(group.tiles))
    if count < 2:
        return [group]
    costs = [work(replace(group, tiles=(tile,))) for tile in group.tiles]
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [0.0] * count
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        least = filled.index(min(filled))
        parts[least].append(place)
        filled[least] += costs[place]
    return [
        replace(group, tiles=tuple(group.tiles[place] for place in sorted(part))) for part in parts
    ]
