"""``featbank predict``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featbank.cli.options import FILE, Command, output_option
from featbank.cli.priors import check_prior_output, moved, prior_options
from featbank.cli.terminal import say
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage2.export.headfile import LoadedHead, LoadedHeads
    from stage2.export.prediction import Predictions


def input_options(command: Command) -> Command:
    """Add a head, features, and what chooses from a bank."""
    split = click.option("--split", help="Split of a bank. [default: test, or else val]")
    view = click.option(
        "--view",
        help="View of a bank, in place of the one the head was trained on; A+B for a head of two.",
    )
    features = click.argument("features", type=FILE, nargs=-1, required=True)
    return click.argument("head", type=FILE)(features(split(view(command))))


def are_arrays(features: tuple[Path, ...], split: str | None, view: str | None) -> bool:
    """Whether features are arrays rather than a bank; raise `ConfigError` where they are mixed."""
    from stage2.export.arrays import is_arrays

    arrays = [path for path in features if is_arrays(path)]
    if arrays and len(arrays) < len(features):
        raise ConfigError("A bank and arrays are given. Give a bank, or arrays alone.")
    if not arrays and len(features) > 1:
        raise ConfigError(f"{len(features)} banks are given. Give one.")
    for option, value in (("--view", view), ("--split", split)):
        if arrays and value:
            raise ConfigError(f"{option} chooses from a bank, arrays are given. Leave it out.")
    return bool(arrays)


def classified(
    head: LoadedHead | LoadedHeads, features: tuple[Path, ...], split: str | None, view: str | None
) -> Predictions:
    """Classify a bank or arrays."""
    from stage2.export.prediction import predict_arrays, predict_bank

    if are_arrays(features, split, view):
        return predict_arrays(head, features)
    from featbank.bank import Bank

    with Bank(features[0]) as bank:
        return predict_bank(head, bank, split=split, views=view.split("+") if view else None)


@click.command()
@input_options
@output_option("The file: .npz of arrays, or .csv of a line per row.")
@prior_options
def predict(
    *,
    head: Path,
    features: tuple[Path, ...],
    output: Path,
    split: str | None,
    view: str | None,
    prior: str | None,
    prior_output: Path | None,
) -> None:
    """Classify the features of a bank, or of arrays, with an exported head.

    FEATURES is a bank, or an array [N, D] for each view of the head, in its order: FILE.npy,
    FILE.npz of one array, or FILE.npz:KEY.

    \b
    featbank predict head.safetensors bank.h5 --split test -o predictions.csv
    featbank predict head.safetensors features.npy -o predictions.npz
    featbank predict head.safetensors features.npy --prior em -o predictions.npz
    """
    are_arrays(features, split, view)
    from stage2.export.headfile import load_head
    from stage2.export.prediction import check_output

    check_output(output)
    check_prior_output(prior, prior_output)
    loaded = load_head(head)
    predictions = classified(loaded, features, split, view)
    if prior is not None:
        predictions = moved(predictions, loaded.facts, prior, prior_output)
    for note in predictions.notes:
        warnings.warn(note)
    predictions.write(output)
    accuracy = ""
    if predictions.labels is not None and len(predictions.labels):
        accuracy = (
            f", {100 * (predictions.classes == predictions.labels).mean():.1f} % of them right"
        )
    say(f"Classified {len(predictions.classes)} rows{accuracy}. Wrote {output}.")
