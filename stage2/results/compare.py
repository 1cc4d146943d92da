"""Configurations compared on the same rows of a split.

`stage2.results.significance` has the test and the intervals, and their reasons. Pairs are heads of
the same seed; a recipe with one result for all seeds is paired with each seed of the other.
Accuracies are means over the common seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import Bank, class_groups
from stage2.engine.metrics import METRICS
from stage2.results.configurations import Configuration
from stage2.results.leaderboard import Leaderboard, differences
from stage2.results.results import Results
from stage2.results.significance import LEVEL, holm, interval, mcnemar, resampled, sign_test
from stage2.results.store import Store


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
    """McNemar's exact test of one seed: rows that only A, and only B, has right."""

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
        p of the test over all seeds.
    p_holm
        Adjusted for the number of comparisons.
    seeds
        A test for each seed.
    classes
        Those with the largest differences, largest first.
    """

    a: str
    b: str
    measures: dict[str, Measure]
    p: float
    p_holm: float
    seeds: tuple[SeedTest, ...]
    classes: tuple[ClassDifference, ...]


@dataclass(frozen=True)
class Compared:
    """Comparisons of configurations with the first one.

    Attributes
    ----------
    comparisons
        One per further configuration.
    settings
        The settings in which each configuration differs from its preset, by id.
    chosen
        The reason why a configuration was taken for the name of a recipe, by id.
    protocol
        One line.
    """

    comparisons: tuple[Comparison, ...]
    settings: dict[str, str]
    chosen: dict[str, str]
    protocol: str


@dataclass(frozen=True)
class _Split:
    """Labels [N] of a split, and of the bank the training counts [K] and names of its classes."""

    labels: np.ndarray
    counts: np.ndarray
    names: Sequence[str]

    def weights(self) -> dict[str, np.ndarray]:
        """Weights [K] of the classes' accuracies, Σ = 1, for each metric that is such a mean."""
        rows = np.bincount(self.labels, minlength=len(self.counts))
        groups = class_groups(self.counts)
        return {
            name: weights
            for name, metric in METRICS.items()
            if metric.weights and (weights := metric.weights(rows, groups)) is not None
        }


def compare(
    results: Results,
    names: Sequence[str] = (),
    *,
    file: Path | None = None,
    epoch: str | None = None,
    resamples: int = 2_000,
    seed: int = 0,
    classes: int = 10,
) -> Compared:
    """Compare configurations with the first of them.

    Parameters
    ----------
    results
        The results, of the split whose rows are compared.
    names
        Ids, unique beginnings of ids, or names of recipes, which stand for their best configuration
        on the leaderboard. Without any, the best of every recipe; the first is the best of all.
    file
        The bank's file, for results written before schema 4, which have no labels.
    epoch
        ``last`` or ``selected``; by default the one that ranks, selected with val and last without.
    resamples, seed
        Number of bootstrap resamples, and the seed of the draw.
    classes
        Number of the classes that differ most to list.

    Raises
    ------
    ConfigError
        For names that mean none, several or the same configuration, unfinished ones, a split
        without results, no common seed, and a bank file that is missing or another bank's.
    """
    board, split = results.board, results.split
    chosen = [results.find(name) for name in names] if names else _best_of_each(results)
    _require_comparable(results, chosen, names or [each.id for each in chosen])
    epoch = epoch or board.terms.epoch
    rows = _split(results, file)
    first, *others = [_correct(results, configuration, epoch) for configuration in chosen]
    random = np.random.default_rng(seed)
    comparisons = []
    for configuration, correct in zip(chosen[1:], others, strict=True):
        ids = chosen[0].id, configuration.id
        pairs = _pairs(ids, first, correct)
        comparisons.append(
            _compared(ids, pairs, rows, random=random, resamples=resamples, most=classes)
        )
    adjusted = holm([each.p for each in comparisons])
    settings = {rows[0]["recipe"]: differences(rows[0]) for rows in board.configurations()}
    return Compared(
        tuple(replace(each, p_holm=p) for each, p in zip(comparisons, adjusted, strict=True)),
        {each.id: settings[each.id] for each in chosen},
        {each.id: _why(board, each.name) for each in chosen if not names or each.name in names},
        f"{board.protocol} · compared on {split}, {epoch} epoch"
        + (" · optimistic: selected there" if split == board.select_on == "test" else "")
        + f" · {LEVEL} % intervals: {resamples} bootstrap resamples of rows within classes, seed "
        f"{seed} · p: exact sign test of rows over all seeds (one seed: McNemar)"
        + (f", Holm over {len(comparisons)} comparisons" if len(comparisons) > 1 else ""),
    )


def bank_of(store: Store, bank: str | None) -> tuple[str | None, Path | None]:
    """Resolve a bank, given as a file or as the beginning of its fingerprint, to both.

    Raises
    ------
    ConfigError
        For the file of a bank without results.
    """
    if bank is None or not Path(bank).is_file():
        return bank, None
    with Bank(bank) as opened:
        fingerprint = opened.fingerprint
    if fingerprint not in store.banks():
        raise errors.ConfigError(
            f"{store.path} has no results on {bank}. Name the bank that was swept."
        )
    return fingerprint, Path(bank)


def _best_of_each(results: Results) -> list[Configuration]:
    """The best configuration of each recipe, best first, of those whose seeds are all done."""
    best = [results.configurations[row["recipe"]] for row in results.board.best().first_rows()]
    if left_out := [f"{each.id} ({each.unfinished})" for each in best if each.unfinished]:
        warnings.warn(f"Left out: {', '.join(left_out)}.")
    done = [each for each in best if not each.unfinished]
    return [each for each in done if each.measured_on(results.split)]


