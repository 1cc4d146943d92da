"""``featbank evaluate``."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import click

from featbank.cli.detections import ANNOTATIONS, OF_ROWS, refuse, show_precision
from featbank.cli.maps import has_maps, show_map_figures
from featbank.cli.options import FILE, format_option
from featbank.cli.predict import NO_FEATURES, classified, input_options, restricted
from featbank.cli.priors import check_prior_output, moved, prior_options
from featbank.cli.tables import print_tables
from featbank.errors import ConfigError
from featbank.wording import number


@click.command()
@partial(input_options, required=False)
@click.option(
    "--labels",
    type=FILE,
    help="Classes [N] of arrays, 0…K−1 or by name: .npy, .npz of one array, or FILE:KEY.",
)
@prior_options
@click.option(
    "--detections",
    type=FILE,
    multiple=True,
    help="Detections to measure, json as COCO's and LVIS' evaluators take it, with --annotations "
    "and no HEAD; several times for a line each. Needs featbank[detection].",
)
@ANNOTATIONS
@click.option("--rows", is_flag=True, help="Measure the rows of a bank, though it has whole maps.")
@format_option("json and csv carry every metric.")
def evaluate(
    *,
    head: Path | None,
    features: tuple[Path, ...],
    labels: Path | None,
    detections: tuple[Path, ...],
    annotations: Path | None,
    rows: bool,
    form: str,
    **choice: Any,
) -> None:
    """Measure an exported head on rows whose labels are known, or detections on their annotations.

    FEATURES as for `featbank predict`. With --prior the table has the head as it is and under that
    prior; an estimate does not see the labels. Classes are matched by name; rows of a class that
    the head does not have are left out, and counted. Of a bank with whole maps these are measured,
    at the resolution of their labels; json has every class.

    \b
    featbank evaluate head.safetensors bank.h5 --split test
    featbank evaluate head.safetensors x.npy --labels y.npy --prior em
    featbank evaluate head.safetensors t.parquet:embedding --labels t.parquet:label
    featbank evaluate --detections dt.json --annotations val.json
    """
    if detections or annotations:
        if not detections or annotations is None:
            raise ConfigError("--detections and --annotations go together. Give both.")
        refuse(("head", "labels", *OF_ROWS), "is not for detections.")
        show_precision(detections, annotations, form)
        return
    if head is None:
        raise ConfigError("No HEAD is given. Give one and its FEATURES, or --detections.")
    if not features:
        raise ConfigError(NO_FEATURES)
    if labels is None and not rows and has_maps(features, choice["split"]):
        show_map_figures(head, features, form, **choice)
    else:
        _show_rows(head, features, form, labels=labels, **choice)


def _show_rows(
    head: Path,
    features: tuple[Path, ...],
    form: str,
    *,
    labels: Path | None,
    split: str | None,
    view: str | None,
    class_names: Path | None,
    restrict_classes: bool,
    prior: str | None,
    prior_output: Path | None,
) -> None:
    """Measure a head on rows, as it is and under a prior."""
    from stage2.export.arrays import is_arrays
    from stage2.export.evaluation import (
        evaluate_predictions,
        foreign_notes,
        metrics_table,
        render_metrics,
    )
    from stage2.export.headfile import load_head
    from stage2.export.target import transductive

    if labels is not None and not is_arrays(features[0]):
        raise ConfigError("--labels are those of arrays, a bank has its own. Leave them out.")
    check_prior_output(prior, prior_output)
    loaded = load_head(head)
    facts = loaded.facts
    predictions = classified(
        loaded,
        features,
        split=split,
        view=view,
        class_names=class_names,
        labels=labels,
        labelled=True,
    )
    counts = None if facts.prior is None else facts.prior.class_counts
    shown = {"as exported": predictions}
    if prior is not None:
        name = f"{prior} (transductive)" if transductive(prior) else prior
        shown[name] = moved(predictions, facts, prior, prior_output, err=form != "table")
    if restrict_classes:
        shown = {name: restricted(each) for name, each in shown.items()}
    groups = facts.class_groups
    evaluations = {name: evaluate_predictions(each, counts, groups) for name, each in shown.items()}
    *_, last = shown.values()
    for note in [*last.notes, *foreign_notes(shown["as exported"])]:
        warnings.warn(note)
    title = f"{facts.recipe['id']} on {number(len(predictions.logits), 'row')}"
    if form != "table":
        click.echo(render_metrics(evaluations, form, title, groups))
        return
    print_tables([metrics_table(evaluations, "", groups)], title)
