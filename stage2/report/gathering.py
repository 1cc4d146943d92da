"""Gathering the page's data, which JSON can carry: the whole leaderboard, and details of its best
configurations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featbank import __version__
from stage2.engine.details import SHIFT_RATIOS
from stage2.engine.metrics import METRICS, RANKING
from stage2.features.experts import short_name
from stage2.report.answers import environment, intervals, verdict_data
from stage2.report.details import SECTIONS, Counts, details_of
from stage2.report.importance import importances
from stage2.results import filters
from stage2.results.cite import cite
from stage2.results.grids import varied
from stage2.results.leaderboard import Leaderboard, Row, differences
from stage2.results.measured import measured
from stage2.results.results import Results
from stage2.results.tables import Column, metric_columns, starred_protocol
from stage2.results.verdict import is_stage1

TOP = 12
"""Configurations whose details a page carries."""


def gather(
    results: Results,
    *,
    condition: str | None = None,
    top: int = TOP,
    title: str | None = None,
) -> dict[str, Any]:
    """Everything the page shows.

    Parameters
    ----------
    results
        The results.
    condition
        Only configurations that meet it, `stage2.results.filters.where`.
    top
        Number of configurations with details: the best of every recipe, then the next best.
    title
        The page's title; by default the name of the results file.

    Raises
    ------
    ConfigError
        For a text that is not a condition.
    """
    board, split, about = results.board, results.split, results.about
    if condition is not None:
        board = filters.where(board, condition)
    ranked = [board.ranked(rows) for rows in board.configurations()]
    done = [
        row
        for row in ranked
        if row["status"] == "done" and results.configurations[row["recipe"]].measured_on(split)
    ]
    before, why = _before(done)
    chosen = _with_details(done, top, before)
    details, counts = {}, Counts.of(results)
    for row in chosen:
        arrays = measured(results, results.configurations[row["recipe"]], row["epoch"])
        details[row["recipe"]] = details_of(arrays, counts)
    present = {name for data in details.values() for name in data}
    settings, columns = _settings(board), _columns(board)
    return {
        "title": title or results.path.name,
        "version": __version__,
        "verdict": verdict_data(results),
        "intervals": intervals(results, done),
        "importance": importances(ranked),
        "environment": environment(results.tried),
        "protocol": starred_protocol(board),
        "selectOn": board.select_on,
        "order": board.terms.order,
        "ranking": "selection" if board.select_on else RANKING,
        "figure": f"{board.select_on or split} {METRICS[RANKING].label}",
        "advice": board.terms.advice,
        "split": split,
        "epoch": "selected" if any(row["epoch"] == "selected" for row in ranked) else "last",
        **_bank(results),
        "columns": [_header(column, board) for column in columns],
        "settings": settings,
        "rows": [
            _row(board, rows, columns, settings, _seconds(results, rows[0]["recipe"]))
            for rows in board.configurations()
        ],
        "details": details,
        "before": {"id": before["recipe"], "why": why} if before else None,
        "bound": [
            id_
            for id_ in details
            if results.configurations[id_].parameters.get("train_on") == "train_balanced"
        ],
        "shiftRatios": list(SHIFT_RATIOS),
        "missing": [
            f"{section.label} ({section.missing})"
            for name, section in SECTIONS.items()
            if name not in present and (not section.of_pixels or about.get("pixels"))
        ],
        "cite": cite([str(results.path)]),
    }


def _bank(results: Results) -> dict[str, Any]:
    """The bank, its classes and their groups."""
    about, groups = results.about, results.groups
    return {
        "bank": {
            "name": about.get("label") or Path(about["path"]).name,
            "fingerprint": results.fingerprint[:12],
            "dim": about["dim"],
            "rows": about["rows"],
        },
        "groups": groups.stated,
        "groupNames": groups.shown,
        "classes": {
            "names": results.class_names,
            "counts": results.counts.tolist(),
            "group": groups.of_classes(),
        },
    }


def _columns(board: Leaderboard) -> list[Column]:
    """The leaderboard's numbers; metrics that no configuration has are left out."""
    return [
        column
        for column in metric_columns(board, "report")
        if column.epoch
        or column.name == "selection"
        or any(row.get(column.name) is not None for row in board.rows)
    ]


