"""Configurations compared on the rows of a split, of one bank or of several.

Pairs are heads of the same seed; a recipe with one result for all seeds is paired with each seed of
the other. Accuracies are means over the common seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import Bank
from stage2.results.banks import between, same_rows
from stage2.results.configurations import Configuration
from stage2.results.differences import Comparison, Correct, MeasuredRows, Resampling, comparison_of
from stage2.results.ensembles import ENSEMBLE
from stage2.results.leaderboard import Leaderboard, differences
from stage2.results.protocol import joined_line
from stage2.results.results import Results
from stage2.results.significance import LEVEL, holm
from stage2.results.store import Store

BEST = "the best"
"""What a configuration is called that is compared unasked."""


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
        The reason why a configuration was taken for the name of a recipe, by id. Where several
        banks are compared, ids end in ``@`` and the bank's name.
    protocol
        One line.
    labels
        The titles of measures in tables, by their names.
    tied
        Ids of those that tie with the best of their bank, itself left out.
    """

    comparisons: tuple[Comparison, ...]
    settings: dict[str, str]
    chosen: dict[str, str]
    protocol: str
    labels: dict[str, str]
    tied: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
    """A configuration that is compared: the results of its bank, what it was asked for by, and its
    id in the comparison."""

    results: Results
    configuration: Configuration
    name: str
    id: str

    @property
    def ties(self) -> bool:
        """Whether it ties with the best of its bank, and is not what was chosen there."""
        known = self.results.board.terms.ties and self.results.tied.get(self.configuration.id)
        return bool(known) and self.configuration is not self.results.chosen

    @property
    def settings(self) -> str:
        """The settings in which it differs from its preset."""
        return differences(self.results.board.rows_of(self.configuration.id)[0])


