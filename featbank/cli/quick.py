"""``featbank quick``: from arrays to a first answer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featbank.cli.importing import write_arrays
from featbank.cli.options import device_option, output_option, overwrite_option
from featbank.cli.report import report
from featbank.cli.sweep import sweep
from featbank.cli.terminal import say
from featbank.errors import ConfigError, OutputExists

if TYPE_CHECKING:
    from featbank.exchange import Arrays

_PAIR = (str, str)

SHARE = 0.2
"""Share of the rows of each class that become val where none was given."""


@click.command()
@click.argument("train", nargs=-1, required=True, metavar="X Y | FILE")
@click.option("--test", type=_PAIR, metavar="X Y", help="Features [N, D] and labels [N] of test.")
@click.option("--val", type=_PAIR, metavar="X Y", help="The same of val, which selects.")
@click.option("--classifier", type=_PAIR, metavar="W B", help="Stage-1 weight [K, D] and bias [K].")
@click.option(
    "--seen",
    type=click.Choice(["train", "none"]),
    help="Rows that stage 1 was trained on; none for a frozen pretrained model, whose val then "
    f"comes from train. [default: unknown: a val that is not given is {SHARE:.0%} of test]",
)
@device_option
@output_option(
    "Folder for the bank, the results and the report.",
    required=False,
    default="featbank-quick",
    show_default=True,
)
@overwrite_option("Replace a bank of other arrays in the folder, and its results.")
@click.pass_context
def quick(
    context: click.Context,
    *,
    train: tuple[str, ...],
    test: tuple[str, str] | None,
    val: tuple[str, str] | None,
    classifier: tuple[str, str] | None,
    seen: str | None,
    device: str,
    output: Path,
    overwrite: bool,
) -> None:
    """Rank the usual methods on arrays of your own, in seconds.

    X and Y are features and labels of train, as `featbank import` takes them: .npy, FILE.npz:KEY,
    .csv, .h5:KEY, .mat, … FILE alone has every split, under the names that it lists.

    One command for import, split, sweep and report: 104 configurations of 11 methods (the ready
    specification quick), one seed each. Without --val a part of test becomes val, because test
    may not select; with --seen none a part of train. The same command again takes from the folder
    what is there.

    \b
    featbank quick x.npy y.npy --test xt.npy yt.npy
    featbank quick x.npy y.npy --val xv.npy yv.npy --test xt.npy yt.npy -o mine
    featbank quick feats.npz --seen none -o frozen
    """
    from stage2.specification import find_specification

    pairs = {"val": val, "test": test}
    arrays = _read(train, {split: pair for split, pair in pairs.items() if pair}, classifier, seen)
    output.mkdir(parents=True, exist_ok=True)
    bank, results = output / "bank.h5", output / "results.sqlite"
    with tempfile.TemporaryDirectory(dir=output) as folder:
        made = _write(arrays, Path(folder), of="train" if seen == "none" else "test")
        _keep(made, bank, results, overwrite=overwrite)
    places = (str(bank), str(find_specification("quick")))
    context.invoke(sweep, places=places, device=device, output=results, best=True)
    context.invoke(report, results=results, output=output / "report.html")


def _read(
    train: tuple[str, ...],
    pairs: Mapping[str, tuple[str, str]],
    classifier: tuple[str, str] | None,
    seen: str | None,
) -> Arrays:
    """The arrays, settled as `featbank import` settles them; print how they are read."""
    from featbank import exchange

    if len(train) == 1:
        (file,) = map(Path, train)
        read = exchange.read_export if exchange.is_export(file) else exchange.read_file
        arrays = read(file)
    elif len(train) == 2:
        arrays = exchange.Arrays()
        exchange.add_pair(arrays, "train", *train)
    else:
        raise ConfigError(
            f"{len(train)} arrays are given. Give features and labels of train, X Y, or one FILE."
        )
    for split, pair in pairs.items():
        exchange.add_pair(arrays, split, *pair)
    if classifier:
        exchange.add_classifier(arrays, *classifier)
    if "test" not in arrays.labels:
        raise ConfigError("There is no test to measure on. Give --test X Y.")
    exchange.settle(arrays)
    if seen:
        exchange.mark_seen(arrays, () if seen == "none" else (seen,))
    for line in exchange.report(arrays):
        say(line)
    return arrays


def _write(arrays: Arrays, folder: Path, *, of: str) -> Path:
    """The bank, in a folder; where there is no val, with one held out `of` a split."""
    from featbank import exchange
    from featbank.bank import HoldOut
    from featbank.bank.split import split_val

    imported, bank = folder / "imported.h5", folder / "bank.h5"
    write_arrays(imported, arrays, provenance=exchange.provenance(arrays))
    if "val" in arrays.labels:
        return imported
    held_out = split_val(imported, bank, HoldOut(None, SHARE, 0), of=of)
    other = (
        "Stage 1 never saw train, as --seen says."
        if of == "train"
        else "For a backbone that never saw train, --seen none takes it from train."
    )
    say(f"No val is given, and test may not select: {held_out}. {other}")
    return bank


def _keep(made: Path, bank: Path, results: Path, *, overwrite: bool) -> None:
    """Move a bank to its place unless the same is there; a replaced one takes its results along."""
    from featbank.bank import Bank

    if bank.exists():
        with Bank(made) as new, Bank(bank) as old:
            same = new.fingerprint == old.fingerprint
        if same:
            return
        if not overwrite:
            raise OutputExists(
                f"{bank} has other features. Choose another folder with -o, or --overwrite."
            )
        for stale in results.parent.glob(f"{results.name}*"):
            stale.unlink()
    made.replace(bank)
