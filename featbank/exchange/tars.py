"""WebDataset: a tar in which the files of a sample share their name up to the first dot.

Nothing is extracted: members are read where they lie, and their names are only names.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange import npy
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.columns import check_text, text_array
from featbank.exchange.ondisk import Array, by_rows

KEY = "__key__"
"""Key of the names of the samples."""

_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]+)", re.DOTALL)
_TEXTS = ("cls", "txt")
_LONGEST = 1 << 20
"""The most bytes of a text or of JSON."""
_BLOCK = 512

Sample = dict[str, tuple[int, int]]
"""Start and size of the files of a sample, by ending."""


def tar_file(path: Path) -> ArrayFile:
    """Open ``.tar``: ``.npy`` are arrays, ``.cls`` and ``.txt`` texts, ``.json`` a key per field.

    Keys are endings, ``npy``, ``cls``, and ``emb`` for ``.emb.npy``; fields of JSON; `KEY`.
    """
    samples = _samples(path)
    if not samples:
        return ArrayFile(path, (), lambda _: None)
    first = next(iter(samples.values()))
    readers: dict[str, Callable[[], Array]] = {}
    for ending in first:
        if ending == "npy" or ending.endswith(".npy"):
            readers[ending.removesuffix(".npy")] = lambda e=ending: _arrays(path, samples, e)  # type: ignore[misc]
        elif ending in _TEXTS:
            readers[ending] = lambda e=ending: _column(path, samples, e, str)  # type: ignore[misc]
    if "json" in first:
        for field, value in _json(path, *first["json"]).items():
            if isinstance(value, str | int | float):
                readers.setdefault(
                    field,
                    lambda f=field: _column(  # type: ignore[misc]
                        path, samples, "json", lambda text: json.loads(text)[f]
                    ),
                )
    readers[KEY] = lambda: text_array(f"{path}:{KEY}", list(samples))
    return ArrayFile(path, tuple(readers), lambda name: readers[name]())


def _samples(path: Path) -> dict[str, Sample]:
    """The files of each sample, in the order of the tar; only the headers are read."""
    samples: dict[str, Sample] = {}
    end = 0
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK * member.isreg()
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise errors.DataError(
                    f"{path}: {member.name!r} is a link, or no plain file. Pack files alone."
                )
            if not (match := _NAME.fullmatch(member.name)):
                continue
            key, ending = match[1], match[2].lower()
            place = PurePosixPath(key)
            if place.is_absolute() or ".." in place.parts:
                raise errors.DataError(
                    f"{path}: {member.name!r} leads out of the archive. Pack it by a name within."
                )
            if ending in samples.setdefault(key, {}):
                raise errors.DataError(f"{path}: {member.name!r} comes twice. Pack it once.")
            samples[key][ending] = (member.offset_data, member.size)
    _require_end(path, end)
    return samples


def _require_end(path: Path, end: int) -> None:
    """Raise unless zeros follow the last member: one that is damaged seems to end earlier."""
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(_BLOCK)
        if len(rest) < _BLOCK or any(rest):
            raise ValueError("it is cut short, or damaged")
        while rest := file.read(1 << 20):
            if any(rest):
                raise ValueError("something follows the end of the archive")


def _arrays(path: Path, samples: Mapping[str, Sample], ending: str) -> Array:
    places = [_place(path, key, sample, ending, samples) for key, sample in samples.items()]
    keys = list(samples)

    def read(row: int) -> np.ndarray:
        try:
            return npy.from_bytes(_content(path, *places[row]))
        except ValueError as error:
            raise errors.DataError(
                f"{path}: {keys[row]}.{ending} is not a readable array "
                f"({errors.first_line(error).rstrip('.')}). Save it again, without pickled objects."
            ) from None

    first = read(0)

    def rows(start: int, stop: int) -> np.ndarray:
        block = np.empty((stop - start, *first.shape), first.dtype)
        for row in range(start, stop):
            array = read(row)
            if (array.shape, array.dtype) != (first.shape, first.dtype):
                raise errors.DataError(
                    f"{path}: {keys[row]}.{ending} is {array.dtype} {list(array.shape)}, that of "
                    f"{keys[0]} {first.dtype} {list(first.shape)}. Every sample needs as many."
                )
            block[row - start] = array
        return block

    return by_rows(path, (len(places), *first.shape), first.dtype, rows)


def _column(
    path: Path, samples: Mapping[str, Sample], ending: str, value: Callable[[str], Any]
) -> np.ndarray:
    """A value of every sample, from a text of its own."""
    values: list[str | int | float] = []
    for key, sample in samples.items():
        place = _place(path, key, sample, ending, samples)
        try:
            found = value(_text(path, *place))
        except (KeyError, TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, str | int | float):
            raise errors.DataError(
                f"{path}: {key}.{ending} has not what {next(iter(samples))}.{ending} has. Give "
                "every sample a value."
            )
        check_text(f"{path}:{ending}", len(values), len(str(found)))
        values.append(found)
    texts = [item.strip() for item in values if isinstance(item, str)]
    if 0 < len(texts) < len(values):
        raise errors.DataError(f"{path}: .{ending} has numbers and texts. Save one or the other.")
    return text_array(f"{path}:{ending}", texts) if texts else np.array(values)


def _json(path: Path, start: int, size: int) -> dict[str, Any]:
    fields = json.loads(_text(path, start, size))
    return fields if isinstance(fields, dict) else {}


def _place(
    path: Path, key: str, sample: Sample, ending: str, samples: Mapping[str, Sample]
) -> tuple[int, int]:
    if ending not in sample:
        raise errors.DataError(
            f"{path}: sample {key!r} has no .{ending}, as {next(iter(samples))!r} has. Add it, or "
            "drop the sample."
        )
    return sample[ending]


def _text(path: Path, start: int, size: int) -> str:
    if size > _LONGEST:
        raise ValueError(f"a text has {size:,} bytes, at most {_LONGEST:,} are read")
    return _content(path, start, size).decode()


def _content(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
