"""``featbank export-features``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import FILE, output_option, overwrite_option
from featbank.cli.terminal import say


@click.command("export-features")
@click.argument("bank", type=FILE)
@output_option("The folder.")
@overwrite_option("Replace an earlier export.")
def export_features(*, bank: Path, output: Path, overwrite: bool) -> None:
    """Write a bank to a folder of .npy files, for programs that read no HDF5.

    Files are named as in the bank: train/label.npy [N], train/instance/feature.npy [N, D],
    classifier/instance/weight.npy [K, D], classes/name.txt, …; bank.json has the rest.
    `featbank import` reads the folder back, except BatchNorm statistics, which are not exported.

    \b
    featbank export-features bank.h5 -o features
    featbank import features -o again.h5
    """
    from featbank.exchange import export_features as export

    export(bank, output, overwrite=overwrite)
    say(f"Wrote {output}. It holds plain NumPy files; {output / 'bank.json'} describes them.")
