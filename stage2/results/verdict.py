"""The verdict of a sweep: what was chosen, what it gains, and what choosing cost, in two lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.wording import number
from stage2.engine.metrics import RANKING
from stage2.results.compare import correct_of, measured_rows
from stage2.results.differences import Measure, MeasuredRows, Resampling, gain_of
from stage2.results.ensembles import ENSEMBLE
from stage2.results.leaderboard import Leaderboard, Row, differences, why_unranked
from stage2.results.results import Results
from stage2.results.significance import LEVEL
from stage2.results.store import Store

RESAMPLES = 2_000
"""Resamples of the bootstrap; intervals are those of `featbank compare`."""

STAGE1, PROBE, PLAIN = "stage 1's own classifier", "the linear probe", "plain re-training"


@dataclass(frozen=True)
class Gain:
    """The gain of the chosen configuration over another in macro accuracy on the split shown.

    Attributes
    ----------
    over, id
        The other in words, with its recipe and settings, and its id.
    figure
        Macro accuracy of the other, percent.
    difference
        That of the chosen minus that of the other, points.
    low, high
        The paired interval of the difference; None where rows or seeds cannot be paired.
    """

    over: str
    id: str
    figure: float
    difference: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" [{_points(self.low)}, {_points(self.high)}]"
        return f"{_points(self.difference)}{interval} over {self.over}"


@dataclass(frozen=True)
class Verdict:
    """The result of a sweep on one bank.

    Attributes
    ----------
    results, bank
        The results file, and the bank's name in it; None where it is the only one.
    id, name, settings
        The configuration that the protocol puts first, an ensemble aside, its recipe, and the
        settings in which it differs from its preset. The first two are None where nothing is
        chosen.
    split, figure, std
        The split shown, macro accuracy there in percent, and its deviation over seeds; None where
        it was not measured there.
    iou
        The mean IoU there in percent, of rows that are pixels.
    select_on
        The split that chose; None where nothing selects.
    screened
        Whether the rows that chose were seen by stage 1: they give an order and no figures.
    tried
        Number of configurations that were tried.
    so_far
        Numbers of runs that are done and left, of a sweep that has not ended.
    selected, corrected
        Macro accuracy on the split that chose, as it is and corrected for choosing; None where that
        is not known.
    ties
        How many of the others cannot be told apart from the best, or None where that is not known.
    compared
        How many others were compared.
    gains
        What it gains over stage 1's own classifier and over plain re-training, as far as these were
        swept and are not what is chosen.
    lacking
        Which of the two were not swept.
    reason, remedy
        Why nothing was chosen, and the ways to a choice.
    next_command
        The command that continues from here; empty for results in memory.
    """

    results: str
    bank: str | None
    id: str | None
    name: str | None
    settings: str
    split: str
    figure: float | None
    std: float | None
    iou: float | None
    select_on: str | None
    screened: bool
    tried: int
    so_far: tuple[int, ...]
    selected: float | None
    corrected: float | None
    ties: int | None
    compared: int
    gains: tuple[Gain, ...]
    lacking: tuple[str, ...]
    reason: str
    remedy: str
    next_command: str

    @property
    def lines(self) -> tuple[str, str]:
        """The verdict for people."""
        if self.id is None:
            return self.reason, self.remedy
        return f"{self._chosen} {self._figures}.", self._cost

    @property
    def _chosen(self) -> str:
        """The choice, the rows that made it, and the number of configurations tried."""
        name = " ".join(filter(None, (self.name, self.settings)))
        if self.tried == 1:
            return f"{name}, the only configuration,"
        return f"{name}, chosen on {self.select_on} among {number(self.tried, 'configuration')},"

    @property
    def _figures(self) -> str:
        """Its figure and its gains."""
        if self.figure is None:
            return f"is not measured on {self.split} yet"
        spread = "" if self.std is None else f" ± {self.std:.1f}"
        parts = [f"has {self.figure:.1f}{spread} % macro accuracy on {self.split}"]
        parts += [] if self.iou is None else [f"mIoU {self.iou:.1f} %"]
        parts += map(str, self.gains)
        paired = any(gain.low is not None for gain in self.gains)
        text = ", ".join(parts) + (f" ({LEVEL} % intervals, paired)" if paired else "")
        return text + (f"; {' and '.join(self.lacking)} not swept" if self.lacking else "")

    @property
    def _cost(self) -> str:
        """The number that ties with it, the cost of choosing, and a word on optimistic figures."""
        parts = []
        if self.so_far:
            parts.append(f"So far: {self.so_far[0]:,} of {sum(self.so_far):,} runs.")
        if self.ties:
            those = f"{self.ties} of {number(self.compared, 'other')}"
            parts.append(f"{those} cannot be told apart from the best on {self.select_on}.")
        elif self.ties == 0:
            parts.append(f"No other ties with the best on {self.select_on}.")
        if self.selected is not None and self.corrected is not None:
            parts.append(
                f"{self.selected:.1f} on {self.select_on} is {self.corrected:.1f} corrected for "
                f"choosing among {self.tried}."
            )
        elif self.screened:
            parts.append(f"{self.select_on} of rows that stage 1 has seen: an order, no figures.")
        elif self.tried > 1:
            parts.append(
                f"The cost of choosing is not known: {self.select_on} is not compared row by row."
            )
        if self.split == self.select_on and self.tried > 1:
            parts.append(f"Figures of {self.split}, which chose, are optimistic.")
        return " ".join(parts) or "Nothing was chosen, so nothing is corrected for choosing."


def verdict(results: Results) -> Verdict:
    """Sum up the results on one bank, on the split that they show.

    The choice is that of the protocol; where nothing selects, nothing is chosen, unless a single
    configuration was tried. Intervals are of paired differences on the rows of the split shown.
    """
    board, terms = results.board, results.board.terms
    done = [row for row in _ranked(results) if board.has_place(row) and row["name"] != ENSEMBLE]
    chosen = results.chosen
    first = done[0] if terms.tried == 1 and done else None
    if chosen is not None:
        first = next(row for row in done if row["id"] == chosen.id)
    gains, lacking = _gains(results, done, first) if first else ((), ())
    reason, remedy, after = _without_choice(results) if first is None else ("", "", "")
    cost, macro = terms.optimism, first[RANKING] if first else None
    corrected = None if cost is None or math.isnan(cost.corrected) else cost.corrected
    return Verdict(
        results=str(results.path),
        bank=results.name if len(results.store.banks()) > 1 else None,
        id=first["recipe"] if first else None,
        name=first["name"] if first else None,
        settings=differences(first) if first else "",
        split=results.split,
        figure=macro,
        std=first[f"{RANKING}_std"] if first else None,
        iou=first["miou"] if first and results.about.get("pixels") else None,
        select_on=terms.select_on,
        screened=terms.is_screen,
        tried=terms.tried,
        so_far=terms.runs,
        selected=cost.figure if cost and corrected is not None and not terms.is_screen else None,
        corrected=None if terms.is_screen else corrected,
        ties=terms.ties if cost else None,
        compared=len(cost.tied) - 1 if cost else 0,
        gains=gains,
        lacking=lacking,
        reason=reason,
        remedy=remedy,
        next_command=export_command(results, first["recipe"]) if first else after,
    )


def verdict_of(board: Leaderboard, path: Path) -> Verdict:
    """The verdict on the bank of a board, read anew from the results file that it was made of."""
    terms = board.terms
    with Store(path) as store:
        results = Results(
            store,
            bank=terms.fingerprint,
            split=terms.split,
            select_on=terms.select_on,
            select_by=terms.rule,
            select_epoch=terms.select_epoch,
        )
        return verdict(results)


def gains_over_baseline(results: Results, rows: Sequence[Row]) -> dict[str, Gain]:
    """The gain of each row with a figure over plain re-training, else over stage 1's own
    classifier, by configuration; none of the baseline, and none where neither was swept."""
    done = [row for row in _ranked(results) if results.board.has_place(row)]
    baselines = _baselines(results, done)
    over = PLAIN if baselines[PLAIN] is not None else next(iter(baselines))
    base = baselines[over]
    if base is None or base[RANKING] is None:
        return {}
    tested, name = shown_rows(results), _named(over, base)
    return {
        row["recipe"]: _gain(results, row, base, name, tested)
        for row in rows
        if row[RANKING] is not None and row["recipe"] != base["recipe"]
    }


def _ranked(results: Results) -> Iterator[Row]:
    """The row of every configuration at the epoch that ranks, best first."""
    return map(results.board.ranked, results.board.configurations())


def export_command(results: Results, id_: str) -> str:
    """The command that exports the head of a configuration; none of results in memory."""
    if results.store.file.path is None:
        return ""
    parts = ["featbank", "export", str(results.path), id_, "-o", "head.safetensors"]
    parts += ["--bank", results.name] if len(results.store.banks()) > 1 else []
    if results.select_epoch == "last" and results.select_on == "val":
        parts += ["--epoch", "last"]
    return shlex.join(parts)


def _without_choice(results: Results) -> tuple[str, str, str]:
    """Why nothing is chosen, the ways to a choice, and the first command of them."""
    terms = results.board.terms
    if terms.select_on is None:
        count = number(terms.tried, "configuration")
        reason = f"Nothing is chosen among {count}: there is no val, and test selects only if asked"
        return f"{reason}. Presets stand as published.", terms.ways_to_a_val, terms.val_command
    words = why_unranked(results.board.first_rows(), terms.select_on)
    reason, remedy = words.split(". ", 1)
    reason = f"Nothing is chosen: every configuration {reason}."
    return reason, remedy, f"featbank status {shlex.quote(str(results.path))}"


def _gains(
    results: Results, done: list[Row], first: Row
) -> tuple[tuple[Gain, ...], tuple[str, ...]]:
    """The gains of a row over the baselines, and those baselines that were not swept."""
    baselines = _baselines(results, done)
    rows = shown_rows(results) if first[RANKING] is not None else None
    gains = tuple(
        _gain(results, first, row, _named(over, row), rows)
        for over, row in baselines.items()
        if row is not None and row["recipe"] != first["recipe"]
        if row[RANKING] is not None and first[RANKING] is not None
    )
    return gains, tuple(over for over, row in baselines.items() if row is None)


def _baselines(results: Results, done: list[Row]) -> dict[str, Row | None]:
    """Stage 1's own classifier and plain re-training, of the latter the best, as far as there."""
    stage1 = min(filter(is_stage1, done), key=_departs, default=None)
    views = stage1["parameters"]["view"].split("+") if stage1 else ()
    probed = set(views) & set(results.about.get("probed", ()))
    plain = [*filter(_is_plain, done)]
    best = results.ranking.best([row["recipe"] for row in plain]) if plain else []
    return {
        PROBE if probed else STAGE1: stage1,
        PLAIN: next((row for row in plain if row["recipe"] in best), None),
    }


