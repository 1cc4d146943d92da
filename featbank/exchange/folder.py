"""A folder with one file per image or slide, such as ``.npy``, ``.pt`` or ``.h5``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange.formats import READERS, TABLES, is_container, locate, natural, open_arrays
from featbank.exchange.ondisk import Array, by_rows
from featbank.exchange.roles import COLUMNS, FILES, column_of
from featbank.wording import listed, number

POOLS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=0, dtype=np.float64),
    "max": lambda rows: rows.max(axis=0),
}
"""What makes one row of the rows of a file: the last part of ``FOLDER:KEY:mean``."""

SUFFIXES = tuple(suffix for suffix in READERS if suffix not in TABLES)


def is_folder(place: str) -> bool:
    """Whether a place is a folder of files, with or without the key of an array in each."""
    path, _ = locate(place)
    return path.is_dir() and not is_container(path)


def read_folder(place: str, role: str = "features") -> tuple[Array, list[str]]:
    """Stack the files of a folder, sorted by name with numbers by value: image2 before image10.

    Parameters
    ----------
    place
        ``FOLDER``, ``FOLDER:KEY`` with the key of an array in each file, or ``FOLDER:KEY:mean``,
        which pools the rows of a file, of which there may be any number.
    role
        Which of `COLUMNS` name the array where a file holds several and no key is given.

    Returns
    -------
    Rows [N, D] or [N, T, D], or [N] if the files are single numbers, and the N names without
    suffix.

    Raises
    ------
    DataError
        For a folder without such files, files of several types, or of unequal lengths.
    """
    folder, key = locate(place)
    files = _files(folder)
    return _stacked(folder, list(files.values()), key, role), list(files)


def read_folder_pair(features: str, labels: str) -> tuple[Array, np.ndarray, list[str]]:
    """Read features, labels [N] and names from two folders, or from a folder and a table.

    Files are matched by name: with each other, or with a column of the table, such as ``path``.
    Every row of the table needs a file; other files are left out.

    Raises
    ------
    DataError
        As `read_folder`, and if a file or a row has no partner.
    """
    if not is_folder(features):
        raise errors.DataError(
            f"{features} is not a folder. Give two, for features and for labels, or two files."
        )
    if not is_folder(labels):
        return _with_table(features, labels)
    (x, names), (y, label_names) = read_folder(features), read_folder(labels, "label")
    require_same_names(locate(features)[0], names, locate(labels)[0], label_names)
    return x, np.asarray(y), names


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
                f"{here}/{name} has no partner in {there} "
                f"({number(len(missing), 'such file')}). Every image needs both."
            )


def _with_table(features: str, labels: str) -> tuple[Array, np.ndarray, list[str]]:
    """Features of the files that a table lists, in the order of their names."""
    folder, key = locate(features)
    path, column = locate(labels)
    table = open_arrays(path)
    name_column = column_of(table, FILES)
    if path.suffix.lower() not in TABLES or name_column is None:
        raise errors.DataError(
            f"{labels} is not a folder. Give two, for features and for labels, or two files, or a "
            f"table of labels with the names of the files in a column {FILES[0]!r}."
        )
    label_column = column or column_of(table, COLUMNS["label"])
    if label_column is None:
        raise errors.DataError(
            f"{path} has no column 'label', but {listed(table, 20)}. Write {path}:COLUMN."
        )
    files = _files(folder)
    names = [_name(text, files) for text in table[name_column].astype(str).ravel().tolist()]
    for row, name in enumerate(names):
        if name not in files:
            raise errors.DataError(f"{path}: {name} in row {row} has no file in {folder}. Add it.")
    order = sorted(range(len(names)), key=lambda row: natural(names[row]))
    ordered = [names[row] for row in order]
    for one, other in itertools.pairwise(ordered):
        if one == other:
            raise errors.DataError(f"{path}: {one} comes twice. List every file once.")
    x = _stacked(folder, [files[name] for name in ordered], key, "features")
    return x, np.asarray(table[label_column])[order], ordered


def _name(text: str, files: dict[str, Path]) -> str:
    """The file that a text names: by itself, in a folder, or with another suffix."""
    name = Path(text.strip()).name
    return name if name in files else Path(name).stem


def _files(folder: Path) -> dict[str, Path]:
    """Files of a folder by name without suffix; all of one type."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    kinds = sorted({file.suffix for file in found})
    if len(kinds) > 1:
        raise errors.DataError(
            f"{folder} has files of the types {', '.join(kinds)}. Keep those of one."
        )
    if not found:
        raise errors.DataError(
            f"{folder} has no .npy files, nor others of {', '.join(SUFFIXES[1:])}. Give a folder "
            "with one per image."
        )
    return {file.stem: file for file in sorted(found, key=lambda file: natural(file.stem))}


def _stacked(folder: Path, files: Sequence[Path], key: str, role: str) -> Array:
    """One row per file."""
    if not files:
        raise errors.DataError(f"{folder}: no file is listed. List one per image.")
    key, _, pool = key.rpartition(":") if key.rpartition(":")[2] in POOLS else (key, "", "")
    first = _row(files[0], key, pool, role)

    def rows(start: int, stop: int) -> np.ndarray:
        block = np.empty((stop - start, *first.shape), first.dtype)
        for place, file in enumerate(files[start:stop]):
            row = _row(file, key, pool, role)
            _require_alike(file, row, files[0], first, key)
            block[place] = row
        return block

    texts = first.dtype.kind in "SU"  # the longest is not the first
    if not texts:
        stacked = by_rows(folder, (len(files), *first.shape), first.dtype, rows)
    else:
        single = [_row(file, key, pool, role) for file in files]
        for file, row in zip(files, single, strict=True):
            _require_alike(file, row, files[0], first, key)
        stacked = np.stack(single)
    return stacked[:, 0] if stacked.shape[1:] == (1,) else stacked


def _require_alike(
    file: Path, row: np.ndarray, first: Path, expected: np.ndarray, key: str
) -> None:
    if row.shape != expected.shape:
        has, had = (f"shape {list(x.shape)}" if x.ndim > 1 else x.size for x in (row, expected))
        pool = f" Pool their rows: {file.parent}:{key}:mean." if row.ndim == 2 else ""
        unit = " numbers" if row.ndim == 1 else ""
        raise errors.DataError(
            f"{file} has {has}{unit}, {first.name} has {had}. Every image needs as many.{pool}"
        )
    if _kind(row) != _kind(expected):  # stacked, numbers would become texts, or floats
        raise errors.DataError(
            f"{file} has type {row.dtype}, {first.name} has {expected.dtype}. Save all in one type."
        )


def _row(file: Path, key: str, pool: str, role: str) -> np.ndarray:
    """The array of a file, without axes of length 1 in front."""
    arrays = open_arrays(file)
    if not key and len(arrays) > 1:
        key = column_of(arrays, COLUMNS[role]) or ""
    array = np.asarray(arrays[key or (arrays.names[0] if len(arrays) == 1 else "")])
    if pool:
        if array.ndim != 2 or not array.size:
            raise errors.DataError(
                f"{file} has shape {list(array.shape)}. To pool it, give [n, D]."
            )
        return POOLS[pool](array).astype(np.float32)
    while array.ndim > 1 and len(array) == 1:
        array = array[0]
    return array.reshape(-1) if array.ndim == 0 else array


def _kind(row: np.ndarray) -> str:
    return "i" if row.dtype.kind in "biu" else row.dtype.kind
