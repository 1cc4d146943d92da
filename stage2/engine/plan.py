"""The planner: recipes that can share their batches become fused groups, cut into tiles.

A **group** shares one batch stream: view, sampler, batch size, epochs, steps and seed. Its recipes
see the same rows in the same order. A **tile** is the part of a group that trains in one set of
tensors: one head, one optimiser, as many configurations as fit the cache (CPU) or memory (GPU).
How a sweep is cut changes its speed, not its results.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from featbank import errors
from stage2.methods.recipe import Recipe

CACHE_BYTES = 12 << 20
"""Working set of a tile on a CPU, about one core's share of the last-level cache: logits and
gradient of a step, parameters and their velocity. Smaller tiles lose to the cost of calling
operations, which two threads of one interpreter also queue for."""

GROUP_CONFIGS = 64
"""Configurations of a group on a CPU: results are stored group by group, so this bounds what a
killed sweep loses."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a view: N training rows, D features, K classes."""

    rows: int
    dim: int
    classes: int


@dataclass(frozen=True)
class Stream:
    """What the recipes of a group have in common; enough to draw their batches.

    Attributes
    ----------
    view
        Which features.
    sampler, sampler_settings
        None for a group with nothing to train.
    epochs, steps, batch_size, seed
        Shape and seed of the index stream.
    """

    view: str
    sampler: str | None = None
    sampler_settings: tuple[tuple[str, Any], ...] = ()
    epochs: int = 0
    steps: int = 0
    batch_size: int = 0
    seed: int = 0

    @staticmethod
    def of(recipe: Recipe, shape: Shape) -> Stream:
        """The stream of a recipe on a bank of this shape."""
        s = recipe.settings
        if not recipe.trained:
            return Stream(s["view"])
        batch_size = min(s["batch_size"], shape.rows)
        return Stream(
            view=s["view"],
            sampler=s["sampler"],
            sampler_settings=tuple(sorted(recipe.part("sampler").items())),
            epochs=s["epochs"],
            steps=s["steps_per_epoch"] or max(1, shape.rows // batch_size),
            batch_size=batch_size,
            seed=s["seed"],
        )


@dataclass(frozen=True)
class Tile:
    """Recipes that train in one set of stacked tensors: one head, one optimiser."""

    recipes: tuple[Recipe, ...]

    @property
    def head(self) -> str:
        """The head they share."""
        return self.recipes[0].head


@dataclass(frozen=True)
class Group:
    """Tiles that see the same batches."""

    stream: Stream
    tiles: tuple[Tile, ...]

    @property
    def recipes(self) -> list[Recipe]:
        """All recipes of the group."""
        return [recipe for tile in self.tiles for recipe in tile.recipes]


def plan(
    recipes: Iterable[Recipe],
    shape: Shape,
    *,
    memory: int,
    device: str = "cpu",
    workers: int = 1,
) -> list[Group]:
    """Cut a sweep into fused groups and tiles.

    Parameters
    ----------
    recipes
        The sweep; duplicates are dropped.
    shape
        Sizes of the bank.
    memory
        Bytes that parameters, logits and optimiser state of one group may take.
    device
        ``cpu`` or ``cuda``.
    workers
        Tiles that run side by side on a CPU; a group has at least so many where it can.

    Raises
    ------
    ConfigError
        Where not even one configuration fits.
    """
    streams: dict[Stream, list[Recipe]] = {}
    for recipe in dict.fromkeys(recipes):
        streams.setdefault(Stream.of(recipe, shape), []).append(recipe)
    groups = []
    for stream, members in streams.items():
        each = _bytes_per_config(stream, shape)
        fits = memory // each
        if fits < 1:
            raise errors.ConfigError(
                f"One configuration needs {each >> 20} MiB, the memory budget is {memory >> 20} "
                "MiB. Raise --memory or lower the batch size."
            )
        limit = int(fits if device == "cuda" else min(fits, GROUP_CONFIGS))
        tile = limit if device == "cuda" else max(1, CACHE_BYTES // each)
        for part in _pieces(members, limit):
            kinds: dict[tuple[Any, ...], list[Recipe]] = {}
            for recipe in part:
                key = (recipe.head, recipe.settings.get("optimiser"))
                kinds.setdefault(key, []).append(recipe)
            tiles = [
                Tile(tuple(piece))
                for same in kinds.values()
                for piece in _pieces(same, tile, at_least=workers)
            ]
            groups.append(Group(stream, tuple(tiles)))
    return groups


def default_memory(device: str) -> int:
    """Half of this machine's memory, or four fifths of what is free on the GPU, in bytes."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] * 4 // 5
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _bytes_per_config(stream: Stream, shape: Shape) -> int:
    """Logits and their gradient for a batch; weights, velocity, gradient and best epoch."""
    return 4 * shape.classes * (2 * stream.batch_size + 4 * shape.dim)


def _pieces(items: Sequence[Recipe], limit: int, *, at_least: int = 1) -> list[Sequence[Recipe]]:
    """`items` in equal pieces of at most `limit`, their number a multiple of `at_least`."""
    rounds = -(-len(items) // (limit * at_least))
    count = min(len(items), rounds * at_least)
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]
