"""Formats of array files by suffix. No code in a file is run: pickles are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange import matlab, tables
from featbank.exchange.arrayfile import ArrayFile, readable, require_file


def npy(path: Path) -> ArrayFile:
    """Open ``.npy``; the array stays on disk."""
    array = np.lib.format.open_memmap(path, mode="r")
    return ArrayFile(path, ("",), lambda _: array)


def npz(path: Path) -> ArrayFile:
    """Open ``.npz``; arrays are read on demand."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array: rename it to .npy")
    return ArrayFile(path, tuple(loaded), loaded.__getitem__)


def pytorch(path: Path) -> ArrayFile:
    """Open ``.pt`` and ``.safetensors``."""
    from featbank.exchange import tensors  # PyTorch takes seconds to import

    return tensors.tensor_file(path)


READERS: Mapping[str, Callable[[Path], ArrayFile]] = {
    ".npy": npy,
    ".npz": npz,
    ".mat": matlab.mat,
    **dict.fromkeys((".pt", ".pth", ".bin", ".safetensors"), pytorch),
    **dict.fromkeys(tables.DELIMITERS, tables.csv_table),
    ".parquet": tables.parquet_table,
}
"""Reader of a file by suffix."""

TABLES = (*tables.DELIMITERS, ".parquet")


def open_arrays(path: Path) -> ArrayFile:
    """Open a file of arrays.

    Raises
    ------
    DataError
        For a missing file, a folder, an unknown suffix, an unreadable file, or a pickle.
    """
    require_file(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise errors.DataError(
            f"{path}: files of type {path.suffix or '(no suffix)'} are not read. "
            f"Give one of {', '.join(READERS)}."
        )
    with readable(path):
        arrays = reader(path)
    if not arrays:
        raise errors.DataError(f"{path} holds no arrays of numbers. Check what was saved in it.")
    return arrays


def read_array(place: str) -> np.ndarray:
    """Read the array at ``FILE`` or ``FILE:KEY``; a file with one array needs no key.

    Raises
    ------
    DataError
        As `open_arrays`, and for a missing key.
    """
    path, key = locate(place)
    arrays = open_arrays(path)
    if key and arrays.single:
        raise errors.DataError(f"{path} is a single array without key {key!r}. Drop it.")
    return arrays[key or (arrays.names[0] if len(arrays) == 1 else "")]


def locate(place: str) -> tuple[Path, str]:
    """File and key of ``FILE`` or ``FILE:KEY``; the key is empty if there is none."""
    if Path(place).exists() or ":" not in place:
        return Path(place), ""
    path, _, key = place.rpartition(":")
    return Path(path), key


def same_place(one: str, other: str) -> bool:
    """Whether two places are the same array, links included; a file's only key may be left out.

    Examples
    --------
    >>> same_place("gone.npz:x", "gone.npz:x"), same_place("gone.npz:x", "gone.npz:z")
    (True, False)
    """
    (path, key), (other_path, other_key) = locate(one), locate(other)
    if path != other_path and not (
        path.exists() and other_path.exists() and path.samefile(other_path)
    ):
        return False
    return key == other_key or not (key and other_key)


def files_of(place: str) -> list[Path]:
    """Files that a place stands for: the file itself, or all files below a folder."""
    path, _ = locate(place)
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
