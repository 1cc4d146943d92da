"""Places that an export is written to: a folder of files, or one file of arrays.

Names of arrays are those in the bank, ``train/instance/feature``. Features come in blocks.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np

from featbank.exchange.about import ABOUT
from featbank.exchange.hdf5 import SUFFIXES as HDF5

_CHUNK_BYTES = 1 << 20

Blocks = Iterable[tuple[int, int, np.ndarray]]
"""Features in order: the copy, the first row, and the rows."""


class Sink(Protocol):
    """The target of an export."""

    def array(self, name: str, array: np.ndarray) -> None:
        """Write an array."""

    def texts(self, name: str, texts: Sequence[str]) -> None:
        """Write texts."""

    def features(self, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Blocks) -> None:
        """Write features [A, N, …], without A where that is 1."""

    def about(self, facts: Mapping[str, Any]) -> None:
        """Write the description."""


@dataclass(frozen=True)
class Streams:
    """Files of NumPy and lines of text, each opened by ``open(name)``."""

    open: Callable[[str], AbstractContextManager[IO[bytes]]]
    texts_as_arrays: bool = False

    def array(self, name: str, array: np.ndarray) -> None:
        """``name.npy``."""
        with self.open(f"{name}.npy") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def texts(self, name: str, texts: Sequence[str]) -> None:
        """``name.txt``, a line for each; in an archive an array."""
        if self.texts_as_arrays:
            return self.array(name, np.array(texts, dtype=str))
        with self.open(f"{name}.txt") as file:
            file.write("".join(f"{text}\n" for text in texts).encode())
        return None

    def features(self, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Blocks) -> None:
        """``name.npy``; not through a memory map: that crashes where the disk is full."""
        descr = np.lib.format.dtype_to_descr(dtype)
        with self.open(f"{name}.npy") as file:
            header = {"descr": descr, "fortran_order": False, "shape": without_one_copy(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, _, block in blocks:
                file.write(np.ascontiguousarray(block).data)

    def about(self, facts: Mapping[str, Any]) -> None:
        """``bank.json``."""
        if self.texts_as_arrays:
            return self.array(ABOUT, encoded(facts))
        with self.open(ABOUT) as file:
            file.write(f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode())
        return None


@dataclass(frozen=True)
class Group:
    """A group of HDF5 or Zarr; ``create(name, shape=, dtype=, chunks=)`` makes an array.

    Where there is a ``bytes_type(length)``, texts are UTF-8 of this length: in HDF5, a damaged heap
    of texts of any length is read for ever.
    """

    create: Callable[..., Any]
    bytes_type: Callable[[int], np.dtype] | None = None

    def array(self, name: str, array: np.ndarray) -> None:
        """An array as it is."""
        stored = self.create(name, shape=array.shape, dtype=array.dtype)
        if array.size:
            stored[...] = array

    def texts(self, name: str, texts: Sequence[str]) -> None:
        """An array of texts."""
        array = np.array(texts, dtype=str)
        if self.bytes_type:
            utf8 = np.char.encode(array, "utf-8")
            array = utf8.astype(self.bytes_type(max(1, utf8.dtype.itemsize)))
        self.array(name, array)

    def features(self, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Blocks) -> None:
        """An array in chunks of whole rows."""
        axes = without_one_copy(shape)
        of_row = shape[2:]
        rows = max(1, _CHUNK_BYTES // (int(np.prod(of_row)) * dtype.itemsize))
        chunks = (*[1] * (len(axes) - 1 - len(of_row)), min(rows, max(1, shape[1])), *of_row)
        stored = self.create(name, shape=axes, dtype=dtype, chunks=chunks if shape[1] else None)
        for copy, start, block in blocks:
            place = slice(start, start + len(block))
            stored[place if axes == shape[1:] else (copy, place)] = block

    def about(self, facts: Mapping[str, Any]) -> None:
        """The bytes of the JSON."""
        self.array(ABOUT, encoded(facts))


def encoded(facts: Mapping[str, Any]) -> np.ndarray:
    """JSON as bytes [n] uint8."""
    return np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)


def without_one_copy(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, …] of [1, N, …]."""
    return shape[1:] if shape[0] == 1 else shape


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Sink]:
    """A folder of ``.npy`` and ``.txt``."""

    def opened(name: str) -> IO[bytes]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        return (path / name).open("wb")

    yield Streams(opened)


@contextlib.contextmanager
def npz(path: Path) -> Iterator[Sink]:
    """One ``.npz``, not packed."""
    with zipfile.ZipFile(path, "w") as archive:
        yield Streams(lambda name: archive.open(name, "w", force_zip64=True), texts_as_arrays=True)


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Sink]:
    """One HDF5 file."""
    with h5py.File(path, "w") as file:
        yield Group(file.create_dataset, lambda length: h5py.string_dtype("utf-8", length))


@contextlib.contextmanager
def zarr(path: Path) -> Iterator[Sink]:
    """One folder of Zarr, format 2, which every version of its library reads."""
    from zarr import open_group  # an extra: featbank[zarr]

    group = open_group(path, mode="w", zarr_format=2)

    def create(name: str, **options: Any) -> Any:
        if options.get("chunks") is None:
            options["chunks"] = tuple(max(1, n) for n in options["shape"])
        return group.create_array(name, config={"write_empty_chunks": True}, **options)

    yield Group(create)


SINKS: Mapping[str, Callable[[Path], AbstractContextManager[Sink]]] = {
    ".npz": npz,
    ".zarr": zarr,
    **dict.fromkeys(HDF5, hdf5),
}
"""What writes an output, by its suffix; `folder` writes any other."""
