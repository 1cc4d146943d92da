"""The difference in accuracy of two configurations: on the same rows, or each on rows of its own.

`stage2.results.significance` has the test and the intervals, and their reasons. The test is of
pairs: it needs the same rows. Where A and B have rows of their own, as on two banks with other test
sets, the rows of each are resampled independently, and the interval is that of the difference of
two independent means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.bank import GROUPS, ClassGroups
from stage2.engine.metrics import METRICS
from stage2.results.significance import interval, mcnemar, paired_test, resampled
from stage2.results.tested import Tested

Correct = dict[int | None, np.ndarray]
"""Correctness of rows [N] bool by seed; under None for a recipe with one result for all seeds."""


@dataclass(frozen=True)
class Measure:
    """An accuracy of A and B in percent, their difference B − A in points, its interval, and the
    standard deviation of the difference over seeds (None for one)."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    std: float | None


@dataclass(frozen=True)
class SeedTest:
    """The test of one seed, of rows McNemar's: rows that only A, and only B, has right."""

    seed: int
    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class ClassDifference:
    """A class: training samples, rows of the split, accuracies in percent, B − A in points."""

    index: int
    name: str
    trained_on: int
    rows: int
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes
    ----------
    a, b
        Ids of the configurations.
    measures
        ``top1``, ``macro``, and of ``many``, ``medium``, ``few`` those that have rows.
    p
        p of the test over all seeds; None where A and B have other rows.
    p_holm
        Adjusted for the number of comparisons.
    seeds
        A test for each seed; none where A and B have other rows, or the split is in parts.
    classes
        Those with the largest differences, largest first.
    """

    a: str
    b: str
    measures: dict[str, Measure]
    p: float | None
    p_holm: float | None
    seeds: tuple[SeedTest, ...]
    classes: tuple[ClassDifference, ...]


@dataclass(frozen=True)
class MeasuredRows:
    """The rows of a split: labels [N], of the bank the training counts [K], names and groups of its
    classes, and as of `stage2.results.tested.Tested` the source groups, where they are the units,
    and the rows of each part of a split in parts."""

    labels: np.ndarray
    counts: np.ndarray
    names: Sequence[str]
    class_groups: ClassGroups
    groups: np.ndarray | None = None
    of_parts: np.ndarray | None = None

    @property
    def units(self) -> str:
        """The units, in words."""
        return "rows" if self.groups is None else f"{int(self.groups.max()) + 1:,} source groups"

    @property
    def rows(self) -> np.ndarray:
        """Rows of each class, [K]."""
        tested = Tested(self.labels, self.groups, self.of_parts)
        return tested.rows_of_classes(len(self.counts))

    def accuracy(self, right: np.ndarray) -> np.ndarray:
        """Accuracy of each class [seeds, K], 0 … 1, from the correctness of rows [seeds, N]."""
        hits = [np.bincount(self.labels, each, len(self.counts)) for each in right]
        return np.stack(hits) / np.maximum(self.rows, 1)

    def weights(self) -> dict[str, np.ndarray]:
        """Weights [K] of the classes' accuracies, Σ = 1, for each metric that is such a mean."""
        rows, groups = self.rows, self.class_groups.masks
        return {
            name: weights
            for name, metric in METRICS.items()
            if metric.weights and (weights := metric.weights(rows, groups)) is not None
        }


@dataclass(frozen=True)
class Resampling:
    """The bootstrap of an interval: its resamples, their random numbers, and the number of classes
    that are listed."""

    resamples: int
    random: np.random.Generator
    classes: int


def comparison_of(
    ids: tuple[str, str],
    correct: tuple[Correct, Correct],
    tested: tuple[MeasuredRows, MeasuredRows],
    how: Resampling,
    *,
    same_rows: bool = True,
) -> Comparison:
    """Compare B with A.

    Parameters
    ----------
    ids
        Of A and B.
    correct
        Their correctness by seed.
    tested
        The rows that each was tested on.
    how
        The bootstrap.
    same_rows
        Whether these are the same rows in the same order.

    Raises
    ------
    ConfigError
        Where they have no seed in common.
    """
    pairs = _pairs(ids, *correct)
    a, b = _stacked(pairs)
    measures = _measures((a, b), tested, how, same_rows=same_rows)
    accuracy = [each.accuracy(right) for each, right in zip(tested, (a, b), strict=True)]
    classes = _largest([100 * each.mean(0) for each in accuracy], tested, how.classes)
    if not same_rows:
        return Comparison(*ids, measures, None, None, (), classes)
    groups = tested[0].groups
    p = paired_test(b.sum(0, dtype=np.int64) - a.sum(0, dtype=np.int64), groups)
    seeds = _by_seed(pairs, groups) if tested[0].of_parts is None else ()
    return Comparison(*ids, measures, p, p, seeds, classes)


