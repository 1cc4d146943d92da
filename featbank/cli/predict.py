"""``featbank predict``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.detections import OF_ROWS, refuse, rescore_proposals, rescoring_options
from featbank.cli.maps import write_maps
from featbank.cli.options import FILE, Command, output_option
from featbank.cli.priors import check_prior_output, moved, prior_options
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

if TYPE_CHECKING:
    from stage2.export.facts import HeadFacts
    from stage2.export.headfile import LoadedHead, LoadedHeads
    from stage2.export.prediction import Predictions

TOP = 5
"""Classes of a line of .csv."""

NO_FEATURES = "No FEATURES are given. Give a bank, or an array [N, D] for each view."


def input_options(command: Command, *, required: bool = True) -> Command:
    """Add a head, features, and what chooses from a bank."""
    split = click.option("--split", help="Split of a bank. [default: test, or else val]")
    view = click.option(
        "--view",
        help="View of a bank, in place of the one the head was trained on; A+B for a head of two.",
    )
    names = click.option(
        "--class-names",
        type=FILE,
        help="Names of the classes 0, 1, … of the labels, one per line, in place of a bank's own.",
    )
    restrict = click.option(
        "--restrict-classes",
        is_flag=True,
        help="Predict none but the classes of the bank, or of --class-names. [default: all of the "
        "head's]",
    )
    features = click.argument("features", type=FILE, nargs=-1)
    head = click.argument("head", type=FILE, required=required)
    return head(features(split(view(names(restrict(command))))))


def are_arrays(features: tuple[Path, ...], split: str | None, view: str | None) -> bool:
    """Whether features are arrays rather than a bank; raise `ConfigError` where they are mixed."""
    from stage2.export.arrays import is_arrays

    arrays = [path for path in features if is_arrays(path)]
    if not features:
        raise ConfigError(NO_FEATURES)
    if arrays and len(arrays) < len(features):
        raise ConfigError("A bank and arrays are given. Give a bank, or arrays alone.")
    if not arrays and len(features) > 1:
        raise ConfigError(f"{len(features)} banks are given. Give one.")
    for option, value in (("--view", view), ("--split", split)):
        if arrays and value:
            raise ConfigError(f"{option} chooses from a bank, arrays are given. Leave it out.")
    return bool(arrays)


def classified(
    head: LoadedHead | LoadedHeads,
    features: tuple[Path, ...],
    *,
    split: str | None,
    view: str | None,
    class_names: Path | None,
    labels: Path | None = None,
    labelled: bool = False,
) -> Predictions:
    """Classify a bank, of known labels if they are to be `labelled`, or arrays with those given."""
    from featbank.texts import read_class_names
    from stage2.export.prediction import predict_arrays, predict_bank

    names = None if class_names is None else read_class_names(class_names)
    if are_arrays(features, split, view):
        return predict_arrays(head, features, labels=labels, class_names=names)
    from featbank.bank import Bank

    with Bank(features[0]) as bank:
        views = view.split("+") if view else None
        return predict_bank(
            head, bank, split=split, views=views, class_names=names, labelled=labelled
        )


def restricted(predictions: Predictions) -> Predictions:
    """Predictions among the given classes alone; raise `ConfigError` where none are given."""
    if predictions.given is None:
        raise ConfigError(
            "--restrict-classes takes the classes of a bank, and none are known here. Give "
            "--class-names FILE with them, one per line."
        )
    return predictions.restricted()


@click.command()
@input_options
@output_option(
    "The file: .npz of arrays, or .csv of a line per row; .json of detections.", required=False
)
@click.option(
    "--maps",
    type=FILE,
    metavar="FOLDER",
    help="Classify the whole maps of a bank instead, and write them here as PNG, with the numbers "
    "that their labels had.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help=f"Write a column for each class to .csv, not the {TOP} most likely of each row.",
)
@prior_options
@rescoring_options
def predict(
    *,
    head: Path,
    features: tuple[Path, ...],
    output: Path | None,
    maps: Path | None,
    every: bool,
    split: str | None,
    view: str | None,
    class_names: Path | None,
    restrict_classes: bool,
    prior: str | None,
    prior_output: Path | None,
    detections: Path | None,
    **rescoring: Any,
) -> None:
    """Classify the features of a bank, or of arrays, with an exported head.

    FEATURES is a bank, or an array [N, D] for each view of the head, in its order: FILE.npy,
    FILE.npz of one array, or FILE:KEY of .npz, .h5, .parquet, … as of `featbank import`. Classes
    of a bank are found among the head's by name. With --detections the rows are boxes of images,
    with --maps the output is label maps.

    \b
    featbank predict head.safetensors bank.h5 --split test -o predictions.csv
    featbank predict head.safetensors bank.h5 --all -o probabilities.csv
    featbank predict head.safetensors features.npy -o predictions.npz
    featbank predict head.safetensors table.parquet:embedding -o predictions.csv
    featbank predict head.safetensors features.npy --prior em -o predictions.npz
    featbank predict head.safetensors bank.h5 --maps predicted
    featbank predict head.safetensors --detections proposals.npz --annotations val.json -o dt.json
    """
    if (output is None) == (maps is None):
        raise ConfigError("Give -o predictions.npz or --maps FOLDER, one of the two.")
    if maps is not None:
        refuse(("detections", "every", *rescoring), "is not for whole maps.")
        write_maps(
            *(head, features, maps),
            split=split,
            view=view,
            class_names=class_names,
            restrict_classes=restrict_classes,
            prior=prior,
        )
        return
    assert output is not None
    if detections is not None:
        refuse((*OF_ROWS, "every"), "is not for boxes.")
        rescore_proposals(head, features, output, detections=detections, **rescoring)
        return
    refuse(rescoring, "is for boxes, which --detections gives.")
    are_arrays(features, split, view)
    from stage2.export.headfile import load_head
    from stage2.export.prediction import check_output

    check_output(output)
    if output.suffix != ".csv":
        refuse(("every",), "is for .csv, .npz has every class.")
    check_prior_output(prior, prior_output)
    loaded = load_head(head)
    predictions = classified(loaded, features, split=split, view=view, class_names=class_names)
    if prior is not None:
        predictions = moved(predictions, loaded.facts, prior, prior_output)
    if restrict_classes:
        predictions = restricted(predictions)
    for note in predictions.notes:
        warnings.warn(note)
    predictions.write(output, top=None if every else TOP)
    accuracy = ""
    if predictions.labels is not None and len(predictions.labels):
        accuracy = (
            f", {100 * (predictions.classes == predictions.labels).mean():.1f} % of them right"
        )
        if count := int(predictions.foreign.sum()):
            accuracy += f", {count} of classes that the head does not have counted as wrong"
    say(f"Classified {number(len(predictions.classes), 'row')}{accuracy}. Wrote {output}.")
    _say_figures(predictions, loaded.facts)


def _say_figures(predictions: Predictions, facts: HeadFacts) -> None:
    """Print the figures of rows whose labels are known, those of classes of the head."""
    from stage2.export.evaluation import evaluate_predictions, metrics_table

    labels = predictions.labels
    if labels is None or not len(labels) or predictions.foreign.all():
        return
    counts = None if facts.prior is None else facts.prior.class_counts
    groups = facts.class_groups
    evaluation = evaluate_predictions(predictions, counts, groups)
    table = metrics_table({"": evaluation}, "", groups)
    figures = zip(table.header[1:], table.lines[0][1:], strict=True)
    say(", ".join(f"{name} {value}" for name, value in figures))
