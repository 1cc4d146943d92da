"""Formats of array files by suffix. No code in a file is run: pickles are refused."""

from __future__ import annotations

import glob
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange import arrow, hdf5, huggingface, matlab, ondisk, tables, tars, zarrs
from featbank.exchange.arrayfile import ArrayFile, readable, require_file, require_room
from featbank.exchange.npy import mapped
from featbank.exchange.ondisk import Array, joined


def npy(path: Path) -> ArrayFile:
    """Open ``.npy``; the array stays on disk."""
    array = np.lib.format.open_memmap(path, mode="r")
    return ArrayFile(path, ("",), lambda _: array)


def npz(path: Path) -> ArrayFile:
    """Open ``.npz``; arrays are read on demand, large ones that are not packed stay on disk."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array: rename it to .npy")
    assert loaded.zip is not None
    members = {info.filename.removesuffix(".npy"): info for info in loaded.zip.infolist()}

    def read(name: str) -> np.ndarray:
        member = members[name]
        if member.compress_type == zipfile.ZIP_STORED and member.file_size > ondisk.HELD_BYTES:
            return _member(path, member)
        require_room(f"{path}:{name}", member.file_size)
        return loaded[name]

    return ArrayFile(path, tuple(loaded), read)


def _member(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    """Map the array of an uncompressed member: 30 bytes, its name and extra field precede it."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        _, name, extra = struct.unpack("<26sHH", file.read(30))
    return mapped(path, member.header_offset + 30 + name + extra, member.file_size)


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
    ".parquet": arrow.parquet_table,
    **dict.fromkeys((".arrow", ".feather"), arrow.arrow_table),
    **dict.fromkeys(hdf5.SUFFIXES, hdf5.hdf5),
    ".tar": tars.tar_file,
}
"""Reader of a file by suffix."""

TABLES = (*tables.DELIMITERS, ".parquet", ".arrow", ".feather", ".tar")
"""Suffixes of tables: given alone, their columns have the names of `collect.COLUMNS`."""

FOLDERS: Sequence[tuple[Callable[[Path], bool], Callable[[Path], ArrayFile]]] = (
    (huggingface.is_saved, huggingface.dataset_file),
    (zarrs.is_zarr, zarrs.zarr_file),
)
"""Folders that are a file of arrays: whether one is, and its reader."""

_MOST_FILES = 1_000_000
_PATTERN = re.compile(r"[*?\[]|\{[^{}]*(,|\.\.)[^{}]*\}")


def open_arrays(path: Path) -> ArrayFile:
    """Open a file of arrays, or the files of a pattern such as ``part-*.npy`` as one.

    Raises
    ------
    DataError
        For a missing file, a folder, an unknown suffix, an unreadable file, or a pickle.
    """
    files = matching(path)
    if files != [path]:
        names = open_arrays(files[0]).names
        return ArrayFile(
            path, names, lambda name: joined(path, [open_arrays(file)[name] for file in files])
        )
    reader = next((read for is_one, read in FOLDERS if is_one(path)), None)
    if reader is None:
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


def is_container(path: Path) -> bool:
    """Whether a path is a folder that is a file of arrays, rather than a folder of such files."""
    return any(is_one(path) for is_one, _ in FOLDERS)


def matching(path: Path) -> list[Path]:
    """Files of a pattern, sorted by name with numbers by value; any other path is itself.

    ``*``, ``?`` and ``[…]`` match as in a shell; ``{000..127}`` counts, ``{a,b}`` chooses.
    """
    if path.exists() or not _PATTERN.search(str(path)):
        return [path]
    found: list[str] = []
    for text in _unbraced(str(path)):
        found += sorted(glob.glob(text), key=natural) if glob.has_magic(text) else [text]
    return [Path(file) for file in found] or [path]


def _unbraced(text: str) -> Iterator[str]:
    """The texts that braces stand for, as in Bash: a range keeps the zeros in front."""
    match = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", text)
    if match is None:
        yield text
        return
    choices = match[1].split(",")
    if counted := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", match[1]):
        first, last = int(counted[1]), int(counted[2])
        if last - first >= _MOST_FILES:
            raise errors.ConfigError(f"{text} are more than {_MOST_FILES:,} files. Give fewer.")
        choices = [f"{i:0{len(counted[1])}}" for i in range(first, last + 1)]
    for choice in choices:
        yield from _unbraced(text[: match.start()] + choice + text[match.end() :])


def natural(name: str) -> tuple[list[str | int], str]:
    """Key that sorts names with their numbers by value: image2 before image10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def read_array(place: str) -> Array:
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
    if key not in arrays and (inner := key.strip("/")) in arrays:
        key = inner
    return arrays[key or (arrays.names[0] if len(arrays) == 1 else "")]


def locate(place: str) -> tuple[Path, str]:
    """File and key of ``FILE`` or ``FILE:KEY``; the key is empty if there is none."""
    parts = place.split(":")
    for end in range(len(parts), 0, -1):
        path = Path(":".join(parts[:end]))
        if matching(path)[0].exists():
            return path, ":".join(parts[end:])
    before, _, key = place.rpartition(":")
    return (Path(before), key) if before else (Path(place), "")


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
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else matching(path)