def gain_of(
    ids: tuple[str, str],
    correct: tuple[Correct, Correct],
    tested: MeasuredRows,
    how: Resampling,
    name: str,
) -> Measure:
    """The measure `name` of B against A on the same rows, as of `comparison_of`, without tests.

    Raises
    ------
    ConfigError
        Where they have no seed in common.
    """
    pair = _stacked(_pairs(ids, *correct))
    return _measures(pair, (tested, tested), how, only=(name,))[name]


def _stacked(pairs: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of A and of B, [seeds, N] each."""
    a, b = (np.stack([pair[side] for pair in pairs.values()]) for side in (0, 1))
    return a, b


def _measures(
    pair: tuple[np.ndarray, np.ndarray],
    tested: tuple[MeasuredRows, MeasuredRows],
    how: Resampling,
    *,
    same_rows: bool = True,
    only: Collection[str] = METRICS,
) -> dict[str, Measure]:
    """The measures of A and B by name, from their correctness [seeds, N] each."""
    weights = [each.weights() for each in tested]
    names = [name for name in weights[0] if name in weights[1] and name in only]
    members = [each.class_groups.member for each in tested]
    if not np.array_equal(members[0], members[1]):
        names = [name for name in names if name not in GROUPS]
    made_of = [np.stack([each[name] for name in names]) for each in weights]
    accuracy = [each.accuracy(right) for each, right in zip(tested, pair, strict=True)]
    hits = [right.sum(0, dtype=np.int64) for right in pair]
    if same_rows:
        drawn = _resampled(hits[1] - hits[0], tested[0], made_of[0], how)
    else:
        of_a, of_b = (
            _resampled(right, each, made, how)
            for right, each, made in zip(hits, tested, made_of, strict=True)
        )
        drawn = of_b - of_a
    low, high = interval(drawn) * 100 / len(pair[0])
    measures = {}
    for place, name in enumerate(names):
        of_a, of_b = (100 * acc @ made[place] for acc, made in zip(accuracy, made_of, strict=True))
        gained = of_b - of_a  # [seeds]
        measures[name] = Measure(
            a=float(of_a.mean()),
            b=float(of_b.mean()),
            difference=float(gained.mean()),
            low=float(low[place]),
            high=float(high[place]),
            std=float(gained.std(ddof=1)) if len(gained) > 1 else None,
        )
    return measures


def _resampled(
    values: np.ndarray, tested: MeasuredRows, weights: np.ndarray, how: Resampling
) -> np.ndarray:
    """Bootstrap distributions of values of the tested rows."""
    return resampled(
        values,
        tested.labels,
        weights,
        how.resamples,
        how.random,
        groups=tested.groups,
        rows=tested.of_parts,
    )


def _by_seed(
    pairs: dict[int, tuple[np.ndarray, np.ndarray]], groups: np.ndarray | None
) -> tuple[SeedTest, ...]:
    """The test of each seed."""
    tests = []
    for seed, (a, b) in pairs.items():
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        if groups is None:
            p = mcnemar(only_a, only_b)
        else:
            p = paired_test(b.astype(np.int64) - a, groups)
        tests.append(SeedTest(seed, only_a, only_b, p))
    return tuple(tests)


def _pairs(
    ids: tuple[str, str], a: Correct, b: Correct
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Correctness of A and B by common seed."""
    seeds = {seed for seed in (*a, *b) if seed is not None} or {0}
    pairs = {seed: (a.get(seed, a.get(None)), b.get(seed, b.get(None))) for seed in sorted(seeds)}
    common = {s: (x, y) for s, (x, y) in pairs.items() if x is not None and y is not None}
    if not common:
        has_a, has_b = (", ".join(map(str, by_seed)) for by_seed in (a, b))
        raise errors.ConfigError(
            f"No seed is common: {ids[0]} has {has_a} and {ids[1]} has {has_b}. Sweep both with "
            "the same seeds."
        )
    return common


def _largest(
    accuracy: Sequence[np.ndarray], tested: Sequence[MeasuredRows], most: int
) -> tuple[ClassDifference, ...]:
    """The classes that differ most, of accuracies [K] in percent of A and of B; where they have
    other rows, those with rows of both, described as in A's bank."""
    of_a, of_b = accuracy
    split, rows = tested[0], tested[0].rows
    gained = np.where((rows > 0) & (tested[1].rows > 0), of_b - of_a, 0.0)
    order = np.argsort(-np.abs(gained), kind="stable")
    return tuple(
        ClassDifference(
            index=int(k),
            name=split.names[k],
            trained_on=int(split.counts[k]),
            rows=int(rows[k]),
            a=float(of_a[k]),
            b=float(of_b[k]),
            difference=float(gained[k]),
        )
        for k in order[:most]
        if abs(gained[k]) > 1e-9
    )
