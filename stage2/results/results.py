"""One bank of a results file, read once: the view behind all tables, figures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from featbank import errors
from stage2.results.configurations import Configuration, matching, search_note
from stage2.results.leaderboard import Leaderboard, board_of, why_unranked
from stage2.results.protocol import Protocol, full_counts, measured_splits
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
        The split whose macro accuracy ranks; by default ``val`` where the bank has it, and
        otherwise ``test``, which the protocol line then says. With ``val`` a configuration is
        ranked by its selected epoch, with ``test`` by its last: no epoch is ever picked on test.

    Attributes
    ----------
    fingerprint, about
        The bank's fingerprint, and its record in the results.
    configurations
        By id.
    split, select_on
        As resolved.
    board
        The configurations, ranked.

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
        self._rank(split, select_on)

    def on(self, split: str) -> Self:
        """The same, with the metrics of another split."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._rank(split, self.select_on)
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
        ids = matching(name, names, f"{self.path} has no configuration {name!r}.")
        if len(ids) > 1:
            first = ", ".join(sorted(ids)[:5]) + (", …" if len(ids) > 5 else "")
            raise errors.ConfigError(
                f"{len(ids)} configurations of {self.path} begin with {name!r}. "
                f"Write more of one: {first}."
            )
        return self.configurations[ids[0]]

    def _best(self, name: str) -> Configuration:
        """The first configuration of a recipe on the board."""
        rows = [row for row in self.board.rows if row["name"] == name]
        if rows[0]["selection"] is None:
            raise errors.ConfigError(
                f"Every configuration of {name!r} in {self.path} {why_unranked(rows)}"
            )
        return self.configurations[rows[0]["recipe"]]

    def _rank(self, split: str | None, select_on: str | None) -> None:
        measured = measured_splits(self.about)
        self.split = split or measured[-1]
        for name in (self.split, select_on or self.split):
            if name not in measured:
                raise errors.ConfigError(
                    f"{self.path} has no results on {name!r}. It has: {', '.join(measured)}."
                )
        self.select_on = select_on or ("val" if "val" in measured else "test")
        terms = Protocol(
            self.fingerprint,
            self.about,
            self.split,
            self.select_on,
            len(self.configurations),
            search_note(self.configurations.values()),
        )
        self.board: Leaderboard = board_of(self.configurations.values(), terms)
