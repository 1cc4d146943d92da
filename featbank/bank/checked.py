"""Safe access to an HDF5 file from any source: only what is safe and complete can be read.

Names are those of `featbank.bank.schema`. They are resolved through hard links alone, to datasets
stored in this file in chunks that have checksums and are all present, and to attributes of fixed
length.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank import errors
from featbank.bank import header, schema
from featbank.bank.chunks import SUM_BYTES, ChunkReader
from featbank.file_kinds import mistaken

_HASH = re.compile("[0-9a-f]{64}")


class CheckedFile:
    """An HDF5 file opened for reading.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    datasets
        Datasets that were requested and passed their checks, by name.

    Raises
    ------
    NotABank, Truncated, Incomplete, Corrupt, Unsafe
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise errors.NotABank(f"{path} is a folder. Give the bank, a file.")
        if not path.is_file():
            problem = "is not a file" if path.exists() else "no such file"
            raise errors.NotABank(f"{path}: {problem}. Check the path.")
        try:
            # Banks change by being replaced, never in place: there is nothing to lock.
            self._file = h5py.File(path, "r", locking=False)
        except Exception as error:  # damaged bytes may raise anything in the HDF5 library
            raise _unreadable(path, error) from None
        if self._file.userblock_size:
            self.close()
            raise self.corrupt("it begins with something else")
        self._descriptor = self._file.id.get_vfd_handle()
        status = os.fstat(self._descriptor)  # the path may be replaced meanwhile
        self._size, self._identity = status.st_size, _identity(status)
        self.datasets: dict[str, h5py.Dataset] = {}
        self._objects: dict[str, h5py.Group | h5py.Dataset] = {"": self._file}
        self._places: dict[int, str] = {}
        self._readers: dict[str, ChunkReader] = {}

    def check_root(self) -> None:
        """Raise unless the header of the root group is safe."""
        self._check_header("the root", h5py.h5o.get_info(self._file.id))

    @property
    def attributes(self) -> h5py.AttributeManager:
        """Attributes of the root group, for `number`, `text` and `hash`."""
        return self._file.attrs

    @property
    def is_closed(self) -> bool:
        """Whether the file is closed."""
        return not self._file

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise if another content has taken the place of the file, which has this fingerprint.

        A file that was moved or removed is still open here, and one that was touched or copied
        over itself is the same.

        Raises
        ------
        Mismatch
        """
        try:
            now = _identity(self.path.stat())
        except OSError:
            return
        if now == self._identity:
            return
        other = fingerprint_at(self.path)
        if other != fingerprint:
            what = f"the bank with fingerprint {other[:12]}" if other else "something else"
            raise errors.Mismatch(
                f"{self.path} was replaced by {what} while it was in use. Results so far belong to "
                f"the bank with fingerprint {fingerprint[:12]}: put it back, or run again for what "
                "is there now."
            )
        self._identity = now

    def has(self, name: str) -> bool:
        """Whether the file has a group or dataset with this name."""
        parent, _, last = name.rpartition("/")
        group = self._object(parent) if parent == "" or self.has(parent) else None
        return isinstance(group, h5py.Group) and group.id.links.exists(last.encode())

    def members(self, name: str) -> list[str]:
        """Names in a group; raise unless each can be part of a path."""
        group = self._object(name)
        if not isinstance(group, h5py.Group):
            raise self.corrupt(f"{name} is not a group")
        for member in group:
            if not isinstance(member, str) or not schema.is_name(member):
                raise errors.Unsafe(
                    f"{self.path}: {name} has a member named {member[:40]!r}. Refused."
                )
        return list(group)

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset `name`; raise unless type, axes and storage follow the schema."""
        if name in self.datasets:
            return self.datasets[name]
        dataset = self._object(name)
        if not isinstance(dataset, h5py.Dataset):
            raise self.corrupt(f"{name} is not a dataset")
        layout = schema.layout_of(name)
        dtype = dataset.dtype
        kind = "S" if dtype.kind == "S" else str(dtype)
        if kind not in layout.dtypes or dataset.ndim not in layout.axes:
            wanted = " or ".join(layout.dtypes).replace("S", "fixed-length bytes")
            axes = " or ".join(map(str, layout.axes))
            raise self.corrupt(
                f"{name} has type {dtype} and {dataset.ndim} axes, not {wanted} and {axes}"
            )
        self._check_storage(name, dataset)
        other = self._places.setdefault(h5py.h5o.get_info(dataset.id).addr, name)
        if other != name:
            raise errors.Unsafe(f"{self.path}: {name} and {other} are one dataset. Refused.")
        self.datasets[name] = dataset
        return dataset

    def require_shape(self, name: str, shape: tuple[int | None, ...]) -> None:
        """Raise unless the dataset `name` has this shape; None stands for any length but 0."""
        stored = self.dataset(name).shape
        if len(stored) != len(shape) or any(
            n < 1 if m is None else n != m for n, m in zip(stored, shape, strict=True)
        ):
            wanted = ", ".join("A ≥ 1" if n is None else str(n) for n in shape)
            raise self.corrupt(f"{name} has shape {list(stored)}, not [{wanted}]")

    def read(self, name: str, place: Any = ()) -> np.ndarray:
        """Read the dataset `name`, or one place of it."""
        dataset = self.dataset(name)
        try:
            return dataset[place]
        except Exception as error:
            raise self.corrupt(f"{name}: {errors.first_line(error)}") from None

    def rows(
        self,
        name: str,
        copy: int,
        start: int,
        stop: int,
        *,
        out: np.ndarray | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        """Read rows of a copy of the features `name`, into `out` if it is given."""
        if out is None:
            dataset = self.dataset(name)
            out = np.empty((stop - start, *dataset.shape[2:]), dataset.dtype)
        if stop > start:
            try:
                self.chunks(name).read(copy, start, stop, out, threads=threads)
            except Exception as error:
                raise self.corrupt(f"{name}, {errors.first_line(error)}") from None
        return out

    def chunks(self, name: str) -> ChunkReader:
        """Reader of the chunks of the features `name`."""
        if name not in self._readers:
            self._readers[name] = ChunkReader(self._descriptor, self._size, self.dataset(name))
        return self._readers[name]

    def texts(self, name: str) -> list[str]:
        """Read the texts of the dataset `name`."""
        texts = []
        for row, text in enumerate(self.read(name).tolist()):
            try:
                texts.append(text.decode())
            except UnicodeDecodeError:
                raise self.corrupt(f"{name}: row {row} is not UTF-8") from None
        return texts

    def json(self, name: str) -> dict[str, Any]:
        """Read the JSON object in the dataset `name`."""
        try:
            document = json.loads(self.read(name).tobytes())
        except (ValueError, RecursionError) as error:
            raise self.corrupt(f"the {name} is not JSON ({errors.first_line(error)})") from None
        if not isinstance(document, dict):
            raise self.corrupt(f"the {name} is not a JSON object")
        return document

    def number(self, attributes: h5py.AttributeManager, name: str) -> int:
        """Read an attribute that is an integer."""
        return int(self._attribute(attributes, name, "i"))

    def text(self, attributes: h5py.AttributeManager, name: str) -> str:
        """Read an attribute that is a text."""
        try:
            return bytes(self._attribute(attributes, name, "S")).decode()
        except UnicodeDecodeError:
            raise self.corrupt(f"the attribute {name!r} is not UTF-8") from None

    def hash(self, attributes: h5py.AttributeManager, name: str) -> str:
        """Read an attribute that is a SHA-256 in hex."""
        text = self.text(attributes, name)
        if not _HASH.fullmatch(text):
            raise self.corrupt(f"the attribute {name!r} is not 64 hexadecimal digits")
        return text

    def corrupt(self, defect: str) -> errors.Corrupt:
        """An error that reports a defect of the file."""
        return errors.Corrupt(f"{self.path} is damaged: {defect}. Restore or rebuild it.")

    def _object(self, name: str) -> h5py.Group | h5py.Dataset:
        """The object `name`, reached through hard links alone; never a virtual dataset."""
        if name in self._objects:
            return self._objects[name]
        parent, _, last = name.rpartition("/")
        group = self._object(parent)
        if not isinstance(group, h5py.Group) or not group.id.links.exists(last.encode()):
            raise self.corrupt(f"{name} is missing")
        if group.id.links.get_info(last.encode()).type != h5py.h5l.TYPE_HARD:
            raise errors.Unsafe(f"{self.path}: {name} is a link out of its place. Refused.")
        self._check_header(name, h5py.h5o.get_info(group.id, last.encode()))
        self._objects[name] = group[last]
        return self._objects[name]

    def _check_header(self, name: str, about: h5py.h5o.ObjInfo) -> None:
        """Raise unless a header has a checksum and declares no virtual dataset.

        Opening a virtual dataset would open the files it is made of.
        """
        try:
            layouts = header.layout_classes(self._descriptor, about.addr)
        except header.HeaderError as error:
            raise self.corrupt(f"{name}: {error}") from None
        if header.VIRTUAL in layouts:
            raise errors.Unsafe(f"{self.path}: {name} is made of other datasets. Refused.")
        if about.type == h5py.h5o.TYPE_DATASET and len(layouts) != 1:
            raise self.corrupt(f"{name}: its header does not declare one layout")

    def _check_storage(self, name: str, dataset: h5py.Dataset) -> None:
        """Raise unless all chunks are in this file, with a checksum and no other filter."""
        options = dataset.id.get_create_plist()
        if dataset.external:
            raise errors.Unsafe(f"{self.path}: {name} is stored in another file. Refused.")
        filters = [options.get_filter(i)[0] for i in range(options.get_nfilters())]
        if any(code != h5py.h5z.FILTER_FLETCHER32 for code in filters):
            raise errors.Unsafe(
                f"{self.path}: {name} goes through a filter other than fletcher32. Refused."
            )
        if 0 in dataset.shape:
            if max(dataset.shape) > self._size:  # a huge number of empty rows or copies
                raise self.corrupt(f"{name} has shape {list(dataset.shape)}")
            return
        if not filters or not dataset.chunks:
            raise self.corrupt(f"{name} is stored without checksums")
        lead = 2 if dataset.ndim in schema.FEATURE_AXES else 1  # copy and row, or row
        if dataset.chunks[lead:] != dataset.shape[lead:] or lead > 1 < dataset.chunks[0]:
            raise self.corrupt(f"{name} has chunks {list(dataset.chunks)}, not of whole rows")
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        if declared > self._size:
            raise errors.Truncated(
                f"{self.path}: {name} declares {declared} bytes, the whole file has {self._size}. "
                "Restore or rebuild it."
            )
        wanted = math.prod(
            -(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        stored = dataset.id.get_num_chunks()
        if stored != wanted:
            raise errors.Truncated(
                f"{self.path}: {name} has {stored} chunks, {wanted} are declared. "
                "Restore or rebuild it."
            )
        whole = math.prod(dataset.chunks) * dataset.dtype.itemsize + SUM_BYTES
        if schema.is_rows(name):
            # Reading checks each of these many chunks.
            if dataset.id.get_storage_size() != wanted * whole:
                raise self.corrupt(f"{name}: some chunks do not have {whole} bytes")
            return

        def damaged(chunk: h5py.h5d.StoreInfo) -> h5py.h5d.StoreInfo | None:
            return chunk if chunk.size != whole or chunk.filter_mask else None

        if chunk := dataset.id.chunk_iter(damaged):
            raise self.corrupt(
                f"{name}: the chunk at {list(chunk.chunk_offset)} has {chunk.size} bytes and the "
                f"filter mask {chunk.filter_mask}, not {whole} and 0"
            )

    def _attribute(self, attributes: h5py.AttributeManager, name: str, kind: str) -> Any:
        """Read an attribute that is a single value of fixed length: heaps have no checksum."""
        try:
            stored = attributes.get_id(name)
            if stored.shape == () and stored.dtype.kind == kind:
                return attributes[name]
            form = f"type {stored.dtype} and shape {stored.shape}"
        except KeyError:
            raise self.corrupt(f"the attribute {name!r} is missing") from None
        except Exception as error:
            raise self.corrupt(f"the attribute {name!r}: {errors.first_line(error)}") from None
        wanted = "fixed-length text" if kind == "S" else "integer"
        raise self.corrupt(f"the attribute {name!r} has {form}, not a single {wanted}")


def fingerprint_at(path: Path) -> str | None:
    """The fingerprint that a file claims; None for one that is no bank.

    The file is opened apart from what the HDF5 library has open of it, which it would not read
    again where it was overwritten.
    """
    try:
        with path.open("rb") as raw, h5py.File(raw, "r") as file:
            stored = file.attrs.get_id("fingerprint")
            fixed = stored.shape == () and stored.dtype.kind == "S"
            text = bytes(file.attrs["fingerprint"]).decode() if fixed else ""
    except Exception:  # damaged bytes may raise anything in the HDF5 library
        return None
    return text if _HASH.fullmatch(text) else None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Numbers that change where a path is given another file, or a file is written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(path: Path, error: Exception) -> errors.BankError:
    """The error for a file that the HDF5 library cannot open."""
    reason = errors.first_line(error)
    if "truncated file" in reason:
        return errors.Truncated(f"{path} is cut short ({reason}). Restore or rebuild it.")
    if "already open for write" in reason:
        return errors.Incomplete(
            f"{path} is being written, or its writer was killed. Run that command again."
        )
    if message := mistaken(path, "bank"):
        return errors.NotABank(message)
    return errors.NotABank(
        f"{path} is not a readable HDF5 file ({reason}). "
        "Give a bank made by `featbank extract` or `featbank import`."
    )
