"""A folder with one ``.npy`` per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import readable, require_file
from featbank.exchange.formats import natural
from featbank.wording import number


def read_folder(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Stack the files of a folder, sorted by name with numbers by value: image2 before image10.

    Returns
    -------
    Rows [N, D], or [N] if the files are single numbers, and the N names without suffix.

    Raises
    ------
    DataError
        For a folder without ``.npy`` files, a file with several rows, or unequal lengths.
    """
    files = sorted(folder.glob("*.npy"), key=lambda file: natural(file.stem))
    if not files:
        raise errors.DataError(f"{folder} has no .npy files. Give a folder with one per image.")
    rows = [_row(file) for file in files]
    for file, row in zip(files, rows, strict=True):
        if len(row) != len(rows[0]):
            raise errors.DataError(
                f"{file} has {len(row)} numbers, {files[0].name} has {len(rows[0])}. "
                "Every image needs as many."
            )
        if _kind(row) != _kind(rows[0]):  # stacked, numbers would become texts, or floats
            raise errors.DataError(
                f"{file} has type {row.dtype}, {files[0].name} has {rows[0].dtype}. Save all in "
                "one type."
            )
    stacked = np.stack(rows)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked, [file.stem for file in files]


def read_folder_pair(features: Path, labels: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read features [N, D], labels [N] and names from two folders, matching files by name.

    Raises
    ------
    DataError
        As `read_folder`, and if a file has no partner.
    """
    for folder in (features, labels):
        if not folder.is_dir():
            raise errors.DataError(
                f"{folder} is not a folder. Give two, for features and for labels, or two files."
            )
    (x, names), (y, label_names) = read_folder(features), read_folder(labels)
    require_same_names(features, names, labels, label_names)
    return x, y, names


def require_same_names(
    one: object, names: Sequence[str], other: object, others: Sequence[str]
) -> None:
    """Raise unless two folders hold the same images."""
    for here, there, missing in (
        (one, other, set(names) - set(others)),
        (other, one, set(others) - set(names)),
    ):
        if missing:
            name = min(missing, key=natural)
            raise errors.DataError(
                f"{here}/{name}.npy has no partner in {there} "
                f"({number(len(missing), 'such file')}). Every image needs both."
            )


def _row(file: Path) -> np.ndarray:
    require_file(file)
    with readable(file):
        array = np.load(file, allow_pickle=False)
    if array.ndim > 2 or (array.ndim == 2 and len(array) != 1):
        raise errors.DataError(
            f"{file} has shape {list(array.shape)}. A file of one image has [D] or [1, D], its "
            "label one number."
        )
    return array.reshape(-1)


def _kind(row: np.ndarray) -> str:
    return "i" if row.dtype.kind in "biu" else row.dtype.kind