def compare(
    results: Results | Sequence[Results],
    names: Sequence[str] = (),
    *,
    every: bool = False,
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
        The results, of the split whose rows are compared; of several banks as of
        `stage2.results.banks.banks_of`. There is a test only where the rows are the same on both
        banks, by source and index.
    names
        As of `Results.find`. A single one is compared with the configuration that the protocol
        puts first; without any, those that tie with the best are, of each recipe the best: of every
        recipe where none ties or that is not known. Of several banks each name is looked up on
        each; without any, the best of each bank.
    every
        Without names, compare every recipe.
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
    banks = [results] if isinstance(results, Results) else [*results]
    sides = _sides(banks, names, every=every)
    tested = {bank.fingerprint: measured_rows(bank, file) for bank in banks}
    how = Resampling(resamples, np.random.default_rng(seed), classes)
    first, *others = [
        (
            side,
            correct_of(side.results, side.configuration, epoch or side.results.board.terms.epoch),
        )
        for side in sides
    ]
    comparisons = []
    for side, correct in others:
        pair = first[0].results, side.results
        comparisons.append(
            comparison_of(
                (first[0].id, side.id),
                (first[1], correct),
                (tested[pair[0].fingerprint], tested[pair[1].fingerprint]),
                how,
                same_rows=same_rows(*pair, pair[0].split) is True,
            )
        )
    adjusted = iter(holm([each.p for each in comparisons if each.p is not None]))
    adjusted_each = [None if each.p is None else next(adjusted) for each in comparisons]
    return Compared(
        tuple(replace(each, p_holm=p) for each, p in zip(comparisons, adjusted_each, strict=True)),
        {side.id: side.settings for side in sides},
        {
            side.id: _why(side.results.board, side.configuration.name)
            for side in sides
            if side.name in ("", side.configuration.name)
        },
        _protocol(banks, comparisons, epoch, f"{resamples} bootstrap resamples", tested, seed=seed),
        {name: metric.label for name, metric in banks[0].board.terms.metrics.items()},
        tuple(side.id for side in sides if side.ties),
    )


def _protocol(
    banks: Sequence[Results],
    comparisons: Sequence[Comparison],
    epoch: str | None,
    resamples: str,
    tested: Mapping[str, MeasuredRows],
    *,
    seed: int,
) -> str:
    """The protocol line of a comparison; `tested` are the rows by the bank's fingerprint."""
    first, *others = banks
    split = first.split
    lead = joined_line(
        {bank.name: bank.board.protocol_parts for bank in banks},
        between(banks) if others else (),
    )
    epochs = sorted({epoch or bank.board.terms.epoch for bank in banks})
    tests = sum(each.p is not None for each in comparisons)
    units = " or ".join(dict.fromkeys(tested[bank.fingerprint].units for bank in banks))
    of_rows = tested[first.fingerprint].groups is None
    parts = [
        f"compared on {split}, {' or '.join(epochs)} epoch",
        *(
            ["optimistic: selected there"]
            if any(split == bank.board.select_on == "test" for bank in banks)
            else []
        ),
        f"{LEVEL} % intervals: {resamples} of {units}"
        f"{' within classes' if of_rows else ''}, seed {seed}",
        *(
            [
                (
                    "p: exact sign test of rows over all seeds (one seed: McNemar)"
                    if of_rows
                    else f"p: sign test by source group over all seeds ({units})"
                )
                + (f", Holm over {tests} comparisons" if tests > 1 else "")
            ]
            if tests
            else []
        ),
    ]
    for other in others:
        if not (same := same_rows(first, other, split)):
            known = "not the same rows" if same is False else "rows not known to be the same"
            parts.append(
                f"{first.name} and {other.name}: {known}, so no paired test, each resampled alone"
            )
    return " · ".join([lead, *parts])


def _sides(banks: Sequence[Results], names: Sequence[str], *, every: bool) -> list[_Side]:
    """The configurations that are compared, the first of them first."""
    several = len(banks) > 1
    sides = []
    if len(names) == 1 and not several and (best := banks[0].chosen):
        sides.append(_Side(banks[0], best, BEST, best.id))
    for name in names or [""]:
        for bank in banks:
            if name:
                found = [_found(bank, name, several=several)]
            else:
                found = _best_of_each(bank, every=every or several)[: 1 if several else None]
            sides += [
                _Side(bank, each, name, f"{each.id}@{bank.name}" if several else each.id)
                for each in found
            ]
    _require_comparable(banks[0], sides)
    return sides


def _found(bank: Results, name: str, *, several: bool) -> Configuration:
    """The configuration that a name means on a bank, which an error then names."""
    try:
        return bank.find(name)
    except errors.ConfigError as problem:
        if not several:
            raise
        raise errors.ConfigError(f"{bank.name}: {problem}") from None


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


def _best_of_each(results: Results, *, every: bool) -> list[Configuration]:
    """The best configuration of each recipe, best first, of those whose seeds are all done; unless
    `every` is asked for, of those that tie with the best where there are any."""
    board = results.board
    if not every and board.terms.ties:
        chosen = results.chosen
        beside = (ENSEMBLE, chosen.name if chosen else "")
        kept = [row for row in board.rows if row["tied"] or row["name"] in beside]
        board = replace(board, rows=kept)
    best = [results.configurations[row["recipe"]] for row in board.best().first_rows()]
    if left_out := [f"{each.id} ({each.unfinished})" for each in best if each.unfinished]:
        warnings.warn(f"Left out: {', '.join(left_out)}.")
    done = [each for each in best if not each.unfinished]
    return [each for each in done if each.measured_on(results.split)]


def _require_comparable(results: Results, sides: Sequence[_Side]) -> None:
    if len(sides) < 2:
        names = [side.name or side.id for side in sides]
        raise errors.ConfigError(
            f"A comparison takes two configurations, got {', '.join(names) or 'none'}. "
            + _more(results)
        )
    taken: dict[str, str] = {}
    for side in sides:
        name, configuration, split = side.name or side.id, side.configuration, side.results.split
        if side.id in taken and taken[side.id] == BEST:
            raise errors.ConfigError(
                f"{name!r} is the best itself, {side.id}. Name another, or none to compare those "
                "that tie with it."
            )
        if side.id in taken:
            raise errors.ConfigError(
                f"{taken[side.id]!r} and {name!r} are both {side.id}. Name two configurations."
            )
        taken[side.id] = name
        if configuration.unfinished:
            raise errors.ConfigError(
                f"{side.id} {configuration.unfinished}. Compare one whose seeds are all done."
            )
        if not configuration.measured_on(split):
            raise errors.ConfigError(
                f"{side.id} was not measured on {split}. Compare on "
                f"--split {side.results.select_on}, or sweep it without folds."
            )


def _more(results: Results) -> str:
    """The ways to a second configuration."""
    lists = f"`featbank leaderboard {results.path}` lists the recipes"
    several = len(results.store.banks()) > 1
    return f"{lists}{', and --bank A,B takes one on two banks' if several else ''}."


def _why(board: Leaderboard, name: str) -> str:
    """The reason why a recipe's name stands for its configuration."""
    tried = len({row["recipe"] for row in board.rows if row["name"] == name})
    if tried == 1:
        return "its only configuration"
    return f"best of {tried} on {board.select_on}" if board.select_on else "as published"


def measured_rows(results: Results, file: Path | None) -> MeasuredRows:
    """Read the split; its labels from the bank's file where the results lack them."""
    fingerprint = results.fingerprint
    of_bank = results.counts, results.class_names, results.groups
    tested = results.store.tested(fingerprint, results.split)
    if tested is not None:
        if not tested.has_units:
            raise errors.ConfigError(
                f"{results.split} of {results.name} has {results.about['rows'][results.split]:,} "
                "rows, of which results keep sums by class alone: nothing compares its rows. "
                "Import the bank with source groups to compare by these."
            )
        return MeasuredRows(tested.labels, *of_bank, tested.groups, tested.rows)
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
        return MeasuredRows(bank.labels(results.split), *of_bank)


def correct_of(results: Results, configuration: Configuration, epoch: str) -> Correct:
    """Correctness of the rows by seed. Where no epoch was selected, the last one counts as that."""
    correct: Correct = {}
    for run in configuration.runs:
        seed = run.seed if "epochs" in run.parameters else None  # a setting of those with steps
        split, at = results.split, run.measured_at(results.split, epoch)
        correct[seed] = results.store.correct(results.fingerprint, run.recipe, split, at)
    return correct
