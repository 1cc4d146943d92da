"""Tables, one row per image: CSV, TSV and Parquet. The columns are the keys."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange.columns import arrange, check_length, parsed, stacked, text_array
from featbank.exchange.opened import Opened

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 26


def csv_table(path: Path) -> Opened:
    """Open ``.csv`` or ``.tsv``, its first line the names of the columns.

    Vectors are texts, ``[0.1, 0.2]`` or ``0.1 0.2``, or spread over numbered columns.
    """
    header = next(_csv_lines(path), [])
    keys = arrange(path, header)

    def read(name: str) -> np.ndarray:
        places = [header.index(column) for column in keys[name]]
        if len(places) > 1:
            return stacked(f"{path}:{name}", ([row[i] for i in places] for row in _csv_rows(path)))
        return parsed(f"{path}:{name}", [row[places[0]] for row in _csv_rows(path)])

    return Opened(tuple(keys), read)


def parquet_table(path: Path) -> Opened:
    """Open ``.parquet``; vectors are lists, or as in CSV."""
    from pyarrow import parquet  # an extra: featbank[parquet]

    file = parquet.ParquetFile(path)
    keys = arrange(path, file.schema_arrow.names)

    def read(name: str) -> np.ndarray:
        columns = [_parquet_column(path, file, column) for column in keys[name]]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    return Opened(tuple(keys), read)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from filter(None, csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()]))


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Rows below the header, each as long as the header."""
    lines = _csv_lines(path)
    header = next(lines)
    for n, row in enumerate(lines):
        if len(row) != len(header):
            raise errors.DataError(
                f"{path}: row {n} has {len(row)} cells, the header {len(header)}. Repair it; "
                "a cell that contains the delimiter needs quotes."
            )
        yield row


def _parquet_column(path: Path, file: Any, name: str) -> np.ndarray:
    place, blocks, rows = f"{path}:{name}", [], 0
    for batch in file.iter_batches(columns=[name]):
        blocks.append(_arrow_array(place, batch.column(0), rows))
        if blocks[-1].ndim > 1:
            check_length(place, rows, blocks[-1].shape[1], blocks[0].shape[1])
        rows += len(batch)
    if not blocks:
        return np.empty(0, np.float32)
    array = np.concatenate(blocks)
    return parsed(place, array.tolist()) if array.dtype.kind == "U" else array


def _arrow_array(place: str, column: Any, first_row: int) -> np.ndarray:
    """A block of a column: numbers [n], texts [n], or vectors [n, D]."""
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null())[0])
        raise errors.DataError(f"{place}: row {row} is empty. Fill it, or drop the row.")
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
