"""``featbank predict``."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from featbank.cli.options import FILE, output_option
from featbank.cli.terminal import say
from featbank.errors import ConfigError


@click.command()
@click.argument("head", type=FILE)
@click.argument("features", type=FILE, nargs=-1, required=True)
@output_option("The file: .npz of arrays, or .csv of a line per row.")
@click.option("--split", help="Split of a bank. [default: test, or else val]")
@click.option(
    "--view",
    help="View of a bank, in place of the one the head was trained on; A+B for a head of two.",
)
def predict(
    *, head: Path, features: tuple[Path, ...], output: Path, split: str | None, view: str | None
) -> None:
    """Classify the features of a bank, or of arrays, with an exported head.

    FEATURES is a bank, or an array [N, D] for each view of the head, in its order: FILE.npy,
    FILE.npz of one array, or FILE.npz:KEY.

    \b
    featbank predict head.safetensors bank.h5 --split test -o predictions.csv
    featbank predict head.safetensors features.npy -o predictions.npz
    """
    from stage2.export.arrays import is_arrays

    arrays = [path for path in features if is_arrays(path)]
    if arrays and len(arrays) < len(features):
        raise ConfigError("A bank and arrays are given. Give a bank, or arrays alone.")
    if not arrays and len(features) > 1:
        raise ConfigError(f"{len(features)} banks are given. Give one.")
    for option, value in (("--view", view), ("--split", split)):
        if arrays and value:
            raise ConfigError(f"{option} chooses from a bank, arrays are given. Leave it out.")
    from stage2.export.headfile import load_head
    from stage2.export.prediction import check_output, predict_arrays, predict_bank

    check_output(output)
    loaded = load_head(head)
    if arrays:
        predictions = predict_arrays(loaded, arrays)
    else:
        from featbank.bank import Bank

        with Bank(features[0]) as bank:
            views = view.split("+") if view else None
            predictions = predict_bank(loaded, bank, split=split, views=views)
    for note in predictions.notes:
        warnings.warn(note)
    predictions.write(output)
    accuracy = ""
    if predictions.labels is not None and len(predictions.labels):
        accuracy = (
            f", {100 * (predictions.classes == predictions.labels).mean():.1f} % of them right"
        )
    say(f"Classified {len(predictions.classes)} rows{accuracy}. Wrote {output}.")
