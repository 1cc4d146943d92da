"""Detections of ``featbank predict`` and ``featbank evaluate``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from featbank.cli.options import FILE, Command, Finite, Integer
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

ANNOTATIONS = click.option(
    "--annotations",
    type=FILE,
    help="With --detections: annotations of the images as COCO's or LVIS' json; the classes are "
    "found among its categories by name.",
)

OF_ROWS = ("split", "view", "class_names", "restrict_classes", "prior", "prior_output")
"""Parameters of `featbank predict` and `evaluate` that are not for boxes."""


def rescoring_options(command: Command) -> Command:
    """Add what turns features of boxes into detections."""
    options = (
        click.option(
            "--detections",
            type=FILE,
            help="Proposals to score, and the output is detections as json of COCO and LVIS. FILE "
            "is .npz or .h5 with image_ids [N], boxes [N, 4] (x1, y1, x2, y2), perhaps scores [N], "
            "and features [N, D] unless FEATURES are given; or a json list with image_id, bbox (x, "
            "y, width, height) and perhaps score, with FEATURES.",
        ),
        ANNOTATIONS,
        click.option(
            "--category-ids",
            type=FILE,
            help="In place of names: the category of each class but the background, one per line.",
        ),
        click.option(
            "--background",
            metavar="NAME|INDEX",
            help="Class that is left out of the detections. [default: the background of the head's "
            "bank, else the class named so]",
        ),
        click.option(
            "--score-threshold",
            type=Finite(0, 1),
            help="Lowest score. [default: 0.05, with annotations as LVIS' 0.0001]",
        ),
        click.option(
            "--nms",
            "overlap",
            type=Finite(0, 1),
            help="Overlap (IoU) above which the lower of two boxes of a class is dropped. "
            "[default: 0.5]",
        ),
        click.option(
            "--per-image",
            "most",
            type=Integer(1),
            help="Most detections of an image. [default: 100, with annotations as LVIS' 300]",
        ),
        click.option(
            "--score-weight",
            type=Finite(0, 1),
            metavar="W",
            help="Weight of the proposals' own scores s: p^(1−W)·s^W. [default: 0]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def refuse(names: Iterable[str], reason: str) -> None:
    """Raise `ConfigError` if one of these parameters of the command is given; `reason` ends in a
    full stop."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            name = parameter.opts[-1] if isinstance(parameter, click.Option) else "HEAD"
            raise ConfigError(f"{name} {reason} Leave it out.")


def rescore_proposals(
    head: Path,
    features: Sequence[Path],
    output: Path,
    *,
    detections: Path,
    annotations: Path | None,
    category_ids: Path | None,
    background: str | None,
    **settings: Any,
) -> None:
    """Write the detections of a head on proposals."""
    from featbank.exchange.coco import read_annotations
    from stage2.detections.categories import background_of
    from stage2.detections.categories import category_ids as found_ids
    from stage2.detections.proposals import read_proposals
    from stage2.detections.rescoring import Settings, rescore
    from stage2.export.arrays import read_features
    from stage2.export.headfile import load_head

    if output.suffix.lower() != ".json":
        raise ConfigError(f"{output} does not end in .json, which detections are written as.")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent} is not a folder. Create it first.")
    loaded = load_head(head)
    names = loaded.facts.class_names
    without = background_of(names, background, loaded.facts.background)
    truth = None if annotations is None else read_annotations(annotations)
    categories = found_ids(names, without, truth, category_ids)
    proposals = read_proposals(detections)
    arrays: dict[str, Any] = {str(path): read_features(path) for path in features}
    if not arrays:
        if "features" not in proposals.arrays:
            raise ConfigError(
                f"{detections} has no array features. Give them as FEATURES: "
                f"featbank predict {head} FEATURES.npy --detections {detections}."
            )
        arrays = {f"{detections}:features": proposals.arrays["features"]}
    chosen = Settings.of(truth, **settings)
    found = rescore(loaded, proposals, arrays, categories, settings=chosen, annotations=truth)
    for note in found.notes:
        warnings.warn(note)
    found.write(output)
    say(
        f"Scored {number(len(proposals), 'proposal')} of {number(len(found.entries), 'image')}: "
        f"{number(len(found), 'detection')}. Wrote {output}."
    )


def show_precision(detections: Sequence[Path], annotations: Path, form: str) -> None:
    """Print the average precision of files of detections."""
    from featbank.cli.tables import print_tables
    from featbank.exchange.coco import read_annotations
    from stage2.detections.precision import (
        average_precision,
        precision_table,
        read_detections,
        render_precision,
    )

    truth = read_annotations(annotations)
    found = {}
    stems = len({path.stem for path in detections}) == len(detections)
    for path in detections:
        precision = average_precision(truth, read_detections(path), str(path))
        found[path.stem if stems else str(path)] = precision
        for note in precision.notes:
            warnings.warn(note)
    title = f"AP in % on {number(len(truth.images), 'image')} of {annotations}"
    if form == "table":
        print_tables([precision_table(found, "")], title)
    else:
        click.echo(render_precision(found, form, title))
