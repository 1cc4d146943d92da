"""Exporting a bank as plain files, for programs that read NumPy but not HDF5."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import Bank, schema
from featbank.bank.checks import check_finite
from featbank.files import part_of, writing


def export_features(
    bank: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a bank to a folder of ``.npy`` files whose paths mirror the names in the bank.

    ``train/label.npy`` [N], ``train/index.npy`` [N], and if the bank has them ``train/path.txt``
    and the marks `schema.FLAGS`, such as ``train/seen.npy``, [N] bool;
    ``train/instance/feature.npy`` [N, D] (or [A, N, D] with A > 1 copies) in the stored type, with
    T tokens [N, T, D] (or [A, N, T, D]); ``classifier/instance/weight.npy`` [K, D] and ``bias.npy``
    [K], ``text/instance/feature.npy`` [P, K, D], ``classes/name.txt``, ``classes/train_count.npy``
    [K], and ``bank.json``, which describes the bank. BatchNorm
    statistics are left out.

    Parameters
    ----------
    bank
        The bank.
    output
        The folder, which appears only when it is complete.
    overwrite
        Replace a folder that an earlier export made.

    Raises
    ------
    OutputExists
        If the folder exists, and `overwrite` is not set or it is no export.
    ConfigError
        If its parent folder is missing, or the folder to be replaced holds the bank.
    NotFinite
        If a feature is NaN or infinite.
    OSError
        If the folder cannot be written.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise errors.ConfigError(f"{output.parent} is not a folder. Create it first.")
    _refuse_existing(output, overwrite)
    if output.exists():
        _refuse_within(output, Path(bank))
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


def _refuse_within(output: Path, bank: Path) -> None:
    if bank.exists() and any(f.samefile(bank) for f in output.rglob("*") if f.is_file()):
        raise errors.ConfigError(f"{output} holds {bank}, which is read. Choose another output.")


def _write(bank: Bank, folder: Path) -> None:
    for split in bank.splits:
        _save(folder / split / "label.npy", bank.labels(split))
        _save(folder / split / "index.npy", bank.index(split))
        paths = bank.paths(split)
        if paths is not None:
            _save_lines(folder / split / "path.txt", paths)
        for name in schema.FLAGS:
            if (flags := bank.flags(split, name)) is not None:
                _save(folder / split / f"{name}.npy", flags)
        for view in bank.views:
            _save_features(folder / split / view / "feature.npy", bank, split, view)
    for view in bank.classifiers:
        stored = bank.classifier(view)
        assert stored is not None
        for name, array in zip(("weight", "bias"), stored, strict=True):
            check_finite(array, f"{bank.path}, classifier/{view}/{name}")
            _save(folder / "classifier" / view / f"{name}.npy", array)
    for view in bank.texts:
        embeddings = bank.text(view)
        assert embeddings is not None
        _save(folder / "text" / view / "feature.npy", embeddings.features)
    _save_lines(folder / "classes" / "name.txt", bank.class_names)
    _save(folder / "classes" / "train_count.npy", bank.train_counts)
    text = json.dumps(_about(bank), indent=2, ensure_ascii=False) + "\n"
    (folder / "bank.json").write_text(text, encoding="utf-8")


def _about(bank: Bank) -> dict[str, Any]:
    """Content of ``bank.json``; those of `schema.FLAGS` are numbers of marked rows."""
    splits: dict[str, dict[str, Any]] = {
        split: {"rows": bank.rows(split), "source": bank.source(split)} for split in bank.splits
    }
    for split, name in itertools.product(bank.splits, schema.FLAGS):
        if (flags := bank.flags(split, name)) is not None:
            splits[split][name] = int(flags.sum())
    return {
        "fingerprint": bank.fingerprint,
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "full_counts": bank.full_counts.tolist(),
        "splits": splits,
        "views": bank.views,
        "classifiers": bank.classifiers,
        "batchnorm": sum(len(bank.batchnorm(view)) for view in bank.views),
        **_of_views(bank),
        "provenance": bank.provenance,
    }


def _of_views(bank: Bank) -> dict[str, Any]:
    """What views have beside the arrays, if any has it: T, logit scales and default scales."""
    texts = {view: text.logit_scale for view in bank.texts if (text := bank.text(view))}
    facts: dict[str, dict[str, Any]] = {
        "tokens": {view: bank.tokens(view) for view in bank.views},
        "text": dict(texts),
        "default_scale": {view: bank.default_scale(view) for view in bank.views},
    }
    known = {key: {v: fact for v, fact in of.items() if fact} for key, of in facts.items()}
    return {key: of for key, of in known.items() if of}


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def _save_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _save_features(path: Path, bank: Bank, split: str, view: str) -> None:
    """Write features block by block, as they may not fit in memory."""
    copies, *of_copy = bank.shape(split, view)
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(bank.dtype)),
        "fortran_order": False,
        "shape": tuple(of_copy) if copies == 1 else (copies, *of_copy),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # not a memory map: that crashes where the disk is full
        np.lib.format.write_array_header_1_0(file, header)
        for copy in range(copies):
            for start, block in bank.blocks(split, view, copy=copy):
                check_finite(block, f"{bank.path}, {split}/{view}", first_row=start)
                file.write(block.data)
