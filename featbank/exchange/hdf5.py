"""Arrays in HDF5 files of any origin. Links are not followed, and other files are not opened."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import h5py
import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile, require_room
from featbank.exchange.columns import check_text, text_array
from featbank.exchange.ondisk import Array, OnDisk, held

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")

_CACHE_BYTES = 1 << 28
"""Unpacked chunks that are kept: rows of chunks that span many rows are asked for in turn."""


def hdf5(path: Path) -> ArrayFile:
    """Open ``.h5``; keys are the names of its datasets, ``group/name``."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # filters such as blosc and zstd, if installed

    file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CACHE_BYTES)
    names: list[str] = []

    def note(name: bytes, link: h5py.h5l.LinkInfo) -> None:
        if link.type != h5py.h5l.TYPE_HARD:
            return
        if h5py.h5o.get_info(file.id, name).type == h5py.h5o.TYPE_DATASET:
            names.append(name.decode())

    file.id.links.visit(note, info=True)
    return ArrayFile(path, tuple(names), lambda name: _array(path, name, file[name]))


def _array(path: Path, name: str, dataset: h5py.Dataset) -> Array:
    place, dtype = f"{path}:{name}", dataset.dtype
    if dataset.is_virtual or dataset.external:
        raise errors.DataError(
            f"{place} is made of other files, which are not opened. Copy it into one file."
        )
    if dataset.shape is None or dataset.ndim == 0:
        raise errors.DataError(f"{place} is a single value, not an array. Give another key.")
    text = h5py.check_string_dtype(dtype) is not None
    if not text and h5py.check_vlen_dtype(dtype):
        raise errors.DataError(
            f"{place} has rows of unequal length. Pool or pad each to one length."
        )
    if not text and (dtype.kind not in "biuf" or dtype.subdtype):
        raise errors.DataError(f"{place} has type {dtype}. It must be numbers or texts.")
    _require_stored(place, dataset)
    if text:
        return _texts(place, dataset)
    return held(OnDisk(path, dataset.shape, dtype.newbyteorder("="), dataset.__getitem__))


def _require_stored(place: str, dataset: h5py.Dataset) -> None:
    """Raise if a part was never written: HDF5 would read it as zeros."""
    if not dataset.size:
        return
    chunks = dataset.chunks or dataset.shape
    wanted = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, chunks, strict=True))
    stored = dataset.id.get_num_chunks() if dataset.chunks else dataset.id.get_storage_size() > 0
    if stored < wanted:
        raise errors.DataError(
            f"{place} declares {list(dataset.shape)}, but only {int(stored):,} of {wanted:,} "
            "chunks were written: its writer was stopped. Write it again."
        )


def _texts(place: str, dataset: h5py.Dataset) -> np.ndarray:
    length = dataset.dtype.itemsize  # of a pointer, where lengths vary
    require_room(place, dataset.size * length)
    if dataset.dtype.kind == "S":
        check_text(place, 0, length)
        return dataset[()]
    texts = dataset.asstr()[()]
    flat = texts.ravel().tolist()
    for row, item in enumerate(flat):
        check_text(place, row, len(item))
    return text_array(place, flat).reshape(texts.shape)