def _require_comparable(
    results: Results, chosen: Sequence[Configuration], names: Sequence[str]
) -> None:
    if len(chosen) < 2:
        raise errors.ConfigError(
            f"A comparison takes two configurations, got {', '.join(names) or 'none'}. "
            f"`featbank leaderboard {results.path}` lists the recipes."
        )
    taken: dict[str, str] = {}
    for name, configuration in zip(names, chosen, strict=True):
        if configuration.id in taken:
            raise errors.ConfigError(
                f"{taken[configuration.id]!r} and {name!r} are both {configuration.id}. "
                "Name two configurations."
            )
        taken[configuration.id] = name
        if configuration.unfinished:
            raise errors.ConfigError(
                f"{configuration.id} {configuration.unfinished}. Compare one whose seeds are all "
                "done."
            )
        if not configuration.measured_on(results.split):
            raise errors.ConfigError(
                f"{configuration.id} was not measured on {results.split}. Compare on "
                f"--split {results.select_on}, or sweep it without folds."
            )


def _why(board: Leaderboard, name: str) -> str:
    """The reason why a recipe's name stands for its configuration."""
    tried = len({row["recipe"] for row in board.rows if row["name"] == name})
    if tried == 1:
        return "its only configuration"
    return f"best of {tried} on {board.select_on}" if board.select_on else "as published"


def _split(results: Results, file: Path | None) -> _Split:
    """Read the split; its labels from the bank's file where the results lack them."""
    counts, names, fingerprint = results.counts, results.class_names, results.fingerprint
    labels = results.store.labels(fingerprint, results.split)
    if labels is not None:
        return _Split(labels, counts, names)
    stored = Path(results.about["path"])
    places = [file] if file else [stored, results.path.parent / stored.name]
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        raise errors.ConfigError(
            f"These results are of an older featbank: the labels are in bank {fingerprint[:12]}, "
            f"which is no longer at {stored}. Name its file with --bank."
        )
    with Bank(place) as bank:
        if bank.fingerprint != fingerprint:
            raise errors.ConfigError(
                f"{place} is now another bank than {fingerprint[:12]} of the results. "
                "Name the file of that bank with --bank."
            )
        return _Split(bank.labels(results.split), counts, names)


def _correct(
    results: Results, configuration: Configuration, epoch: str
) -> dict[int | None, np.ndarray]:
    """Correctness of the rows [N] bool by seed; under None for a recipe with one result for all
    seeds. Where no epoch was selected, the last one counts as that."""
    correct: dict[int | None, np.ndarray] = {}
    for run in configuration.runs:
        seed = run.seed if "epochs" in run.parameters else None  # a setting of those with steps
        split, at = results.split, run.measured_at(results.split, epoch)
        correct[seed] = results.store.correct(results.fingerprint, run.recipe, split, at)
    return correct


def _pairs(
    ids: tuple[str, str], a: dict[int | None, np.ndarray], b: dict[int | None, np.ndarray]
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


def _compared(
    ids: tuple[str, str],
    pairs: dict[int, tuple[np.ndarray, np.ndarray]],
    split: _Split,
    *,
    random: np.random.Generator,
    resamples: int,
    most: int,
) -> Comparison:
    """Compare B with A, given their correctness by seed."""
    right = np.stack([np.stack(pair) for pair in pairs.values()])  # [seeds, 2, N]
    rows = np.bincount(split.labels, minlength=len(split.counts))
    accuracy = np.stack(
        [
            [np.bincount(split.labels, hits, len(rows)) / np.maximum(rows, 1) for hits in pair]
            for pair in right
        ]
    )  # [seeds, 2, K]
    gains = right[:, 1].sum(0, dtype=np.int64) - right[:, 0].sum(0, dtype=np.int64)
    weights = split.weights()
    made_of = np.stack(list(weights.values()))
    drawn = resampled(gains, split.labels, made_of, resamples, random)
    low, high = interval(drawn) * 100 / len(pairs)
    measures = {}
    for place, (name, weight) in enumerate(weights.items()):
        by_seed = 100 * accuracy @ weight  # [seeds, 2]
        gained = by_seed[:, 1] - by_seed[:, 0]
        measures[name] = Measure(
            a=float(by_seed[:, 0].mean()),
            b=float(by_seed[:, 1].mean()),
            difference=float(gained.mean()),
            low=float(low[place]),
            high=float(high[place]),
            std=float(gained.std(ddof=1)) if len(gained) > 1 else None,
        )
    p = sign_test(gains)
    tests = []
    for seed, (a, b) in pairs.items():
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        tests.append(SeedTest(seed, only_a, only_b, mcnemar(only_a, only_b)))
    classes = _largest(100 * accuracy.mean(0), rows, split, most)
    return Comparison(*ids, measures, p, p, tuple(tests), classes)


def _largest(
    accuracy: np.ndarray, rows: np.ndarray, split: _Split, most: int
) -> tuple[ClassDifference, ...]:
    """The classes that differ most, of accuracies [2, K] in percent."""
    gained = accuracy[1] - accuracy[0]
    order = np.argsort(-np.abs(gained), kind="stable")
    return tuple(
        ClassDifference(
            index=int(k),
            name=split.names[k],
            trained_on=int(split.counts[k]),
            rows=int(rows[k]),
            a=float(accuracy[0, k]),
            b=float(accuracy[1, k]),
            difference=float(gained[k]),
        )
        for k in order[:most]
        if abs(gained[k]) > 1e-9
    )
