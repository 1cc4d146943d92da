"""Tables, one row per image: CSV, TSV and Parquet. The columns are the keys."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.columns import (
    LONGEST_TEXT,
    arrange,
    check_length,
    check_text,
    is_vector,
    parsed,
    stacked,
    text_array,
)
from featbank.memory import whole_memory

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 26
_MOST_CHARACTERS = 1 << 30
"""The most characters of a block of vectors in texts, each padded to the longest."""


def csv_table(path: Path) -> ArrayFile:
    """Open ``.csv`` or ``.tsv``; the first line names the columns.

    Vectors are texts, ``[0.1, 0.2]`` or ``0.1 0.2``, or spread over numbered columns.
    """
    header = next(_csv_lines(path), [])
    keys = arrange(path, header)
    place_of = {column: place for place, column in enumerate(header)}

    def read(name: str) -> np.ndarray:
        places = [place_of[column] for column in keys[name]]
        if len(places) > 1:
            return stacked(f"{path}:{name}", ([row[i] for i in places] for row in _csv_rows(path)))
        return parsed(f"{path}:{name}", [row[places[0]] for row in _csv_rows(path)])

    return ArrayFile(path, tuple(keys), read)


def parquet_table(path: Path) -> ArrayFile:
    """Open ``.parquet``; vectors are lists, or as in CSV."""
    from pyarrow import parquet  # an extra: featbank[parquet]

    file = parquet.ParquetFile(path)
    keys = arrange(path, file.schema_arrow.names)

    def read(name: str) -> np.ndarray:
        columns = _parquet_columns(path, file, keys[name])
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    return ArrayFile(path, tuple(keys), read)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from filter(None, csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()]))


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows below the header; raise unless each is as long as the header."""
    lines = _csv_lines(path)
    header = next(lines)
    for n, row in enumerate(lines):
        if len(row) != len(header):
            raise errors.DataError(
                f"{path}: row {n} has {len(row)} cells, the header {len(header)}. Repair it; "
                "a cell that contains the delimiter needs quotes."
            )
        yield row


def _parquet_columns(path: Path, file: Any, names: Sequence[str]) -> list[np.ndarray]:
    """Read columns of a file together, in one pass."""
    size, room = 4 * file.metadata.num_rows * len(names), whole_memory()
    if room is not None and size > room:  # runs of equal values take no room in the file
        raise errors.DataError(
            f"{path}: {file.metadata.num_rows:,} rows of {len(names):,} columns need at least "
            f"{size / 2**30:,.1f} GiB, the machine has {room / 2**30:,.1f}. Cut the file."
        )
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows = 0
    for batch in file.iter_batches(columns=list(names)):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            place, block = f"{path}:{name}", _arrow_array(f"{path}:{name}", column, rows)
            blocks[name].append(block)
            if block.ndim > 1:
                check_length(place, rows, block.shape[1], blocks[name][0].shape[1])
        rows += len(batch)
    return [_joined(f"{path}:{name}", arrays) for name, arrays in blocks.items()]


def _joined(place: str, blocks: Sequence[np.ndarray]) -> np.ndarray:
    if not blocks:
        return np.empty(0, np.float32)
    array = np.concatenate(blocks)
    return parsed(place, array.tolist()) if array.dtype.kind == "U" else array


def _check_texts(place: str, column: Any, first_row: int) -> None:
    """Raise if a text of a block, or of its dictionary, is implausibly long."""
    import pyarrow as pa
    from pyarrow import compute

    coded = pa.types.is_dictionary(column.type)
    texts = column.dictionary if coded else column
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return
    lengths = np.asarray(compute.fill_null(compute.utf8_length(texts), 0))
    longest = int(lengths.argmax()) if len(lengths) else 0
    if not len(lengths) or lengths[longest] <= LONGEST_TEXT:
        return
    if (
        not is_vector(texts[0].as_py() or "")
        or len(column) * int(lengths[longest]) > _MOST_CHARACTERS
    ):
        indices = np.asarray(column.indices) if coded else np.arange(len(column))
        row = first_row + int(np.argmax(indices == longest))
        check_text(place, row, int(lengths[longest]))


def _arrow_array(place: str, column: Any, first_row: int) -> np.ndarray:
    """A block of a column as an array: numbers [n], texts [n], or vectors [n, D]."""
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null())[0])
        raise errors.DataError(f"{place}: row {row} is empty. Fill it, or drop the row.")
    _check_texts(place, column, first_row)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string())
    if not hasattr(column, "flatten") or not pa.types.is_nested(column.type):
        array = column.to_numpy(zero_copy_only=False)
        return text_array(place, array.tolist()) if array.dtype == object else array
    lengths = np.asarray(compute.list_value_length(column))
    uneven = np.flatnonzero(lengths != lengths[0])
    if uneven.size:
        check_length(place, first_row + uneven[0], lengths[uneven[0]], lengths[0])
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), lengths[0])
