"""Configurations against each other on the same rows of a split.

`stage2.results.significance` has the test and the intervals, and says why they are these. Pairs are
heads of the same seed; a recipe with one result for all seeds stands beside each of the other's.
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
from stage2.results.comparison import (
    ClassDifference,
    Compared,
    Comparison,
    Measure,
    SeedTest,
)
from stage2.results.configurations import Configuration
from stage2.results.results import Results
from stage2.results.significance import LEVEL, holm, interval, mcnemar, resampled, sign_test
from stage2.results.store import Store
from stage2.results.tables import Leaderboard, differences


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
        Of the bootstrap.
    classes
        How many classes are told of.

    Raises
    ------
    ConfigError
        For names that mean none, several or the same configuration, unfinished ones, a split
        without results, seeds of which none is common, a bank that is gone or another.
    """
    board, split = results.board, results.split
    found = [results.find(name) for name in names] if names else _best_of_each(results)
    _require_comparable(results, found, names or [each.id for each in found])
    epoch = epoch or board.terms.epoch
    of = _split(results, file)
    correct = [_correct(results, configuration, epoch) for configuration in found]
    random = np.random.default_rng(seed)
    comparisons = []
    for other, own in zip(found[1:], correct[1:], strict=True):
        ids = found[0].id, other.id
        pairs = _pairs(ids, correct[0], own)
        comparisons.append(
            _compared(ids, pairs, of, random=random, resamples=resamples, most=classes)
        )
    adjusted = holm([each.p for each in comparisons])
    settings = {rows[0]["recipe"]: differences(rows[0]) for rows in board.configurations()}
    return Compared(
        tuple(replace(each, p_holm=p) for each, p in zip(comparisons, adjusted, strict=True)),
        {each.id: settings[each.id] for each in found},
        {each.id: _why(board, each.name) for each in found if not names or each.name in names},
        f"{board.protocol} · compared on {split}, {epoch} epoch"
        + (" · optimistic: selected there" if split == board.select_on == "test" else "")
        + f" · {LEVEL} % intervals: {resamples} bootstrap resamples of rows within classes, seed "
        f"{seed} · p: exact sign test of rows over all seeds (one seed: McNemar)"
        + (f", Holm over {len(comparisons)} comparisons" if len(comparisons) > 1 else ""),
    )


def bank_of(store: Store, bank: str | None) -> tuple[str | None, Path | None]:
    """The beginning of a fingerprint, and the file, that a bank given as either means.

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
        raise errors.ConfigError(f"{store.path} has no results on {bank}. Name its own bank.")
    return fingerprint, Path(bank)


def _best_of_each(results: Results) -> list[Configuration]:
    """The best configuration of each recipe, best first, of those whose seeds are all done."""
    found: list[Configuration] = []
    left_out: list[Configuration] = []
    for first, *_ in results.board.best().configurations():
        place = found if first["status"] == "done" else left_out
        place.append(results.configurations[first["recipe"]])
    if left_out:
        told = ", ".join(f"{each.id} ({each.unfinished})" for each in left_out)
        warnings.warn(f"Left out: {told}.")
    return found


def _require_comparable(
    results: Results, found: Sequence[Configuration], names: Sequence[str]
) -> None:
    if len(found) < 2:
        raise errors.ConfigError(
            f"A comparison takes two configurations, got {', '.join(names) or 'none'}. "
            f"`featbank leaderboard {results.path}` lists the recipes."
        )
    taken: dict[str, str] = {}
    for name, configuration in zip(names, found, strict=True):
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


def _why(board: Leaderboard, name: str) -> str:
    """Why a recipe's name stands for the configuration that it stands for."""
    tried = len({row["recipe"] for row in board.rows if row["name"] == name})
    return f"best of {tried} on {board.select_on}" if tried > 1 else "its only configuration"


def _split(results: Results, file: Path | None) -> _Split:
    """What is known of the split; its labels from the bank's file where the results lack them."""
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
                f"{place} is another bank now than that of the results, {fingerprint[:12]}. "
                "Name that one's file with --bank."
            )
        return _Split(bank.labels(results.split), counts, names)


def _correct(
    results: Results, configuration: Configuration, epoch: str
) -> dict[int | None, np.ndarray]:
    """Which rows each seed has right, bool [N]; under None where a recipe has one result for all
    seeds. Where no epoch was selected, the last one counts as that."""
    found: dict[int | None, np.ndarray] = {}
    for run in configuration.runs:
        seed = run.seed if "epochs" in run.parameters else None  # a setting of those with steps
        at = epoch if (results.split, epoch) in run.metrics else "last"
        place = (results.fingerprint, run.recipe, results.split, at)
        found[seed] = results.store.correct(*place)
    return found


def _pairs(
    ids: tuple[str, str], a: dict[int | None, np.ndarray], b: dict[int | None, np.ndarray]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Correctness of A and B by common seed."""
    seeds = {s for own in (a, b) for s in own if s is not None} or {0}
    pairs = {seed: (a.get(seed, a.get(None)), b.get(seed, b.get(None))) for seed in sorted(seeds)}
    common = {s: (x, y) for s, (x, y) in pairs.items() if x is not None and y is not None}
    if not common:
        told = " and ".join(
            f"{id_} has {', '.join(map(str, own))}" for id_, own in zip(ids, (a, b), strict=True)
        )
        raise errors.ConfigError(f"No seed is common: {told}. Sweep both with the same seeds.")
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
    right = np.stack([np.stack(pair) for pair in pairs.values()])  # [seeds, 2, N]
    rows = np.bincount(split.labels, minlength=len(split.counts))
    accuracy = np.stack(
        [
            [np.bincount(split.labels, own, len(rows)) / np.maximum(rows, 1) for own in pair]
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
    for seed, (own, other) in pairs.items():
        only_a, only_b = int((own & ~other).sum()), int((other & ~own).sum())
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
