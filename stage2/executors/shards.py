"""Shards: parts of a sweep that are swept on their own, anywhere, and merged afterwards.

Every shard makes the same partition by itself. The plan behind it is that of a machine that nobody
has, with one thread and room for every group, so it depends on the recipes, the bank and the number
of shards alone. Its groups, cut at the borders of tiles where there are few, go to the shard with
the least work, the largest first.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featbank import errors
from featbank.bank import Bank
from featbank.settings import shortened
from stage2.engine.halving import Halving
from stage2.features.planning import plan_bank, work_on
from stage2.methods.recipe import MOST_RUNS, Recipe
from stage2.results.marks import Mark
from stage2.search.rounds import by_first_seed

_ROOM = 1 << 60
"""Memory budget of the plan behind a partition, in bytes."""


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, numbered from 1.

    Raises
    ------
    ConfigError
        For a number that is not one of 1 … count, or a count above `MOST_RUNS`.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= MOST_RUNS:
            raise errors.ConfigError(
                f"Shard {self} is not one of 1/{max(1, self.count)} … {max(1, self.count)}/"
                f"{max(1, self.count)}. Number shards from 1, of at most {MOST_RUNS:,}."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of a text such as ``2/8``."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match:
            raise errors.ConfigError(
                f"{shortened(text)} is no shard. Write the second of eight as --shard 2/8."
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, results: Path) -> Path:
        """The results file of the shard, beside those of the whole sweep.

        >>> Shard(2, 8).of(Path("results.sqlite")).name
        'results.shard-2-of-8.sqlite'
        """
        return results.with_name(
            f"{results.stem}.shard-{self.number}-of-{self.count}{results.suffix}"
        )


@dataclass(frozen=True)
class Part:
    """The part of a sweep on a bank that a shard trains.

    Attributes
    ----------
    recipes
        Its recipes, in the order of the sweep.
    elsewhere
        Hashes of the recipes of other shards.
    share
        Its share of the work, 0 … 1.
    mark
        Its mark in a results file; None for a whole sweep.
    """

    recipes: tuple[Recipe, ...]
    elsewhere: frozenset[str] = frozenset()
    share: float = 1.0
    mark: Mark | None = None


def part_of(
    bank: Bank,
    recipes: Sequence[Recipe],
    shard: Shard | None,
    *,
    halving: Halving | None = None,
    folds: int | None = None,
) -> Part:
    """The part of a shard, or of None, a whole sweep.

    Parameters
    ----------
    bank, recipes
        The sweep on a bank; the recipes with their views there (`stage2.features.experts`).
    shard
        The shard.
    halving
        Groups stay whole, as halving compares within one; all seeds of a configuration are where
        its first is.
    folds
        The number of folds that rank, of which every shard trains all.
    """
    if shard is None:
        return Part(tuple(recipes))
    first, others = by_first_seed(recipes) if halving else (list(recipes), [])
    groups = plan_bank(bank, first, memory=_ROOM, folds=folds, count=1 if halving else shard.count)
    work = work_on(bank)
    units = [(-work(group), sorted(recipe.hash for recipe in group.recipes)) for group in groups]
    start = int(bank.fingerprint[:8], 16)  # of several banks not all begin with the first shard
    shards = [(0.0, (number - start) % shard.count, number) for number in range(shard.count)]
    dealt: list[list[str]] = [[] for _ in shards]
    heapq.heapify(shards)
    for cost, hashes in sorted(units):
        load, order, number = heapq.heappop(shards)
        dealt[number] += hashes
        heapq.heappush(shards, (load - cost, order, number))
    loads = {number: load for load, _, number in shards}
    mine = set(dealt[shard.number - 1])
    ids = {recipe.id for recipe in first if recipe.hash in mine}
    mine |= {recipe.hash for recipe in others if recipe.id in ids}
    plan = _digest(bank, recipes, dealt, halving, folds)
    return Part(
        tuple(recipe for recipe in recipes if recipe.hash in mine),
        frozenset(recipe.hash for recipe in recipes if recipe.hash not in mine),
        loads[shard.number - 1] / (sum(loads.values()) or 1.0),
        Mark(bank.fingerprint, plan, shard.number, shard.count),
    )


def _digest(
    bank: Bank,
    recipes: Sequence[Recipe],
    dealt: Sequence[Sequence[str]],
    halving: Halving | None,
    folds: int | None,
) -> str:
    """The digest of a partition, 64 hex digits."""
    lines = [bank.fingerprint, repr(halving), repr(folds)]
    lines += sorted(recipe.hash for recipe in recipes)
    lines += [" ".join(sorted(hashes)) for hashes in dealt]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