def _header(column: Column, board: Leaderboard) -> dict[str, Any]:
    """A column's key, label, tooltip, direction and decimals."""
    split, metric = board.terms.split, column.metric
    label, tooltip = column.label, metric.description
    if column.epoch:
        tooltip = f"{metric.label} on {split}, {column.epoch} epoch, {metric.unit}"
    elif column.key in ("selection", "selection_nll"):
        tooltip = f"{metric.label} on {board.select_on}, by which it ranks, {metric.unit}"
    elif column.name == RANKING:  # beside the same on the split that ranks
        label = f"{split} {label}"
    return {
        "key": column.key,
        "label": label,
        "tooltip": tooltip,
        "less": metric.lower_is_better,
        "decimals": metric.decimals,
    }


def _seconds(results: Results, id_: str) -> float:
    """Seconds of all runs of a configuration, to three digits."""
    return float(f"{sum(run.seconds for run in results.configurations[id_].runs):.3g}")


def _row(
    board: Leaderboard,
    rows: Sequence[Row],
    columns: Sequence[Column],
    settings: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """A configuration's line: its names, its numbers as [mean, std over seeds], its settings, and
    the seconds of its runs."""
    ranked = board.ranked(rows)
    return {
        "id": ranked["recipe"],
        "name": ranked["name"],
        "changes": differences(ranked),
        "seeds": len(ranked["seeds"]),
        "seconds": seconds,
        "status": ranked["status"],
        "tied": bool(ranked["tied"] and board.terms.ties),
        "values": {
            column.key: [rounded(number) for number in column.value(board, rows)]
            for column in columns
        },
        "settings": [_setting(name, ranked["parameters"].get(name)) for name in settings],
    }


def _settings(board: Leaderboard) -> list[str]:
    """Settings that a recipe varies, those with the most values first."""
    most: dict[str, int] = {}
    for recipe in dict.fromkeys(row["name"] for row in board.rows):
        for name, values in varied([row for row in board.rows if row["name"] == recipe]).items():
            most[name] = max(len(values), most.get(name, 0))
    return sorted(most, key=lambda name: -most[name])


def _setting(name: str, value: Any) -> Any:
    """A setting's value as a number, a text, or None."""
    if name == "view" and value is not None:
        return short_name(value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return value
    return None if value is None else str(value)


def _with_details(done: Sequence[Row], top: int, before: Row | None) -> list[Row]:
    """At most `top` rows: the best, `before`, the best of every recipe, then the next best."""
    first: dict[str, Row] = {}
    for row in done:
        first.setdefault(row["name"], row)
    wanted = [*done[:1], *([before] if before else []), *first.values(), *done]
    return list({row["recipe"]: row for row in wanted}.values())[:top]


def _before(done: Sequence[Row]) -> tuple[Row | None, str]:
    """The configuration that the best is compared with, and the reason for it."""
    if len(done) < 2:
        return None, ""
    best, others = done[0], done[1:]
    same = {**best["parameters"], "calibration": "none"}
    candidates: Iterable[tuple[bool, Row, str]] = [
        *((row["parameters"] == same, row, "the same without calibration") for row in others),
        *((is_stage1(row), row, "the stage-1 classifier itself, τ = 0") for row in others),
        *((row["name"] == "ce", row, "plain cross-entropy") for row in others),
        *((row["name"] != best["name"], row, "the next best recipe") for row in others),
        (True, others[0], "the next best configuration"),
    ]
    return next((row, why) for fits, row, why in candidates if fits)


def rounded(value: float | None) -> float | None:
    """A value to three decimals, the most that the page shows."""
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
