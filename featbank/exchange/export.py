"""Exporting a bank as plain files, for programs that do not read banks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import Bank, schema
from featbank.bank.checks import check_finite
from featbank.exchange.about import describe
from featbank.exchange.arrayfile import not_installed
from featbank.exchange.exported import is_export
from featbank.exchange.parquet import PARQUET, write_parquet
from featbank.exchange.sinks import SINKS, Blocks, Sink, folder
from featbank.files import part_of, writing


def export_features(
    bank: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a bank to a folder of ``.npy`` files whose paths mirror the names in the bank.

    An output that ends in ``.h5``, ``.npz`` or ``.zarr`` holds the same names as one file, and one
    in ``.parquet`` is a table of the rows of all splits, see `featbank.exchange.parquet`.

    ``train/label.npy`` [N], ``train/index.npy`` [N], and if the bank has them ``train/path.txt``
    and the marks `schema.FLAGS`, such as ``train/seen.npy``, [N] bool, and the places
    `schema.PLACES`, ``train/source_group.npy`` [N] and ``train/cell.npy`` [N, 2];
    ``train/instance/feature.npy`` [N, D] (or [A, N, D] with A > 1 copies) in the stored type, with
    T tokens [N, T, D] (or [A, N, T, D]); ``classifier/instance/weight.npy`` [K, D] and ``bias.npy``
    [K], ``text/instance/feature.npy`` [P, K, D], ``classes/name.txt``, ``classes/train_count.npy``
    [K], and ``bank.json``, which describes the bank and has the names of source groups. BatchNorm
    statistics and maps are left out.

    Parameters
    ----------
    bank
        The bank.
    output
        The folder or file, which appears only when it is complete.
    overwrite
        Replace what an earlier export made.

    Raises
    ------
    OutputExists
        If the output exists, and `overwrite` is not set or it is no export.
    ConfigError
        If its parent folder is missing, the folder to be replaced holds the bank, or the format
        needs a package that is not installed.
    NotFinite
        If a feature is NaN or infinite.
    OSError
        If the output cannot be written.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise errors.ConfigError(f"{output.parent} is not a folder. Create it first.")
    _refuse_existing(output, overwrite)
    if output.exists():
        _refuse_within(output, Path(bank))
    part = part_of(output)
    sink = SINKS.get(output.suffix.lower(), folder)
    try:
        with Bank(bank) as opened, writing(output):
            if output.suffix.lower() == PARQUET:
                write_parquet(opened, part)
            else:
                with sink(part) as opened_sink:
                    _write(opened, opened_sink)
            _refuse_existing(output, overwrite)
            _remove(output)
            part.rename(output)
    except ImportError as error:
        raise not_installed(output, error) from None
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not (overwrite and is_export(output)):
        remedy = (
            "It is not an earlier export: choose another name."
            if overwrite
            else "Choose another name or --overwrite."
        )
        raise errors.OutputExists(f"{output} exists. {remedy}")


def _refuse_within(output: Path, bank: Path) -> None:
    if bank.exists() and any(f.samefile(bank) for f in output.rglob("*") if f.is_file()):
        raise errors.ConfigError(f"{output} holds {bank}, which is read. Choose another output.")


def _write(bank: Bank, sink: Sink) -> None:
    for split in bank.splits:
        sink.array(f"{split}/label", bank.labels(split))
        sink.array(f"{split}/index", bank.index(split))
        if (paths := bank.paths(split)) is not None:
            sink.texts(f"{split}/path", paths)
        for name in schema.PLACES:
            if (places := bank.place(split, name)) is not None:
                sink.array(f"{split}/{name}", places)
        for name in schema.FLAGS:
            if (flags := bank.flags(split, name)) is not None:
                sink.array(f"{split}/{name}", flags)
        for view in bank.views:
            blocks, dtype = _blocks(bank, split, view), np.dtype(bank.dtype)
            sink.features(f"{split}/{view}/feature", bank.shape(split, view), dtype, blocks)
    for view in bank.classifiers:
        stored = bank.classifier(view)
        assert stored is not None
        for name, array in zip(("weight", "bias"), stored, strict=True):
            check_finite(array, f"{bank.path}, classifier/{view}/{name}")
            sink.array(f"classifier/{view}/{name}", array)
    for view in bank.texts:
        embeddings = bank.text(view)
        assert embeddings is not None
        sink.array(f"text/{view}/feature", embeddings.features)
    sink.texts("classes/name", bank.class_names)
    sink.array("classes/train_count", bank.train_counts)
    sink.about(describe(bank))


def _blocks(bank: Bank, split: str, view: str) -> Blocks:
    """The features of a view block by block, as they may not fit in memory."""
    for copy in range(bank.copies(split, view)):
        for start, block in bank.blocks(split, view, copy=copy):
            check_finite(block, f"{bank.path}, {split}/{view}", first_row=start)
            yield copy, start, block
