"""MATLAB's ``.mat``: versions 4 to 7 through SciPy; version 7.3, which is HDF5, through h5py."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile


def mat(path: Path) -> ArrayFile:
    """Open ``.mat``; arrays have the axes they have in MATLAB."""
    return _version_73(path) if h5py.is_hdf5(path) else _version_7(path)


def _version_7(path: Path) -> ArrayFile:
    from scipy import io  # slower to import than a small file to read

    def read(name: str) -> np.ndarray:
        array = io.loadmat(path, variable_names=[name])[name]
        if array.dtype.kind == "U":
            array = np.char.rstrip(array, " ")  # rows of characters are padded with blanks
        return _numbers(path, name, _texts(array) if array.dtype == object else array)

    return ArrayFile(path, tuple(name for name, _, _ in io.whosmat(path)), read)


def _version_73(path: Path) -> ArrayFile:
    with h5py.File(path, "r") as file:
        names = tuple(name for name in file if _is_plain(file, name))

    def read(name: str) -> np.ndarray:
        with h5py.File(path, "r") as file:
            plain = file[name].attrs.get("MATLAB_class") not in (b"char", b"cell")
            array = file[name][()] if plain and "MATLAB_empty" not in file[name].attrs else None
            return _numbers(path, name, array).T  # stored column by column

    return ArrayFile(path, names, read)


def _is_plain(file: h5py.File, name: str) -> bool:
    """Whether a variable is an array stored in this file: a link may lead to any other file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return False
    item = file[name]
    return isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual


def _texts(cells: np.ndarray) -> np.ndarray:
    """A cell array of texts as an array of texts; any other is unchanged."""
    if not all(isinstance(cell, np.ndarray) and cell.dtype.kind == "U" for cell in cells.flat):
        return cells
    if any(cell.size > 1 for cell in cells.flat):
        return cells
    return np.array(["".join(cell.flat) for cell in cells.flat], dtype=str)


def _numbers(path: Path, name: str, array: object) -> np.ndarray:
    if isinstance(array, np.ndarray) and array.dtype.kind in "biufU":
        return array
    raise errors.DataError(
        f"{path}:{name} is not a full array of numbers. Save it as one: structs, objects, and "
        "sparse or complex arrays are not read."
    )
