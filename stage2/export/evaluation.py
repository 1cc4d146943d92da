"""Metrics of predictions whose labels are known."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from featbank import errors
from featbank.bank import ClassGroups
from featbank.characters import in_csv, in_markdown
from featbank.wording import number
from stage2.engine.metrics import METRICS, Evaluation
from stage2.engine.tally import Tally
from stage2.export.prediction import BLOCK_BYTES, Predictions
from stage2.results.classes import metrics_of
from stage2.results.tables import Table

SHOWN = ("top1", "macro", "many", "medium", "few", "nll", "ece", "brier")
"""Metrics of the table for people."""


def evaluate_predictions(
    predictions: Predictions,
    class_counts: Sequence[int] | None = None,
    groups: ClassGroups | None = None,
) -> Evaluation:
    """The metrics of predictions, on the rows of classes that the head has.

    Parameters
    ----------
    predictions
        With labels.
    class_counts
        Training counts of the head's classes; without them there is nothing by group.
    groups
        The groups of the head's classes; by default the usual ones by their counts.

    Raises
    ------
    ConfigError
        Without labels, or without rows.
    """
    labels, logits = predictions.labels, predictions.logits
    if labels is None or not len(labels):
        fact = "The labels of the rows are not known" if labels is None else "There are no rows"
        raise errors.ConfigError(
            f"{fact}. Give a bank of the head's classes, or arrays with rows and their --labels."
        )
    if (foreign := predictions.foreign).all():
        raise errors.ConfigError(
            f"All {len(labels)} rows are of classes that the head does not have. Give rows of its "
            "classes."
        )
    if foreign.any():
        labels, logits = labels[~foreign], logits[~foreign]
    classes = len(predictions.class_names)
    counts = None if class_counts is None else np.array(class_counts)
    masks = groups.masks if groups else None
    if (among := predictions.among) is not None:
        counts = None if counts is None else counts[among]
        masks = masks and {key: mask[among] for key, mask in masks.items()}
    tally = Tally(torch.from_numpy(labels), classes, 1, counts, masks)
    for block in torch.from_numpy(logits).split(max(1, BLOCK_BYTES // (4 * classes))):
        tally.add(block[:, None].clone())  # it overwrites what it is given
    return tally.evaluations()[0]


def foreign_notes(predictions: Predictions) -> list[str]:
    """The number of rows of classes that the head does not have, and the accuracy if they count;
    none where no row is."""
    if predictions.labels is None or not (count := int(predictions.foreign.sum())):
        return []
    top1 = 100 * (predictions.classes == predictions.labels).mean()
    return [
        f"{count} of {number(len(predictions.labels), 'row')} are of classes that the head does "
        f"not have and are left out; counted as wrong, they make top-1 {top1:.1f} %"
    ]


def metrics_table(
    evaluations: Mapping[str, Evaluation], title: str, groups: ClassGroups | None = None
) -> Table:
    """A line of the metrics in `SHOWN` for each evaluation, with the names of class groups; those
    that none has are left out."""
    shown = [
        name
        for name in SHOWN
        if any(each.metrics[name] is not None for each in evaluations.values())
    ]
    lines = [
        [prior, *(_text(name, each.metrics[name]) for name in shown)]
        for prior, each in evaluations.items()
    ]
    metrics = metrics_of(groups) if groups else METRICS
    return Table(title, ["prior", *(metrics[name].label for name in shown)], lines)


def render_metrics(
    evaluations: Mapping[str, Evaluation], form: str, title: str, groups: ClassGroups | None = None
) -> str:
    """The metrics of each evaluation as ``json`` or ``csv``, or those in `SHOWN` as ``md`` or
    ``latex`` with a title."""
    rows = [
        {"prior": prior, **{name: each.metrics[name] for name in METRICS}}
        for prior, each in evaluations.items()
    ]
    return render_rows(rows, metrics_table(evaluations, title, groups), form)


def render_rows(rows: Sequence[Mapping[str, Any]], table: Table, form: str) -> str:
    """Rows as ``json`` or ``csv``, or a table of them as ``md`` or ``latex`` with its title."""
    if form == "json":
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: in_csv(value) for name, value in row.items()} for row in rows)
        return out.getvalue().rstrip("\n")
    if form == "latex":
        return table.latex()
    return f"{table.markdown()}\n\n{in_markdown(table.title)}"


def _text(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{METRICS[name].decimals}f}"
