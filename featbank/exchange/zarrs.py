"""Arrays and groups of Zarr, formats 2 and 3. Chunks are unpacked by codecs that run no code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile, require_room
from featbank.exchange.columns import check_text, text_array
from featbank.exchange.ondisk import Array, OnDisk, held

_CODECS = {
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "shuffle", "delta", "bitround"),
    *("fixedscaleoffset", "quantize", "packbits", "astype", "vlen-utf8"),
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
}
"""Codecs of format 2 by id. Another, ``pickle``, would run what a chunk says."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is an array or a group of Zarr."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def zarr_file(path: Path) -> ArrayFile:
    """Open a folder of Zarr; keys are the names of its arrays, ``group/name``."""
    import zarr  # an extra: featbank[zarr]

    _require_plain_files(path)
    root = zarr.open(zarr.storage.LocalStore(path, read_only=True), mode="r")
    arrays = {"": root} if isinstance(root, zarr.Array) else dict(_arrays(zarr, path))
    return ArrayFile(path, tuple(sorted(arrays)), lambda name: _array(path, name, arrays[name]))


def _arrays(zarr: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Arrays of a group by name, from their own metadata rather than a copy in the group's."""
    store = zarr.storage.LocalStore(path, read_only=True)
    root = zarr.open_group(store, mode="r", use_consolidated=False)
    for name, item in root.members(max_depth=None):
        if isinstance(item, zarr.Array):
            yield name, item


def _require_plain_files(path: Path) -> None:
    """Raise for a link, which may lead anywhere, and for a pipe, which would block."""
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            place = Path(folder, name)
            if place.is_symlink() or not (place.is_file() or place.is_dir()):
                raise errors.DataError(
                    f"{place} is a link or no plain file, which is not opened. Copy the data there."
                )


def _array(path: Path, name: str, array: Any) -> Array:
    place, dtype = f"{path}:{name}" if name else str(path), array.dtype
    _require_codecs(place, array.metadata)
    text = dtype.kind in "UTS" or (dtype.kind == "O" and "vlen-utf8" in _ids(array.metadata))
    if not array.ndim or (not text and dtype.kind not in "biuf"):
        raise errors.DataError(
            f"{place} has type {dtype} and {array.ndim} axes. It must be numbers or texts [N, …]."
        )
    if text:
        return _texts(place, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = array.nchunks_initialized
    if array.ndim > 1 and dtype.kind == "f" and stored < array.nchunks:
        raise errors.DataError(
            f"{place} declares {list(array.shape)}, but only {stored:,} of {array.nchunks:,} "
            "chunks were written; others would read as zeros. Write it again, with "
            "write_empty_chunks if zeros are meant."
        )
    return held(OnDisk(path, array.shape, dtype.newbyteorder("="), array.__getitem__))


def _require_codecs(place: str, metadata: Any) -> None:
    if unknown := sorted(_ids(metadata) - _CODECS):
        raise errors.DataError(
            f"{place} is packed by {unknown[0]!r}, which is not unpacked. Save it with blosc, zstd "
            "or gzip."
        )


def _ids(metadata: Any) -> set[str]:
    """Ids of the codecs of an array of format 2; those of format 3 are all data alone."""
    codecs = (*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None))
    return {str(codec.codec_id) for codec in codecs if codec is not None}


def _texts(place: str, array: Any) -> Any:
    require_room(place, array.size * array.dtype.itemsize)
    if array.dtype.kind == "U":
        check_text(place, 0, array.dtype.itemsize // 4)
    elif array.dtype.kind == "S":
        check_text(place, 0, array.dtype.itemsize)
        return array[:]
    texts = array[:].ravel().tolist()
    for row, item in enumerate(texts):
        check_text(place, row, len(item))
    return text_array(place, texts).reshape(array.shape)