def _named(over: str, row: Row) -> str:
    """A baseline with its recipe and settings, where its words do not say them."""
    if over != PLAIN:
        return over
    return f"{over} ({' '.join(filter(None, (row['name'], differences(row))))})"


def is_stage1(row: Row) -> bool:
    """Whether a configuration is the classifier of stage 1, but for its bias."""
    own = row["parameters"]
    return (
        own.get("head") in ("logit_adjust", "tau_norm")
        and own.get("tau") == 0
        and own.get("calibration", "none") == "none"
    )


def _departs(row: Row) -> tuple[bool, bool]:
    """Whether such a configuration lacks the bias, and whether it is of another view."""
    own = row["parameters"]
    return own.get("keep_bias") is False, own.get("view") != "instance"


def _is_plain(row: Row) -> bool:
    """Whether a configuration is a linear classifier under cross-entropy on rows as they come."""
    own = row["parameters"]
    usual = {"head": "linear", "loss": "ce", "sampler": "instance", "generator": "none"}
    usual |= {"calibration": "none"}
    same = all(own.get(name, value) == value for name, value in usual.items())
    return row["name"] == "ce" and same and own.get("max_norm") is None


def _gain(results: Results, first: Row, other: Row, over: str, rows: MeasuredRows | None) -> Gain:
    """The gain of a row over another; with its interval where the rows can be paired."""
    gain = Gain(over, other["recipe"], other[RANKING], first[RANKING] - other[RANKING])
    measure = None if rows is None else paired_gain(results, first, other, rows)
    if measure is None:
        return gain
    return replace(
        gain, figure=measure.a, difference=measure.difference, low=measure.low, high=measure.high
    )


def paired_gain(results: Results, row: Row, over: Row, rows: MeasuredRows) -> Measure | None:
    """The paired gain in macro accuracy of a configuration over another on the `rows` of the split
    shown; None where they have no seed in common."""
    pair = [results.configurations[each["recipe"]] for each in (over, row)]
    try:
        a, b = (correct_of(results, each, results.board.terms.epoch) for each in pair)
        how = Resampling(RESAMPLES, np.random.default_rng(0), 0)
        return gain_of((pair[0].id, pair[1].id), (a, b), rows, how, RANKING)
    except errors.ConfigError:
        return None


def shown_rows(results: Results) -> MeasuredRows | None:
    """The rows of the split shown; None where results cannot compare them."""
    try:
        return measured_rows(results, None)
    except errors.ConfigError:  # sums by class alone, or labels of a bank that is no longer there
        return None


def _points(difference: float) -> str:
    return f"{difference:+.1f}".replace("-", "−")
