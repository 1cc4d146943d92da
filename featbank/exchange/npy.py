"""Arrays in NumPy's format within other files, checked against the bytes that are there."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO, Literal

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def from_bytes(content: bytes) -> np.ndarray:
    """The array of an ``.npy`` file.

    Raises
    ------
    ValueError
        For Python objects, and where there are more or fewer bytes than the header says.
    """
    shape, order, dtype = _header(file := io.BytesIO(content), len(content))
    return np.ndarray(shape, dtype, content, file.tell(), order=order)


def mapped(path: Path, start: int, size: int) -> np.ndarray:
    """The array of an ``.npy`` file that lies in `size` bytes of another; it stays on disk.

    Raises
    ------
    ValueError
        As `from_bytes`.
    """
    with path.open("rb") as file:
        file.seek(start)
        shape, order, dtype = _header(file, start + size)
        offset = file.tell()
    return np.memmap(path, dtype, "r", offset, shape, order)


def _header(file: IO[bytes], end: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Shape, order of the axes and type; the file is left at the numbers, which end at `end`."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError("its version of .npy is not read")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays are not read")
    if math.prod(shape) * dtype.itemsize != end - file.tell():
        raise ValueError("its size is not what its header says")
    return shape, "F" if fortran else "C", dtype
