"""Features and labels in files of arrays, as `featbank predict` and `evaluate` take them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from featbank import errors
from featbank.bank.class_names import ClassMatch, match_classes
from featbank.exchange import axes
from featbank.exchange.formats import READERS, locate, read_array
from featbank.exchange.integers import WHOLE, as_integers, as_texts, as_vector
from featbank.regular import kind_of

SUFFIXES = (".npy", ".npz")

_MAGIC = b"\x93NUMPY"
_SHORTEST = 10
"""Bytes before the text of a header."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_GIVE = "Give a bank, or features [N, D] as .npy."
_GIVE_LABELS = "Give the class of each row, 0…K−1 or by name, as .npy."


def is_arrays(place: Path) -> bool:
    """Whether ``FILE`` or ``FILE:KEY`` names a file of arrays by its ending; without a key only
    those that are no bank and no table."""
    path, key = locate(str(place))
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (bool(key) and suffix in READERS)


def read_features(place: Path, *, tokens: bool = False) -> np.ndarray:
    """The features [N, D] at ``FILE.npy``, ``FILE.npz`` of one array, or ``FILE:KEY``, such as
    ``feats.npz:x``, ``feats.h5:test/x`` or ``table.parquet:embedding``.

    Axes of length 1 are dropped as by an import. An ``.npy`` stays on disk. Where a head takes
    `tokens`, three axes are [N, T, D].

    Raises
    ------
    ConfigError
        If there is no such file.
    DataError
        For a file that is damaged or holds something else.
    """
    x = _read(place, _GIVE)
    if tokens and x.ndim == 3 and x.dtype.kind in "fiu":
        return x
    if x.dtype.kind in "fiu":
        x = _settled(x)
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise errors.DataError(f"{place} holds {x.dtype} {x.shape}. {_GIVE}")
    return x


def read_labels(
    place: Path, rows: int, known: Sequence[str], class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, ClassMatch]:
    """The labels [N] int64 of N = `rows` rows at a place as of `read_features`, and their classes
    among the `known` ones.

    Numbers count the `class_names`, or without them the known classes; texts are names, unless all
    of them are whole numbers.

    Raises
    ------
    ConfigError
        If there is no such file, or names come with `class_names`.
    DataError
        For a file that is damaged or holds something else.
    Mismatch
        If nothing says which of the known classes are meant.
    """
    y = _read(place, _GIVE_LABELS)
    if y.dtype.kind in "SU":
        texts, numbers = np.unique(as_texts(as_vector(y), str(place)), return_inverse=True)
        if not all(map(WHOLE.fullmatch, texts.tolist())):
            if class_names is not None:
                raise errors.ConfigError(
                    f"{place} holds names, which --class-names would number. Leave it out."
                )
            y, class_names = numbers, texts.tolist()
    y, names = as_integers(y, str(place)), known if class_names is None else class_names
    if len(y) != rows:
        raise errors.DataError(f"{place} has {len(y)} labels for {rows} rows. {_GIVE_LABELS}")
    if len(wrong := np.flatnonzero((y < 0) | (y >= len(names)))):
        what = "the head has the classes" if class_names is None else "the class names are of"
        raise errors.LabelRange(
            f"{place} has the label {y[wrong[0]]} in row {wrong[0]}, {what} 0…{len(names) - 1}. "
            f"{_GIVE_LABELS}"
        )
    return y, match_classes(names, known, str(place))


def _read(place: Path, give: str) -> np.ndarray:
    """The array at a place, of a file that is checked first; `give` is the remedy of errors."""
    path, key = locate(str(place))
    if kind := kind_of(path):
        raise errors.DataError(f"{path} is {kind}, not a file. {give}")
    if not path.exists():
        raise errors.ConfigError(f"{path}: no such file. {give}")
    if path.suffix.lower() not in SUFFIXES:
        return read_array(str(place))
    try:
        problem = (_npy_problem if path.suffix.lower() == ".npy" else _npz_problem)(path, key)
    except OSError:
        raise
    except Exception:  # a lying header raises whatever it leads to
        problem = "is damaged: copy it again"
    if problem:
        raise errors.DataError(f"{path} {problem}. {give}")
    return read_array(str(place))


def _settled(x: np.ndarray) -> np.ndarray:
    """`x` without axes of length 1, if that leaves [N, D]."""
    if x.ndim < 3:
        return x
    first = x.ndim == 3 and len(x) == 1 and 1 not in x.shape[1:]
    try:
        return axes.settled(x, "", x.shape[1] if first else len(x), None)
    except errors.DataError:  # its message is about labels, which there are none of here
        return x


def _npy_problem(path: Path, key: str) -> str | None:
    """The problem of an .npy file, in words; None if it can be read."""
    with path.open("rb") as file:
        return _array_problem(file, path.stat().st_size, "an .npy file")


def _npz_problem(path: Path, key: str) -> str | None:
    """The problem of the requested array of an .npz file."""
    if not path.stat().st_size:
        return "is empty"
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            cut = file.read(2) == b"PK"  # the list of contents is at the end
        if cut:
            return "is cut short: copy it again"
        return "is not an .npz file"
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if len(members) == 1 or member.filename in (key, f"{key}.npy"):
                with archive.open(member) as file:
                    if problem := _array_problem(file, member.file_size, "of plain arrays"):
                        return problem
                    while file.read(1 << 20):  # to the end, where the checksum is verified
                        pass
    return None


def _array_problem(file: IO[bytes], size: int, kind: str) -> str | None:
    """The problem of an array of `size` bytes in NumPy's format."""
    begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        return f"is {'not ' + kind if size else 'empty'}"
    if size < _SHORTEST:
        return "is cut short: copy it again"
    version = tuple(file.read(2))
    if version not in _HEADERS:
        return "has a header of an unknown version"
    return _content_problem(file, size, version)


def _content_problem(file: IO[bytes], size: int, version: tuple[int, ...]) -> str | None:
    """The problem of the part that follows the header's version."""
    try:
        shape, _, dtype = _HEADERS[version](file)  # type: ignore[index]  # looked at before
    except Exception:  # whatever the header leads Python to
        wide = file.tell() >= size
        return "is cut short: copy it again" if wide else "has a damaged header: copy it again"
    if dtype.hasobject:
        return (
            "holds Python objects, and no pickle is opened: save plain numbers, as by "
            "x.astype('float32')"
        )
    if min(shape, default=0) < 0 or file.tell() + math.prod(shape) * dtype.itemsize > size:
        return f"is cut short, its {size:,} bytes are fewer than its header says: copy it again"
    return None
