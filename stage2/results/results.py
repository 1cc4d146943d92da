"""One bank of a results file, read once: the view behind all tables, figures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from featbank import errors
from featbank.wording import listed
from stage2.features.folds import is_folds
from stage2.results.configurations import Configuration, matching, search_note
from stage2.results.ensembles import ENSEMBLE
from stage2.results.leaderboard import Leaderboard, board_of, is_ranked, why_unranked
from stage2.results.optimism import Optimism, optimism
from stage2.results.protocol import (
    Protocol,
    default_selection,
    full_counts,
    is_screen,
    measured_splits,
    ranking_epoch,
)
from stage2.results.store import Run, Store


class Results:
    """The results on one bank, and how they are ranked.

    Parameters
    ----------
    store
        The results file.
    bank
        Beginning of a fingerprint; needed where the file holds results of several banks.
    split
        The split whose metrics are shown; by default ``test`` where the bank has rows of it, else
        ``val``.
    select_on
        The split whose macro accuracy ranks; by default ``val`` where the bank has it, else the
        rows that folds held out, such as ``5-fold``, where a sweep had folds, and otherwise
        ``test``, which the protocol line then says. With ``val`` a configuration is ranked by its
        selected epoch, else by its last: no epoch is ever picked on test.

    Attributes
    ----------
    fingerprint, about
        The bank's fingerprint, and its record in the results.
    configurations
        By id, an ensemble of them included.
    tried
        The configurations that a sweep trained.
    split, select_on
        As resolved.
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

    def __init__(
        self,
        store: Store,
        *,
        bank: str | None = None,
        split: str | None = None,
        select_on: str | None = None,
    ) -> None:
        self.store = store
        self.fingerprint, self.about = store.one_bank(bank)
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
        self.select_on = self._known(select_on or default_selection(self.about, on))
        self.tied, self.optimism = self._compared()
        self._rank(split or measured_splits(self.about)[-1])

    def on(self, split: str) -> Self:
        """The same, with the metrics of another split."""
        other = copy(self)
        other._rank(split)
        return other

    @property
    def path(self) -> Path:
        """The results file."""
        return self.store.path

    @property
    def counts(self) -> np.ndarray:
        """Training counts [K] that make the groups (`featbank.Bank.full_counts`)."""
        return full_counts(self.about)

    @property
    def class_names(self) -> Sequence[str]:
        """K names; numbers where the bank has none."""
        return self.about["class_names"] or [str(k) for k in range(self.about["num_classes"])]

    def find(self, name: str) -> Configuration:
        """The configuration that a name means.

        Parameters
        ----------
        name
            An id such as ``crt-1a2b3c4d``, the beginning of just one id, or the name of a recipe:
            its best configuration on the board.

        Raises
        ------
        ConfigError
            Where it means none or several, or a recipe of which no configuration has a rank.
        """
        names = {id_: each.name for id_, each in self.configurations.items()}
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

    def _best(self, name: str) -> Configuration:
        """The first configuration of a recipe on the board."""
        rows = [row for row in self.board.rows if row["name"] == name]
        if not is_ranked(rows[0]):
            raise errors.ConfigError(
                f"Every configuration of {name!r} in {self.path} "
                f"{why_unranked(rows, self.select_on)}"
            )
        return self.configurations[rows[0]["recipe"]]

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
        )
        self.board: Leaderboard = board_of(self.configurations.values(), terms, self.tied)

    def _compared(self) -> tuple[dict[str, bool], Optimism | None]:
        """Whether each configuration that ranks ties with the best, and what choosing it cost.

        Left out are those with vector scaling: it is fitted to the labels of val, and the rows that
        are right after it are not those that rank. An ensemble is made of them, not tried.
        """
        at, epoch = self.select_on, ranking_epoch(self.select_on)
        labels = self.store.labels(self.fingerprint, at)
        compared = [
            each
            for each in self.tried
            if each.status == "done"
            and each.measured_on(at)
            and (is_folds(at) or each.parameters.get("calibration") != "vector")
        ]
        if labels is None or len(compared) < 2 or is_screen(self.about, at):
            return {}, None
        runs = [[(run.recipe, run.measured_at(at, epoch)) for run in c.runs] for c in compared]
        correct = self.store.correct_seeds(self.fingerprint, at, runs)
        seeds = np.array([len(each.runs) for each in compared])
        result = optimism(correct, labels, seeds=seeds)
        return {each.id: bool(t) for each, t in zip(compared, result.tied, strict=True)}, result
