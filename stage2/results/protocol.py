"""The protocol line below tables, figures and reports: the conditions under which they hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from featbank.bank import GROUPS, ClassGroups
from featbank.bank.expressions import is_composed
from featbank.bank.schema import EVALUATED
from featbank.wording import number
from stage2.engine.metrics import METRICS, Metric
from stage2.features.folds import fold_count, is_folds
from stage2.methods.precisions import PRECISION, in_words
from stage2.methods.recipe_settings import PUBLISHED_NORM, UNIT, uses_text
from stage2.results.classes import full_counts, groups_of, metrics_of
from stage2.results.ensembles import ENSEMBLE
from stage2.results.optimism import Optimism
from stage2.results.selection import NLL, RULES
from stage2.results.usual import classifiers_of

_SCALES = {
    "auto": f"scaled to norm {PUBLISHED_NORM:g} (auto)",
    "standardise": f"standardised, then to norm {PUBLISHED_NORM:g}",
    UNIT: f"each of length {PUBLISHED_NORM:g}",
    "none": "as they are",
}
"""Words for each ``feature_scale``."""


@dataclass(frozen=True)
class Protocol:
    """The conditions under which the figures of a results file hold.

    Attributes
    ----------
    fingerprint, about
        The bank's fingerprint, and its record in the results (`Store.add_bank`).
    split, select_on
        The split whose metrics are shown, and the one that selects; None where nothing does.
    tried
        Number of configurations in the file.
    searched
        How a search chose them, in words (`stage2.results.configurations.search_note`).
    optimism
        What choosing the best of them cost, where that is known.
    notes
        Operations on the rows since, such as a filter.
    rule
        What selects, one of `stage2.results.selection.RULES`.
    select_epoch
        ``last`` where no epoch is selected on val.
    epochs
        The epochs that each configuration chose from; empty where none was chosen.
    runs
        Numbers of runs that are done and that are left, of a sweep that has not ended; empty where
        none is left.
    rows_per_class
        The least and the most rows of a class on the split that selects, where that is known.
    usual_names
        Whether class groups are shown as many, medium and few whatever the bank calls them, as in
        tables over banks that call them otherwise.
    """

    fingerprint: str
    about: Mapping[str, Any]
    split: str
    select_on: str | None
    tried: int
    searched: str = ""
    optimism: Optimism | None = None
    notes: tuple[str, ...] = ()
    rule: str | None = "macro"
    select_epoch: str = "selected"
    epochs: tuple[int, ...] = ()
    rows_per_class: tuple[int, int] | None = None
    runs: tuple[int, ...] = ()
    usual_names: bool = False

    @cached_property
    def groups(self) -> ClassGroups:
        """The class groups, by the names that are shown."""
        groups = groups_of(self.about)
        return replace(groups, names=tuple(GROUPS)) if self.usual_names else groups

    @property
    def metrics(self) -> dict[str, Metric]:
        """`METRICS`, with the class groups in labels and meanings."""
        return metrics_of(self.groups)

    @property
    def thresholds(self) -> str:
        """The class groups and their rules, for people."""
        return self.groups.described

    @property
    def epoch(self) -> str:
        """The epoch that selects where it was measured: none is ever picked on test."""
        return ranking_epoch(self.select_on, self.select_epoch)

    @property
    def order(self) -> str:
        """The figure that configurations are ordered by, in words; or their names."""
        if self.select_on is None or self.rule is None:
            return "their names"
        return f"{RULES[self.rule]} on {self.select_on}"

    @property
    def advice(self) -> str:
        """A sentence for people where the choice is not to be trusted; else nothing."""
        if self.select_on is None:
            return f"Nothing is selected, presets stand as published. {self.ways_to_a_val}"
        if self.optimism and 2 * self.optimism.tied.sum() > len(self.optimism.tied) > 2:
            return (
                f"More than half of what was tried ties with the best: {self.select_on} has too "
                "few rows to tell them apart. Choose among them by cost or calibration, or hold "
                "out more rows."
            )
        return ""

    @property
    def ways_to_a_val(self) -> str:
        """The ways to a val, for a bank that has none."""
        path = self.about["path"]
        if self._is_unseen:
            return (
                f"Rank by cross-validation ({self.val_command}), or hold a val out: "
                f"featbank split {path} --val-per-class 5."
            )
        return (
            "Extract a bank with a val that stage 1 never saw (featbank train --val-per-class 20), "
            f"or take one from test: {self.val_command}."
        )

    @property
    def val_command(self) -> str:
        """A command after which there are rows that select, for a bank that has none."""
        path = self.about["path"]
        if self._is_unseen:
            return f"featbank sweep {path} --folds 5"
        return f"featbank split {path} --val-from-test 5"

    @property
    def _is_unseen(self) -> bool:
        """Whether it is known that stage 1 never saw the train rows."""
        return not self.about.get("seen", {}).get("train", True)

    def noting(self, note: str) -> Protocol:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))

    def line(self, rows: Sequence[Mapping[str, Any]], *units: str) -> str:
        """All of it in one line: `parts` of these rows and units."""
        return " · ".join(self.parts(rows, *units))

    def parts(self, rows: Sequence[Mapping[str, Any]], *units: str) -> list[str]:
        """All of it, in the order in which a line states it.

        Parameters
        ----------
        rows
            The rows shown, as of `stage2.results.leaderboard.Leaderboard`.
        units
            Parts before the notes that say what the figures are.
        """
        trained = [row for row in rows if "loss" in row["parameters"]]
        seeds = sorted({seed for row in trained for seed in row["seeds"]})
        parts = [
            f"bank {self.fingerprint[:12]}",
            *self._start(rows),
            *self._scale(rows),
            *_products(rows),
            self._selected(rows),
            *self._rest_of_test(),
            *self._classes(),
            f"{number(self.tried, 'configuration')} tried{self.searched}",
            *self._so_far(),
            *self._ensemble(rows),
            f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds)) or 'none'}",
            *self._evidence(),
            *self._chosen_epochs(),
            *self._cost(),
        ]
        return [*parts, *units, *self.notes]

    def _start(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The stand-in for a stage-1 classifier that the bank lacks, where a row starts from it."""
        views = self.about["views"]
        lacking = {  # absent from older files, whose banks all had a classifier and used no other
            "linear": self.about.get("probed", []),
            "cosine": [view for view in views if view not in self.about.get("cosine", views)],
        }
        parts, starts = [], classifiers_of(rows, views)
        for kind, probed in lacking.items():
            used = [view for view in probed if (view, kind) in starts]
            if used:
                of = "" if probed == views else f" of {', '.join(used)}"
                name = "stage-1" if kind == "linear" else "cosine"
                parts.append(f"{name} classifier{of}: {kind} probe")
        return parts

    @property
    def is_screen(self) -> bool:
        """Whether folds of rows that stage 1 has seen rank: their figures are not shown."""
        return is_screen(self.about, self.select_on)

    def _selected(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The split that selects, and its figure."""
        if self.select_on is None or self.rule is None:
            return "not selected: there is no val, and nothing is selected on test unasked"
        figure = METRICS[NLL].label if self.rule == "nll" else "macro accuracy"
        if is_folds(self.select_on):
            return self._by_folds(figure)
        if self.select_on != "val":
            return f"selected on {self.select_on} ({figure})"
        if any(map(is_calibrated, rows)):
            figure += " before calibration"
        if seen := self.about.get("seen", {}).get("val"):
            every = self.about["rows"]["val"]
            share = "its rows" if seen == every else f"{seen} of its {every} rows"
            figure += f"; stage 1 has seen {share}"
        return f"selected on val ({figure})"

    def _by_folds(self, figure: str) -> str:
        """The same where folds of train select."""
        left_out = self._left_out(sum(n == 1 for n in self.about["train_counts"]))
        if self.is_screen:
            seen, total = self.about["seen"]["train"], self.about["rows"]["train"]
            return (
                f"screened by {self.select_on} (order alone: stage 1 has seen {seen} of the "
                f"{total} train rows{left_out})"
            )
        return f"selected on {self.select_on} ({figure} of held-out train rows{left_out})"

    def _left_out(self, single: int) -> str:
        """The classes or rows that folds never hold out, in words; `single` have one row."""
        if self.about.get("source_groups", {}).get(self.select_on):
            left = self.about["rows"]["train"] - self.about["rows"][self.select_on]
            which = "of source groups with all of a class"
            return f"; {number(left, 'row')} {which} left out" if left else ""
        return f"; {number(single, 'class', 'classes')} of one row left out" if single else ""

    def _scale(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The scale of the features that the rows were trained on; an ensemble does not say it."""
        used: dict[str, None] = {}
        for parameters in (row["parameters"] for row in rows if row["name"] != ENSEMBLE):
            choice = UNIT if uses_text(parameters) else parameters.get("feature_scale")
            views = str(parameters.get("view")).split("+")
            used |= dict.fromkeys([choice] if choice else map(self._default_scale, views))
        texts = [text for choice, text in _SCALES.items() if choice in used]
        texts += [f"multiplied by {factor}" for factor in used if factor not in _SCALES]
        return [f"features {' and '.join(texts)}"] if texts else []

    def _default_scale(self, view: str) -> str:
        """The scale of features where a recipe sets none; older files do not record it."""
        if recorded := self.about.get("default_scales", {}).get(view):
            return recorded
        return "auto" if is_composed(view) or view in self.about.get("scaled", []) else "none"

    def _evidence(self) -> list[str]:
        """The grounds of a choice between close configurations: the rule, and the rows."""
        parts = []
        if self.rule == "1se":
            parts.append(f"by {METRICS[NLL].label} within one standard error")
        if self.rows_per_class:
            low, high = self.rows_per_class
            count = number(low, "row") if low == high else f"{low}–{high} rows"
            unseen = self.select_on == "val" and not self.about.get("seen", {}).get("val", True)
            clean = ", unseen by stage 1" if unseen else ""
            parts.append(f"{self.select_on}: {count} per class{clean}")
        if groups := self.about.get("source_groups", {}).get(self.select_on):
            parts.append(f"{self.select_on} by source group ({groups:,})")
        return parts

    def _chosen_epochs(self) -> list[str]:
        """The number of epochs to choose from, of all configurations, where one of them is."""
        total = sum(self.epochs)
        return [f"{total:,} configurations × epochs"] if total > len(self.epochs) else []

    def _rest_of_test(self) -> list[str]:
        """The rows per class that val took from test, where it did."""
        if not (per_class := self.about.get("val_from_test")):
            return []
        rows = "–".join(map(str, sorted(set(per_class))))
        row = "row" if rows == "1" else "rows"
        return [f"val: {rows} {row} per class taken from test; test is the rest"]

    @cached_property
    def ties(self) -> int:
        """The number of configurations that tie with the best."""
        return int(self.optimism.tied.sum()) - 1 if self.optimism else 0

    def _cost(self) -> list[str]:
        """The figure of the best configuration, corrected, and how many tie with it."""
        if not (best := self.optimism) or math.isnan(best.corrected):
            return []
        figure = f"best {best.figure:.1f} on {self.select_on}, {best.corrected:.1f} corrected"
        others = len(best.tied) - 1
        tie = f"{self.ties} of {others} others {'ties' if self.ties == 1 else 'tie'} with it"
        how = " by nested folds" if best.nested else ""
        return [f"{figure} for choosing{how}", *([tie] if self.ties else [])]

    def _so_far(self) -> list[str]:
        """The runs so far of a sweep that has not ended."""
        return [f"{self.runs[0]:,} of {sum(self.runs):,} runs so far"] if self.runs else []

    def _ensemble(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The relation of an ensemble to what was tried, where one is shown."""
        if not any(row["name"] == ENSEMBLE for row in rows):
            return []
        return ["ensemble: made of these, neither counted nor corrected, cross-fitted on val"]

    def _classes(self) -> list[str]:
        """Classes without rows in train or val; groups by other counts than those of train."""
        notes = []
        classes = self.about.get("classes", {})  # absent from older files
        if untrained := self.about.get("untrained", {}).get(self.split):
            total, have = classes[self.split], "has" if untrained == 1 else "have"
            where = "tested classes" if self.split == "test" else "classes of val"
            notes.append(f"{untrained} of {total} {where} {have} no training row")
        missing = self.about.get("missing_in_val")
        if missing and self.select_on == "val" and self.split == "test":
            tested = classes["test"]
            notes.append(f"val has {tested - missing} of {tested} tested classes")
        if self.about.get("outside_counts"):
            notes.append("class counts from outside")
        elif not np.array_equal(full_counts(self.about), self.about["train_counts"]):
            notes.append("groups by the counts before val was held out of train")
        if (background := self.about.get("background")) is not None:
            notes.append(f"background: class {background}, in no group and of weight 1")
        return notes


def joined_line(parts: Mapping[str, Sequence[str]], between: Sequence[str] = ()) -> str:
    """The protocols of several banks in one line: what holds of one bank alone after its name, and
    what holds of each of them once.

    Parameters
    ----------
    parts
        `Protocol.parts` by the bank's name; those of one bank are the line of that bank.
    between
        What holds between the banks.
    """
    if len(parts) == 1:
        return " · ".join(next(iter(parts.values())))
    first, *others = parts.values()
    shared = [part for part in first if all(part in other for other in others)]
    own = {name: [part for part in each if part not in shared] for name, each in parts.items()}
    sections = {**own, "each bank": shared, "between the banks": between}
    return " ".join(f"[{name}] {' · '.join(each)}" for name, each in sections.items() if each)


def ranking_epoch(select_on: str | None, select_epoch: str = "selected") -> str:
    """The epoch that selects where it was measured; it is never picked on test."""
    return select_epoch if select_on == "val" else "last"


def is_calibrated(row: Mapping[str, Any]) -> bool:
    """Whether a configuration has a calibration, which was fitted to val."""
    return row["parameters"].get("calibration", "none") != "none"


def measured_splits(about: Mapping[str, Any]) -> list[str]:
    """The splits results are measured on, as far as the bank has rows of them; folds first, test
    last."""
    folds = sorted(filter(is_folds, about["rows"]), key=fold_count)
    return [*folds, *(split for split in EVALUATED if about["rows"].get(split))]


def default_selection(about: Mapping[str, Any], measured: Collection[str]) -> str | None:
    """The split that selects unless another is named: val, else the most folds that any run was
    `measured` on; never test."""
    splits = measured_splits(about)
    folds = [split for split in splits if is_folds(split) and split in measured]
    if "val" in splits:
        return "val"
    return folds[-1] if folds else None


def is_screen(about: Mapping[str, Any], split: str | None) -> bool:
    """Whether a split is made up of rows that folds held out, but that stage 1 has seen: they
    order configurations, and no figure of theirs says how a head does on new rows."""
    return split is not None and is_folds(split) and bool(about.get("seen", {}).get("train"))


def _products(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The precisions of the products of the rows, where they are not full."""
    words = in_words(str(row["parameters"].get(PRECISION.name)) for row in rows)
    return [words] if words else []
