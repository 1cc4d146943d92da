"""The planner: recipes that can share their batches become fused groups, cut into tiles.

A **group** shares one batch stream: views, their scale and classifier, sampler, generator, batch
size, epochs, steps and seed. Its recipes see the same rows in the same order. A **tile** is the
part of a group that trains in one set of tensors: one head, one optimiser, one kernel, as many
configurations as fit the cache (CPU) or the memory (GPU). How a sweep is cut changes its speed, not
its results.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from featbank import errors
from featbank.memory import size_text, whole_memory
from stage2.methods.heads import HEADS, Size, TokenHead
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import STEPPED
from stage2.methods.recipe import Recipe

T = TypeVar("T")

CACHE_BYTES = 14 << 20
"""Working set of a tile on a CPU, about one core's share of the last-level cache: logits and
gradient of a step, parameters and their velocity. Smaller tiles lose time to the overhead of
calling operations, during which they also hold the interpreter's lock."""

HELD = {"cpu": 2.0, "cuda": 1.25}
"""Memory of a configuration as a multiple of what it allocates in a step, for other temporaries and
fragmentation. Measured with D = 2,048 and K = 1,000 on a CPU: 1.3 for `linear`, 1.2 for `cosine`,
1.9 for `mlp`. What is allocated on a GPU, without fragmentation, is 0.39 (`cosine` in tf32) to 1.17
(`mislas` where its steps are not fused) times what `_allocated` says."""

LOGITS = {
    "family": 2,
    "softmax_bce": 4,
    "sigmoid_focal": 5,
    "dot_regression": 2,
    "lade": 5,
    "clouded": 3,
}
"""Numbers per logit that a kernel holds at once."""

DISTILLED_LOGITS = 5
"""The same where all configurations also learn from stage 1."""

MOST_STEPS = 20_000_000
"""Steps of one run at most: the learning rate of each is held in memory."""

UNTOLD_MEMORY = 8 << 30
"""Bytes of memory assumed where the system does not report them."""

GROUP_CONFIGS = 128
"""Configurations of a group on a CPU at most: results are stored group by group, so this bounds the
work that a killed sweep loses."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a view: N training rows, D features, K classes; the rows there are once every class
    is filled up to the largest; and T where the D numbers are those of T tokens."""

    rows: int
    dim: int
    classes: int
    filled: int = 0
    tokens: int = 1

    @staticmethod
    def of(counts: np.ndarray, dim: int, tokens: int = 1) -> Shape:
        """The shape of a training split with these class counts [K]."""
        filled = np.count_nonzero(counts) * counts.max(initial=0)
        return Shape(int(counts.sum()), dim, len(counts), int(filled), tokens)

    def size(self, recipe: Recipe) -> Size:
        """Memory of one configuration of a recipe's head."""
        head, settings = HEADS[recipe.head], recipe.part("head")
        if isinstance(head, TokenHead):
            return head.size(settings, self.dim, self.classes, self.tokens)
        return head.size(settings, self.dim, self.classes)


class TileKey(NamedTuple):
    """Settings that the recipes of a tile have in common, besides their group's batch stream."""

    head: str
    shared: tuple[Any, ...]
    optimiser: str | None
    kernel: str | None
    precision: str
    calibration: str
    average: str | None
    shares: tuple[float, ...] | None

    @staticmethod
    def of(recipe: Recipe) -> TileKey:
        """The key of a recipe."""
        s = recipe.settings
        return TileKey(
            s["head"],
            tuple(recipe.part("head")[name] for name in HEADS[s["head"]].shared),
            s.get("optimiser"),
            LOSSES[s["loss"]].kernel if recipe.trained else None,
            s.get("precision", "fp32"),
            s["calibration"],
            s.get("average"),
            recipe.shares,
        )


