"""Tables of Apache Arrow: Parquet, Arrow, Feather. Vectors are lists or numbered columns."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile, require_room
from featbank.exchange.columns import (
    LONGEST_TEXT,
    arrange,
    check_length,
    check_text,
    is_vector,
    parsed,
    text_array,
)
from featbank.exchange.ondisk import Array, by_rows

BATCH_ROWS = 1 << 14
"""Rows that are unpacked at a time."""

_BUFFER_BYTES = 1 << 20
"""Bytes of a column that are read at a time, rather than those of a whole row group."""

_MOST_CHARACTERS = 1 << 30
"""The most characters of a block of vectors in texts, each padded to the longest."""

Batches = Iterator[Any]
"""Record batches, or tables."""


@dataclass(frozen=True)
class Table:
    """A table in pieces of `counts` rows.

    ``batches(names, k)`` yields columns of the rows from piece k on, in order.
    """

    path: Path
    names: Sequence[str]
    counts: Sequence[int]
    batches: Callable[[Sequence[str], int], Batches]

    def arrays(self) -> ArrayFile:
        """The table as a file of arrays; numbered columns are one."""
        keys = arrange(self.path, self.names)
        return ArrayFile(self.path, tuple(keys), lambda name: _read(self, name, keys[name]))

    def columns(self) -> ArrayFile:
        """The table as a file of arrays, each a column."""
        return ArrayFile(self.path, tuple(self.names), lambda name: _read(self, name, [name]))


def parquet_table(path: Path) -> ArrayFile:
    """Open ``.parquet``."""
    return parquet_rows(path).arrays()


def parquet_rows(path: Path) -> Table:
    """The table of ``.parquet``."""
    from pyarrow import parquet  # an extra: featbank[parquet]

    file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    groups = range(file.num_row_groups)

    def batches(names: Sequence[str], first: int) -> Batches:
        if not groups[first:]:
            return iter(())
        return file.iter_batches(BATCH_ROWS, row_groups=groups[first:], columns=list(names))

    counts = [file.metadata.row_group(k).num_rows for k in groups]
    return Table(path, file.schema_arrow.names, counts, batches)


def arrow_table(path: Path) -> ArrayFile:
    """Open ``.arrow`` and ``.feather``: the file format of Arrow, or its stream."""
    import pyarrow as pa  # an extra: featbank[parquet]

    source = pa.memory_map(str(path))
    if source.read(6) != b"ARROW1":
        source.seek(0)
        table = pa.ipc.open_stream(source).read_all()
        pieces = table.to_batches()
        counts = [len(piece) for piece in pieces]
        return Table(
            path, table.column_names, counts, lambda names, k: (p.select(names) for p in pieces[k:])
        ).arrays()
    file = pa.ipc.open_file(source)

    def batches(names: Sequence[str], first: int) -> Batches:
        fields = [file.schema.get_field_index(name) for name in names]
        chosen = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for k in range(first, chosen.num_record_batches):
            yield _record_batch(chosen, k).select(names)

    first = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
    counts = [len(_record_batch(first, k)) for k in range(first.num_record_batches)]
    return Table(path, file.schema.names, counts, batches).arrays()


def _record_batch(file: Any, k: int) -> Any:
    try:
        return file.get_batch(k)
    except MemoryError:  # of what a packed block declares
        raise ValueError("a block is damaged, or unpacks to more than the memory") from None


def _read(table: Table, name: str, columns: Sequence[str]) -> Array:
    """A column as an array, or numbered columns as one of vectors."""
    place, total = f"{table.path}:{name}", sum(table.counts)
    first = next(filter(len, table.batches(columns, 0)), None)
    if first is None:
        return np.empty(0, np.float32)
    block = _block(place, first, columns, 0)
    if block.ndim > 1 and block.dtype.kind in "biuf":
        cursor = _Cursor(table, place, columns, block.shape[1:])
        return by_rows(table.path, (total, *block.shape[1:]), block.dtype, cursor.rows)
    require_room(place, 4 * total * max(1, len(columns)))  # equal values take none in the file
    blocks, row = [], 0
    for batch in table.batches(columns, 0):
        if len(batch):
            blocks.append(_block(place, batch, columns, row))
        row += len(batch)
    array = np.concatenate(blocks)
    return parsed(place, array.tolist()) if array.dtype.kind == "U" and array.ndim == 1 else array


class _Cursor:
    """Vectors [n, D] of a table, read mostly in order."""

    def __init__(
        self, table: Table, place: str, columns: Sequence[str], axes: tuple[int, ...]
    ) -> None:
        self._table, self._place, self._columns, self._axes = table, place, columns, axes
        self._starts = [0, *itertools.accumulate(table.counts)]
        self._batches: Batches = iter(())
        self._first, self._block = 0, np.empty((0, *axes), np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows start … stop − 1."""
        piece = bisect.bisect_right(self._starts, start) - 1
        behind = start < self._first or not len(self._block)
        if behind or self._starts[piece] > self._first + len(self._block):
            self._seek(piece)
        blocks = []
        while True:
            lo, hi = max(start, self._first), min(stop, self._first + len(self._block))
            if lo < hi:
                blocks.append(self._block[lo - self._first : hi - self._first])
            if hi == stop:
                return np.concatenate(blocks)
            self._advance()

    def _seek(self, piece: int) -> None:
        self._batches = self._table.batches(self._columns, piece)
        self._first, self._block = self._starts[piece], self._block[:0]

    def _advance(self) -> None:
        self._first += len(self._block)
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError("it has fewer rows than it declares")
        if not len(batch):
            self._block = self._block[:0]
            return
        self._block = _block(self._place, batch, self._columns, self._first)
        if self._block.shape[1:] != self._axes:
            check_length(self._place, self._first, self._block.shape[1], self._axes[0])
            raise ValueError(f"rows have shapes {self._axes} and {self._block.shape[1:]}")


