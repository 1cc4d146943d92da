"""Splitting a bank: a val split out of train, or shards of contiguous rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.bank.checks import check_disjoint, check_paths_apart
from featbank.bank.classes import HoldOut, class_counts, hold_out
from featbank.bank.copying import (
    Copier,
    Piece,
    Progress,
    feature_bytes,
    in_mebibytes,
    origin,
    refuse_inputs,
    whole,
)
from featbank.bank.file import Bank
from featbank.bank.writer import BankWriter
from featbank.wording import number

MOST_SHARDS = 10_000
"""Files that a bank is cut into."""


def split_val(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    how: HoldOut,
    *,
    seen: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """Write a bank with a val split that is held out of train, class by class.

    The index of both points to the source rows of train, as before; everything else is copied.

    Parameters
    ----------
    path
        A bank without a val split.
    output
        The bank to be written.
    how
        How many rows of each class.
    seen
        Whether stage 1 was trained on the rows of train; by default what `Bank.seen` says.
    overwrite
        Replace an existing output.
    progress
        Takes (MiB copied, MiB in all).

    Returns
    -------
    What was held out, in words.

    Raises
    ------
    ConfigError
        Where there is a val split, or the output is the bank itself.
    EmptyClass
        Where no class has two rows.
    DataError
        Where a held-out row, or its path, is in another split too.
    BankError, OutputExists, OutputBusy, NoSpace
        Where the bank cannot be read, or the output not written.
    """
    refuse_inputs(Path(output), [Path(path)])
    with Bank(path) as bank:
        if "val" in bank.splits:
            raise errors.ConfigError(
                f"{bank.path} has a val split of {number(bank.rows('val'), 'row')}. "
                "Hold out of a bank without one."
            )
        labels = bank.labels("train")
        kept, held = hold_out(labels, bank.num_classes, how)
        marks = {} if seen is None else {"seen": seen}
        pieces = {split: whole(bank, split) for split in bank.splits}
        pieces["train"] = Piece(bank, "train", kept, marks)
        pieces["val"] = Piece(bank, "train", held, {**marks, "held_out": True})
        check_disjoint(
            {split: piece.index for split, piece in pieces.items()},
            {split: bank.source(piece.split) for split, piece in pieces.items()},
        )
        check_paths_apart({s: paths for s, piece in pieces.items() if (paths := piece.paths)})
        size = feature_bytes(bank)
        with _writer(bank, Path(output), how.settings, overwrite) as writer:
            writer.reserve(size)
            _copy(bank, pieces, Copier(writer, in_mebibytes(progress, size)))
        return how.describe(class_counts(labels[held], bank.num_classes), bank.train_counts)


def split_shards(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    shards: int,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Cut a bank into shards ``NAME-0of4.h5``, …, which `featbank.bank.merge.merge` joins again.

    Shard i of n has the rows ⌊i·N/n⌋ … ⌊(i+1)·N/n⌋ − 1 of every split of N rows.

    Parameters
    ----------
    path
        The bank.
    folder
        Takes the shards; made where it is missing.
    shards
        Their number n ≥ 2.
    overwrite
        Replace existing shards.
    progress
        Takes (MiB copied, MiB in all).

    Returns
    -------
    The shards, in the order in which they merge to the bank.

    Raises
    ------
    ConfigError
        Where there are fewer than two shards or more than `MOST_SHARDS`, or the folder is a file.
    BankError, OutputExists, OutputBusy, NoSpace
        Where the bank cannot be read, or a shard not written.
    """
    if not 2 <= shards <= MOST_SHARDS:
        raise errors.ConfigError(
            f"A bank cannot be cut into {shards} shards. Give 2 or more, at most {MOST_SHARDS:,}."
        )
    with Bank(path) as bank:
        size = feature_bytes(bank)
        outputs = _shard_paths(bank.path, Path(folder), shards, overwrite)
        for i, output in enumerate(outputs):
            pieces = {}
            for split in bank.splits:
                every = whole(bank, split).rows
                n = len(every)
                rows = every[i * n // shards : (i + 1) * n // shards]
                pieces[split] = Piece(bank, split, rows)
            made = {"shard": i, "shards": shards}
            before = size * i // shards
            with _writer(bank, output, made, overwrite) as writer:
                writer.reserve(size - before)
                _copy(bank, pieces, Copier(writer, in_mebibytes(progress, size, before)))
    return outputs


def _shard_paths(bank: Path, folder: Path, shards: int, overwrite: bool) -> list[Path]:
    """Names of the shards, alphabetical in their order; refuses those that exist."""
    digits = len(str(shards - 1))
    paths = [folder / f"{bank.stem}-{i:0{digits}}of{shards}.h5" for i in range(shards)]
    if folder.exists() and not folder.is_dir():
        raise errors.ConfigError(f"{folder} is a file. Give a folder for the shards.")
    refuse = next((p for p in paths if p.exists() and not overwrite), None)
    if refuse:
        raise errors.OutputExists(f"{refuse} exists. Choose another folder or --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    return paths


def _writer(bank: Bank, output: Path, made: Mapping[str, Any], overwrite: bool) -> BankWriter:
    return BankWriter(
        output,
        bank.class_names,
        dim=bank.dim,
        dtype=bank.dtype,
        provenance={"made_by": "featbank split", **made, "from": origin(bank)},
        overwrite=overwrite,
    )


def _copy(bank: Bank, pieces: Mapping[str, Piece], copier: Copier) -> None:
    for split, piece in pieces.items():
        copier.split(split, [piece])
        for view in bank.views:
            copier.features(split, view, [piece])
    copier.models([bank])
