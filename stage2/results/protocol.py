"""The protocol line: what a table, a figure or a report says about how its figures came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.schema import EVALUATED
from featbank.wording import number
from stage2.methods.recipe import Recipe


@dataclass(frozen=True)
class Protocol:
    """How the figures of a results file came about.

    Attributes
    ----------
    fingerprint, about
        Of the bank: its fingerprint, and what the results know of it (`Store.add_bank`).
    split, select_on
        The split whose metrics are shown, and the one that ranks.
    tried
        How many configurations the file holds.
    searched
        What a search did to them, in words (`stage2.results.searched.told_search`).
    notes
        What was done to the rows since, such as a filter.
    """

    fingerprint: str
    about: Mapping[str, Any]
    split: str
    select_on: str
    tried: int
    searched: str = ""
    notes: tuple[str, ...] = ()

    @property
    def epoch(self) -> str:
        """The epoch that ranks where it was measured: none is ever picked on test."""
        return "selected" if self.select_on == "val" else "last"

    def noting(self, note: str) -> Protocol:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))

    def line(self, rows: Sequence[Mapping[str, Any]], *units: str) -> str:
        """All of it in one line.

        Parameters
        ----------
        rows
            The rows shown, as of `stage2.results.tables.Leaderboard`.
        units
            What stands before the notes: what the figures are.
        """
        trained = [row for row in rows if "loss" in row["parameters"]]
        seeds = sorted({seed for row in trained for seed in row["seeds"]})
        parts = [
            f"bank {self.fingerprint[:12]}",
            *self._start(rows),
            f"selected on {self.select_on}{self._how_selected(rows)}",
            *self._classes(),
            f"{number(self.tried, 'configuration')} tried{self.searched}",
            f"seeds {', '.join(map(str, seeds)) or 'none'}",
        ]
        return " · ".join([*parts, *units, *self.notes])

    def _start(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """What stood for a stage-1 classifier that the bank lacks, where a row began from it."""
        probed = self.about.get("probed", [])  # absent from older files, whose banks all had one
        used = [view for view in probed if any(_begins_from(row, view) for row in rows)]
        if not used:
            return []
        some = "" if probed == self.about["views"] else f" of {', '.join(used)}"
        return [f"stage-1 classifier{some}: linear probe"]

    def _how_selected(self, rows: Sequence[Mapping[str, Any]]) -> str:
        if self.select_on != "val":
            return ""
        calibrated = any(row["parameters"].get("calibration", "none") != "none" for row in rows)
        told = "macro accuracy" + (" before calibration" if calibrated else "")
        if seen := self.about.get("seen", {}).get("val"):
            rows_of_val = self.about["rows"]["val"]
            some = "its rows" if seen == rows_of_val else f"{seen} of its {rows_of_val} rows"
            told += f"; stage 1 has seen {some}"
        return f" ({told})"

    def _classes(self) -> list[str]:
        """Tested classes that nothing was learned about, or that cannot be selected on; groups by
        other counts than those of train."""
        told = []
        classes = self.about.get("classes", {})  # absent from older files
        if untrained := self.about.get("untrained", {}).get(self.split):
            total, have = classes[self.split], "has" if untrained == 1 else "have"
            where = "tested classes" if self.split == "test" else "classes of val"
            told.append(f"{untrained} of {total} {where} {have} no training row")
        missing = self.about.get("missing_in_val")
        if missing and self.select_on == "val" and self.split == "test":
            tested = classes["test"]
            told.append(f"val has {tested - missing} of {tested} tested classes")
        if not np.array_equal(full_counts(self.about), self.about["train_counts"]):
            told.append("groups by the counts before val was held out of train")
        return told


def measured_splits(about: Mapping[str, Any]) -> list[str]:
    """The splits results are measured on, as far as the bank has rows of them; test last."""
    return [split for split in EVALUATED if about["rows"].get(split)]


def full_counts(about: Mapping[str, Any]) -> np.ndarray:
    """Training counts [K] of a bank before rows were held out: they make the groups."""
    return np.asarray(about.get("full_counts", about["train_counts"]))


def coverage(labels: Mapping[str, np.ndarray], train_counts: np.ndarray) -> dict[str, Any]:
    """Which classes the splits that results are measured on share with train and with each other.

    Parameters
    ----------
    labels
        Of val and test, [N] each, as far as they have rows.
    train_counts
        Training counts [K].

    Returns
    -------
    What `Store.add_bank` keeps: ``classes`` and ``untrained`` by split, how many have rows there
    and how many of these have none in train; ``missing_in_val``, tested classes without val rows.
    """
    there = {split: np.unique(y) for split, y in labels.items() if y.size}
    found: dict[str, Any] = {
        "classes": {split: len(classes) for split, classes in there.items()},
        "untrained": {
            split: int((train_counts[classes] == 0).sum()) for split, classes in there.items()
        },
    }
    if there.keys() >= {"val", "test"}:
        found["missing_in_val"] = len(np.setdiff1d(there["test"], there["val"]))
    return found


def _begins_from(row: Mapping[str, Any], view: str) -> bool:
    """Whether a configuration begins from the stage-1 classifier of a view."""
    try:
        recipe = Recipe(row["name"], **row["parameters"])
    except errors.ConfigError:  # stored by a version that knew other names
        return True
    return view in recipe.views and recipe.needs_classifier