@dataclass(frozen=True)
class BatchStream:
    """Settings that the recipes of a group have in common: enough to draw their batches.

    Attributes
    ----------
    views
        Views of the bank; several for recipes that average a head on each.
    train_on
        The split they are trained on.
    feature_scale
        How their features are scaled; None leaves it to the bank.
    cosine_scale
        s of the cosine classifier they take as stage 1's; None for the one of the bank.
    from_text
        Whether the classifier that they start from is that of text.
    sampler, sampler_settings
        None for a group with nothing to train.
    generator, generator_settings
        None where no features are generated; the settings are those that affect the draws.
    epochs, steps, batch_size, seed
        Shape and seed of the index stream; 0 epochs where nothing is trained in steps.
    """

    views: tuple[str, ...]
    train_on: str = "train"
    feature_scale: str | None = None
    cosine_scale: float | None = None
    from_text: bool = False
    sampler: str | None = None
    sampler_settings: tuple[tuple[str, Any], ...] = ()
    generator: str | None = None
    generator_settings: tuple[tuple[str, Any], ...] = ()
    epochs: int = 0
    steps: int = 0
    batch_size: int = 0
    seed: int = 0

    @staticmethod
    def of(recipe: Recipe, shape: Shape) -> BatchStream:
        """The stream of a recipe on a training split of this shape."""
        s = recipe.settings
        features = BatchStream(
            recipe.views,
            s["train_on"],
            recipe.feature_scale,
            recipe.cosine_scale,
            recipe.starts_from_text,
        )
        if not recipe.trained:
            return features
        settings = tuple(sorted(recipe.part("sampler").items()))
        if not recipe.stepped:
            return replace(features, sampler=s["sampler"], sampler_settings=settings)
        rows, made = shape.rows, {}
        if generator := recipe.generator:
            rows = max(rows, shape.filled) if generator.fills else rows
            settings_of = recipe.part("generator").items()
            made = {name: value for name, value in settings_of if name not in generator.own}
        batch_size = min(s["batch_size"], rows)
        return replace(
            features,
            sampler=s["sampler"],
            sampler_settings=settings,
            generator=s["generator"] if generator else None,
            generator_settings=tuple(sorted(made.items())),
            epochs=s["epochs"],
            steps=s["steps_per_epoch"] or max(1, rows // batch_size),
            batch_size=batch_size,
            seed=s["seed"],
        )


@dataclass(frozen=True)
class Tile:
    """Recipes of one key, which train in one set of stacked tensors."""

    recipes: tuple[Recipe, ...]

    @property
    def key(self) -> TileKey:
        """The settings they share."""
        return TileKey.of(self.recipes[0])


@dataclass(frozen=True)
class FusedGroup:
    """Tiles that see the same batches.

    Attributes
    ----------
    stream
        Their batch stream on all training rows.
    tiles
        The tiles.
    folds
        Their batch stream on the rows of each fold, where they are trained on folds instead.
    """

    stream: BatchStream
    tiles: tuple[Tile, ...]
    folds: tuple[BatchStream, ...] = ()

    @property
    def recipes(self) -> list[Recipe]:
        """All recipes of the group."""
        return [recipe for tile in self.tiles for recipe in tile.recipes]

    def without(self, hashes: Collection[str]) -> FusedGroup:
        """The group without the recipes with these hashes, of which some are left."""
        if not hashes:
            return self
        kept = ([r for r in tile.recipes if r.hash not in hashes] for tile in self.tiles)
        return replace(self, tiles=tuple(Tile(tuple(recipes)) for recipes in kept if recipes))

    def each_fold(self) -> list[FusedGroup]:
        """A group for each fold, which trains on what the fold trains on."""
        return [FusedGroup(stream, self.tiles) for stream in self.folds]

    def halves(self) -> list[FusedGroup]:
        """Two groups, each with half of every tile; a group of one recipe stays whole."""
        if len(self.recipes) == 1:
            return [self]
        first, second = [], []
        for number, tile in enumerate(self.tiles):
            middle = (len(tile.recipes) + number % 2) // 2  # the odd one goes to each in turn
            first.append(Tile(tile.recipes[:middle]))
            second.append(Tile(tile.recipes[middle:]))
        halves = ([tile for tile in half if tile.recipes] for half in (first, second))
        return [replace(self, tiles=tuple(half)) for half in halves]


def plan(
    recipes: Iterable[Recipe],
    shape: Shape,
    *,
    memory: int,
    whole: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    folds: Sequence[Shape] = (),
) -> list[FusedGroup]:
    """Cut a sweep into fused groups and tiles.

    Parameters
    ----------
    recipes
        The sweep; duplicates are dropped.
    shape
        Sizes of the split they are trained on.
    memory
        Bytes that parameters, logits and optimiser state of one group may take.
    whole
        The user's budget, of which `memory` is a part; error messages quote it.
    device
        ``cpu`` or ``cuda``.
    workers
        Tiles that run side by side on a CPU; a group gets at least that many if it has the recipes.
    folds
        Sizes of what each fold trains on, where groups are trained on folds. Recipes of one group
        share the stream of every fold.

    Raises
    ------
    ConfigError
        Where not even one configuration fits, or has more than `MOST_STEPS`.
    """
    streams: dict[tuple[BatchStream, ...], list[Recipe]] = {}
    for recipe in dict.fromkeys(recipes):
        shared = tuple(BatchStream.of(recipe, each) for each in (shape, *folds))
        streams.setdefault(shared, []).append(recipe)
    groups = []
    for (stream, *of_folds), members in streams.items():
        _check_steps(stream, members[0])
        size = max(_working_set(recipe, stream, shape) for recipe in members)
        needed = max(_held(recipe, stream, shape, device) for recipe in members)
        fits = memory // needed
        if fits < 1:
            halved = "" if whole is None else f", {_share(whole - memory, whole)} for features"
            raise errors.ConfigError(
                f"One configuration needs {size_text(needed)}, the memory budget is "
                f"{size_text(whole or memory)}{halved}. Raise --memory or lower the batch size."
            )
        limit = int(fits if device == "cuda" else min(fits, GROUP_CONFIGS))
        tile = limit if device == "cuda" else max(1, CACHE_BYTES // size)
        for part in _pieces(members, limit):
            by_key: dict[TileKey, list[Recipe]] = {}
            for recipe in part:
                by_key.setdefault(TileKey.of(recipe), []).append(recipe)
            tiles = [
                Tile(tuple(piece))
                for same in by_key.values()
                for piece in _pieces(same, tile, at_least=workers)
            ]
            groups.append(FusedGroup(stream, tuple(tiles), tuple(of_folds)))
    return groups


def _share(part: int, whole: int) -> str:
    """A part of a budget in words."""
    return "half of it" if part in (whole // 2, whole - whole // 2) else f"{size_text(part)} of it"


def _check_steps(stream: BatchStream, recipe: Recipe) -> None:
    if stream.epochs * stream.steps > MOST_STEPS:
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} has {stream.epochs:,} epochs of {stream.steps:,} steps, at "
            f"most {MOST_STEPS:,} steps are trained. Lower epochs, or raise batch_size."
        )


def default_memory(device: torch.device | str) -> int:
    """Half of the machine's memory, or four fifths of what is free on a GPU, in bytes.

    What PyTorch keeps of the GPU's memory for later tensors is free as well.
    """
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) * 4 // 5
    return (whole_memory() or UNTOLD_MEMORY) // 2


