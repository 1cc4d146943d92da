"""One bank of a results file, read once: the view behind all tables, figures and reports."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from featbank import errors
from featbank.bank import ClassGroups
from featbank.memory import uncollected
from featbank.wording import listed
from stage2.features.folds import is_folds
from stage2.results.classes import full_counts
from stage2.results.configurations import Configuration, matching, search_note
from stage2.results.ensembles import ENSEMBLE
from stage2.results.evidence import Evidence
from stage2.results.leaderboard import Leaderboard, board_of, ranking_of, why_unranked
from stage2.results.naming import bank_names
from stage2.results.optimism import Optimism, optimism
from stage2.results.protocol import (
    Protocol,
    default_selection,
    is_screen,
    measured_splits,
    ranking_epoch,
)
from stage2.results.selection import Correctness, Ranking
from stage2.results.store import Run, Store
from stage2.results.tested import Tested

_DIGITS = 8
"""Digits at the end of an id; fewer of them alone are a rank."""


class Results:
    """The results on one bank, and how they are ranked.

    Parameters
    ----------
    store
        The results file, open or its path.
    bank
        Name, file name or beginning of the fingerprint; needed where the file holds results of
        several banks.
    split
        The split whose metrics are shown; by default ``test`` where the bank has rows of it, else
        ``val``.
    select_on
        The split that selects; by default ``val`` where the bank has it, else the rows that folds
        held out, such as ``5-fold``, where a sweep had folds. Where there is neither, nothing
        selects: configurations stand by name, presets as they are published come first, and the
        protocol line says so. ``test`` only if it is asked for.
    select_by
        Rule of `stage2.results.selection.RULES`; by default ``1se``, or ``macro`` where the runs
        were stored without NLL,T.
    select_epoch
        ``selected``: on val a configuration stands for its epoch that was best there; ``last``: for
        its last one, as always elsewhere: no epoch is ever picked on test.
    nested
        Correct for choosing by nested folds instead of the bootstrap.

    Attributes
    ----------
    fingerprint, about
        The bank's fingerprint, and its record in the results.
    name
        Of the bank: no other bank of the file has it.
    configurations
        By id, an ensemble of them included.
    tried
        The configurations that a sweep trained.
    split, select_on
        As resolved; no `select_on` where nothing selects.
    ranking
        The order of configurations.
    board
        The configurations, ranked.
    tied, optimism
        Whether each configuration, by id, ties with the best, and what choosing the best cost
        (`stage2.results.optimism`); empty and None where fewer than two can be compared.

    Raises
    ------
    ConfigError
        For an unknown bank or split, or a file without results.
    """

    @uncollected()
    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        bank: str | None = None,
        split: str | None = None,
        select_on: str | None = None,
        select_by: str | None = None,
        select_epoch: str = "selected",
        nested: bool = False,
    ) -> None:
        if not isinstance(store, Store):
            store = Store(store)
            weakref.finalize(store, store.file.close)
        self.store = store
        self.fingerprint, self.about = store.one_bank(bank)
        self.name = bank_names(store.banks())[self.fingerprint]
        runs: dict[str, list[Run]] = {}
        for run in store.runs(self.fingerprint):
            runs.setdefault(run.id, []).append(run)
        if not runs:
            raise errors.ConfigError(
                f"{store.path} holds no finished run. Run `featbank sweep` again."
            )
        self.configurations = {id_: Configuration(tuple(seeds)) for id_, seeds in runs.items()}
        self.tried = [each for each in self.configurations.values() if not each.is_ensemble]
        on = {split for seeds in runs.values() for run in seeds for split, _ in run.metrics}
        default = default_selection(self.about, on)
        self.select_on = self._known(select_on) if select_on else default
        self.select_epoch = select_epoch
        self.nested = nested
        self.usual_names = False
        self._so_far = self._runs_so_far()
        self._tested: Tested | None = None
        if self.select_on is not None:
            self._tested = self.store.tested(self.fingerprint, self.select_on)
        self._evidence: Evidence | None = None
        self.ranking = self._ranking(select_by)
        self.optimism = self._optimism()
        self._evidence = None
        self.tied: dict[str, bool] = {}
        if self.optimism:
            compared = self.ranking.ids[: len(self.optimism.tied)]
            self.tied = dict(zip(compared, self.optimism.tied.tolist(), strict=True))
        self._rank(split or measured_splits(self.about)[-1])

    def with_usual_names(self) -> Self:
        """The same, with class groups as many, medium and few whatever the bank calls them."""
        other = copy(self)
        other.usual_names = True
        other._rank(self.split)
        return other

    def on(self, split: str) -> Self:
        """The same, with the metrics of another split."""
        other = copy(self)
        other._rank(split)
        return other

    def __repr__(self) -> str:
        return f"{self.path}, bank {self.name}: {self.board!r}"

    def _repr_html_(self) -> str:
        """The leaderboard of a notebook."""
        return self.board._repr_html_()

    @property
    def path(self) -> Path:
        """The results file."""
        return self.store.path

    @property
    def groups(self) -> ClassGroups:
        """The class groups, by the names that are shown."""
        return self.board.terms.groups

    @property
    def counts(self) -> np.ndarray:
        """Training counts [K] that order classes (`featbank.Bank.full_counts`)."""
        return full_counts(self.about)

    @property
    def class_names(self) -> Sequence[str]:
        """K names; numbers where the bank has none."""
        return self.about["class_names"] or [str(k) for k in range(self.about["num_classes"])]

    @property
    def chosen(self) -> Configuration | None:
        """The configuration that the protocol puts first, an ensemble aside; None where nothing
        selects, and where none has a rank."""
        ids = (row["id"] for row in self.board.first_rows() if row["rank"] == 1)
        return next((self.configurations[id_] for id_ in ids), None)

    def find(self, name: str) -> Configuration:
        """The configuration that a name means.

        Parameters
        ----------
        name
            An id such as ``crt-1a2b3c4d``, the beginning of just one id or of its digits, the name
            of a recipe: its best configuration on the board, or a rank there.

        Raises
        ------
        ConfigError
            Where it means none or several, or a recipe of which no configuration has a rank.
        """
        names = {id_: each.name for id_, each in self.configurations.items()}
        if name.isascii() and name.isdigit() and len(name) < _DIGITS:
            return self._at(int(name))
        if name in names.values():
            return self._best(name)
        if name in names:
            return self.configurations[name]
        if name == ENSEMBLE:
            raise errors.ConfigError(
                f"{self.path} has no ensemble. Choose one with `featbank ensemble`."
            )
        ids = matching(name, names, f"{self.path} has no configuration {name!r}.")
        if len(ids) > 1:
            raise errors.ConfigError(
                f"{len(ids)} configurations of {self.path} begin with {name!r}. "
                f"Write more of one: {listed(sorted(ids), 5)}."
            )
        return self.configurations[ids[0]]

    def _at(self, rank: int) -> Configuration:
        """The configuration at a rank on the board."""
        ranks = {row["rank"]: row["id"] for row in self.board.first_rows() if row["rank"]}
        if rank in ranks:
            return self.configurations[ranks[rank]]
        if not ranks:
            raise errors.ConfigError(
                f"No configuration of {self.path} has a rank, as nothing selects. Name one by its "
                f"id, such as {next(iter(self.configurations))}."
            )
        raise errors.ConfigError(
            f"{self.path} has no rank {rank}. Choose one from 1 to {max(ranks)}."
        )

    def _best(self, name: str) -> Configuration:
        """The first configuration of a recipe on the board; where nothing selects, its preset as it
        is published, or the only one."""
        rows = [row for row in self.board.first_rows() if row["name"] == name]
        placed = [row["recipe"] for row in rows if self.board.has_place(row)]
        if not placed:
            raise errors.ConfigError(
                f"Every configuration of {name!r} in {self.path} "
                f"{why_unranked(rows, self.select_on)}"
            )
        best = self.ranking.best(placed)
        if len(best) > 1:
            raise errors.ConfigError(
                f"Nothing selects among the {len(best)} configurations of {name!r} in {self.path}: "
                f"there is no val. Name one by its id, such as {best[0]}, or give --select-on test."
            )
        return self.configurations[best[0]]

    def _known(self, split: str) -> str:
        """A split that was measured."""
        if split not in (measured := measured_splits(self.about)):
            raise errors.ConfigError(
                f"{self.path} has no results on {split!r}. It has: {', '.join(measured)}."
            )
        return split

    def _rank(self, split: str) -> None:
        self.split = self._known(split)
        if is_screen(self.about, split):
            raise errors.ConfigError(
                f"{self.path}: stage 1 has seen the rows of {split}, no figure of theirs is shown. "
                f"Choose another split: {measured_splits(self.about)[-1]}."
            )
        terms = Protocol(
            self.fingerprint,
            self.about,
            split,
            self.select_on,
            len(self.tried),
            search_note(self.tried),
            self.optimism,
            rule=self.ranking.rule,
            select_epoch=self.select_epoch,
            epochs=self._epochs(),
            rows_per_class=_per_class(self._tested, self.about["num_classes"]),
            runs=self._so_far,
            usual_names=self.usual_names,
        )
        self.board: Leaderboard = board_of(
            self.configurations.values(), terms, self.ranking, self.tied
        )

    def _runs_so_far(self) -> tuple[int, ...]:
        """Numbers of runs that are done and that are left, of a sweep that has not ended."""
        left = self.store.open_runs(self.fingerprint)
        if not left:
            return ()
        stored = {run.recipe for each in self.tried for run in each.runs}
        return len(stored - left), len(left)

    @property
    def _epoch(self) -> str:
        """The epoch that selects, where it was measured."""
        return ranking_epoch(self.select_on, self.select_epoch)

    def _ranking(self, select_by: str | None) -> Ranking:
        """The order of configurations by a rule, or by the default one."""
        every, at = self.configurations.values(), self.select_on
        if at is None:
            return ranking_of(every, None, None, self._epoch)
        ids, correctness = self._compared(with_losses=select_by != "macro")
        known = ranking_of(every, "1se", at, self._epoch, (ids, correctness))
        lacking = (known.macro.keys() & {each.id for each in self.tried}) - known.nll.keys()
        if select_by in (None, "macro"):
            without = self._tested is not None and not self._tested.has_units
            rule = select_by or ("macro" if lacking or without else "1se")
            return replace(known, rule=rule)
        if lacking:
            raise errors.ConfigError(
                f"{len(lacking)} of {len(known.macro)} configurations of {self.path} have no NLL,T "
                f"on {at}. Sweep them again with --force, or give --select-by macro."
            )
        return replace(known, rule=select_by)

    def _compared(self, *, with_losses: bool) -> tuple[list[str], Correctness | None]:
        """The configurations whose rows are compared, and their rows on the split that selects, of
        those that were tried also with the losses.

        Left out are those with vector scaling: the rows that are right after it are not those that
        rank. Those that were tried come first, then an ensemble of them.
        """
        at = self.select_on
        tested = self._tested
        if tested is None or not tested.has_units or at is None or is_screen(self.about, at):
            return [], None
        compared = [
            each
            for each in sorted(self.configurations.values(), key=lambda each: each.is_ensemble)
            if each.status == "done"
            and each.measured_on(at)
            and (is_folds(at) or each.parameters.get("calibration") != "vector")
        ]
        if len(compared) < 2:
            return [], None
        tried = sum(not each.is_ensemble for each in compared)
        evidence = self.store.evidence(
            self.fingerprint,
            at,
            self._runs(compared, at),
            with_losses=tried if with_losses and tried > 1 else 0,
        )
        self._evidence = evidence
        seeds = np.array([len(each.runs) for each in compared])
        return [each.id for each in compared], Correctness.of(
            evidence.correct, tested.labels, seeds, tested.groups, tested.rows
        )

    def _runs(self, of: Iterable[Configuration], at: str) -> list[list[tuple[str, str]]]:
        """Recipe and epoch of the runs of some configurations, on the split that selects."""
        epoch = self._epoch
        return [[(run.recipe, run.measured_at(at, epoch)) for run in each.runs] for each in of]

    def _optimism(self) -> Optimism | None:
        """The cost of choosing the best of those tried; None where fewer than two are compared."""
        ranking, of, evidence = self.ranking, self.ranking.correctness, self._evidence
        tried = [id_ for id_ in ranking.ids if not self.configurations[id_].is_ensemble]
        tested = self._tested
        if of is None or evidence is None or tested is None or ranking.rule is None:
            return None
        if len(tried) < 2:
            return None
        return optimism(
            evidence.correct[: len(tried)],
            tested.labels,
            groups=tested.groups,
            rows=tested.rows,
            seeds=np.broadcast_to(of.seeds, len(ranking.ids))[: len(tried)],
            rule=ranking.rule,
            nll=np.array([ranking.nll.get(id_, np.inf) for id_ in tried]),
            losses=evidence.losses if ranking.rule != "macro" else None,
            nested=self.nested,
        )

    def _epochs(self) -> tuple[int, ...]:
        """The epochs that each configuration with a selected epoch chose from."""
        if self._epoch != "selected":
            return ()
        return tuple(each.parameters.get("epochs", 1) for each in self.tried)


def _per_class(tested: Tested | None, num_classes: int) -> tuple[int, int] | None:
    """The least and the most rows of a class that has some."""
    if tested is None or not len(tested.labels):
        return None
    rows = tested.rows_of_classes(num_classes)
    rows = rows[rows > 0]
    return int(rows.min()), int(rows.max())
