"""A bank as plain files, for programs that read NumPy but no HDF5."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.files import part_of, writing


def export_features(
    bank: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a bank to a folder of ``.npy`` files whose places mirror the bank's names.

    ``train/label.npy`` [N], ``train/index.npy`` [N], ``train/path.txt``,
    ``train/instance/feature.npy`` [N, D] (or [A, N, D] with A > 1 copies) in the stored type,
    ``classifier/instance/weight.npy`` [K, D] and ``bias.npy`` [K], ``classes/name.txt``,
    ``classes/train_count.npy`` [K], and ``bank.json``, which tells what the bank is.

    Parameters
    ----------
    bank
        The bank.
    output
        The folder; it takes its place only when it is complete.
    overwrite
        Replace a folder that an earlier export made.

    Raises
    ------
    OutputExists
        Where the folder is there, and `overwrite` is not set or it is no export.
    ConfigError
        Where there is no folder to put it in.
    OSError
        Where it cannot be written.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise errors.ConfigError(f"{output.parent} is not a folder. Create it first.")
    _refuse_existing(output, overwrite)
    part = part_of(output)
    try:
        with Bank(bank) as opened, writing(output):
            _write(opened, part)
            _refuse_existing(output, overwrite)
            if output.exists():
                shutil.rmtree(output)
            part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not (overwrite and (output / "bank.json").is_file()):
        remedy = (
            "It is not an earlier export: choose another name."
            if overwrite
            else "Choose another name or --overwrite."
        )
        raise errors.OutputExists(f"{output} exists. {remedy}")


def _write(bank: Bank, folder: Path) -> None:
    for split in bank.splits:
        _save(folder / split / "label.npy", bank.labels(split))
        _save(folder / split / "index.npy", bank.index(split))
        paths = bank.paths(split)
        if paths is not None:
            _save_lines(folder / split / "path.txt", paths)
        for view in bank.views:
            _save_features(folder / split / view / "feature.npy", bank, split, view)
    for view in bank.classifiers:
        stored = bank.classifier(view)
        assert stored is not None
        for name, array in zip(("weight", "bias"), stored, strict=True):
            _save(folder / "classifier" / view / f"{name}.npy", array)
    _save_lines(folder / "classes" / "name.txt", bank.class_names)
    _save(folder / "classes" / "train_count.npy", bank.train_counts)
    about = {
        "fingerprint": bank.fingerprint,
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "splits": {
            split: {"rows": bank.rows(split), "source": bank.source(split)} for split in bank.splits
        },
        "views": bank.views,
        "provenance": bank.provenance,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (folder / "bank.json").write_text(text, encoding="utf-8")


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def _save_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _save_features(path: Path, bank: Bank, split: str, view: str) -> None:
    """Block by block: features need not fit in memory."""
    copies, rows, dim = bank.shape(split, view)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(bank.dtype)),
        "fortran_order": False,
        "shape": (rows, dim) if copies == 1 else (copies, rows, dim),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # not a memory map: that crashes where the disk is full
        np.lib.format.write_array_header_1_0(file, header)
        for copy in range(copies):
            for _, block in bank.blocks(split, view, copy=copy):
                file.write(block.data)