def group_bytes(group: FusedGroup, shape: Shape, device: str = "cpu") -> int:
    """Upper bound of the bytes that a group holds besides its features, on ``cpu`` or ``cuda``."""
    recipes = group.recipes
    sizes = shape.dim, shape.classes, shape.rows
    once = (HEADS[r.head].once(r.part("head"), *sizes) for r in recipes)
    return max(once) + sum(_held(recipe, group.stream, shape, device) for recipe in recipes)


def _held(recipe: Recipe, stream: BatchStream, shape: Shape, device: str) -> int:
    """Bytes of memory of one configuration."""
    return int(HELD[device] * _allocated(recipe, stream, shape))


def _allocated(recipe: Recipe, stream: BatchStream, shape: Shape) -> int:
    """Bytes that one configuration allocates at the most in a step: with the loss, while there is
    no gradient of the parameters yet, or with the update."""
    size = _working_set(recipe, stream, shape)
    if not recipe.stepped:
        return size
    loss = LOSSES[recipe.settings["loss"]]
    copies = DISTILLED_LOGITS if loss.needs_classifier else LOGITS[loss.kernel]
    labels = 2 if recipe.generator and recipe.generator.mixes else 1
    logits = stream.batch_size * labels * shape.classes
    parameters = shape.size(recipe).parameters * len(stream.views)
    size += 4 * parameters * (STEPPED[recipe.settings["optimiser"]].moments - 1)
    return max(size, size + 4 * ((copies - LOGITS["family"]) * logits - parameters))


def _working_set(recipe: Recipe, stream: BatchStream, shape: Shape) -> int:
    """Bytes that one configuration works on in a step."""
    size = shape.size(recipe)
    numbers = len(stream.views) * size.parameters
    if recipe.trained and not recipe.stepped:  # float64: curvature pairs, points, gradients
        return 8 * numbers * (2 * recipe.settings["history"] + 8)
    per_row = size.per_row
    if generator := recipe.generator:
        # Rows with two labels pass through the loss twice. With β a configuration has features of
        # its own, the base and direction they are made of, and the stage-1 logits of these.
        with_beta = 3 * shape.dim + shape.classes
        per_row += size.per_row * generator.mixes + with_beta * bool(generator.own)
    # The rows of a batch; and four copies of the parameters: these, velocity, gradient, best.
    return 4 * (stream.batch_size * per_row + 4 * numbers)


def _pieces(items: Sequence[Recipe], limit: int, *, at_least: int = 1) -> list[Sequence[Recipe]]:
    """`items` in equal pieces of at most `limit`, their number a multiple of `at_least`."""
    rounds = -(-len(items) // (limit * at_least))
    return pieces(items, rounds * at_least)


def pieces(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """`items` in `count` equal pieces, none of them empty."""
    count = min(len(items), count)
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]