def _block(place: str, batch: Any, columns: Sequence[str], row: int) -> np.ndarray:
    """Columns of a batch that starts at a row: that of one, or those of several side by side."""
    arrays = [_values(place, _whole(batch.column(name)), row) for name in columns]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)


def _whole(column: Any) -> Any:
    """A column in one piece; a damaged one may lead to any place in memory."""
    column.validate(full=True)
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _values(place: str, column: Any, row: int, each: int = 1) -> np.ndarray:
    """Values [n], or [n, D] and further axes of lists, of a column whose first is of `row`.

    Of every row there are `each` values.
    """
    import pyarrow as pa
    from pyarrow import compute

    if column.null_count:
        empty = row + int(np.flatnonzero(column.is_null())[0]) // each
        part = "is empty" if each == 1 else "has an empty value"
        raise errors.DataError(f"{place}: row {empty} {part}. Fill it, or drop the row.")
    if isinstance(column.type, pa.BaseExtensionType):
        shape = getattr(column.type, "shape", None)
        array = _values(place, column.storage, row, each)
        return array.reshape(len(array), *shape) if array.ndim == 2 and shape else array
    _check_texts(place, column, row, each)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string())
    if not hasattr(column, "flatten") or not pa.types.is_nested(column.type):
        array = column.to_numpy(zero_copy_only=False)
        return text_array(place, array.tolist()) if array.dtype == object else array
    if not len(column):
        return np.empty((0, max(0, getattr(column.type, "list_size", 0))), np.float32)
    lengths = np.asarray(compute.list_value_length(column))
    uneven = np.flatnonzero(lengths != lengths[0])
    if uneven.size:
        check_length(place, row + int(uneven[0]) // each, lengths[uneven[0]], lengths[0])
    length = int(lengths[0])
    values = _values(place, column.flatten(), row, each * max(1, length))
    return values.reshape(len(column), length, *values.shape[1:])


def _check_texts(place: str, column: Any, first_row: int, each: int) -> None:
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
        row = first_row + int(np.argmax(indices == longest)) // each
        check_text(place, row, int(lengths[longest]))
