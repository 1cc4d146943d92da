"""``featbank export-features``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import FILE, output_option, overwrite_option
from featbank.cli.terminal import say


@click.command("export-features")
@click.argument("bank", type=FILE)
@output_option("A folder, or a file: .h5, .npz, .zarr or .parquet.")
@overwrite_option("Replace an earlier export.")
def export_features(*, bank: Path, output: Path, overwrite: bool) -> None:
    """Write a bank to plain files, for programs that read no banks.

    OUTPUT is a folder of .npy files, or by its ending one file of arrays, .h5, .npz or .zarr, or a
    table with a row per row of the bank, .parquet.

    Files are named as in the bank: train/label.npy [N], train/instance/feature.npy [N, D],
    classifier/instance/weight.npy [K, D], classes/name.txt, …; bank.json has the rest.
    `featbank import` reads all of them back, except BatchNorm statistics and whole maps, which are
    not exported; a table is without classifiers and text as well.

    \b
    featbank export-features bank.h5 -o features
    featbank import features -o again.h5
    featbank export-features bank.h5 -o features.parquet
    """
    from featbank.exchange import export_features as export

    export(bank, output, overwrite=overwrite)
    say(f"Wrote {output}. Read it back with: featbank import {output} -o again.h5")
