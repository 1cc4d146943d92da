"""Exports as one Parquet table: a row per row of the bank, views as columns, the rest as metadata.

Classifiers and text are no rows, and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import Bank, schema
from featbank.bank.checks import check_finite
from featbank.exchange.about import describe, parsed_about, read_class_facts, read_group_names
from featbank.exchange.arrayfile import readable, require_file
from featbank.exchange.arrays import Arrays, SelectedRows
from featbank.exchange.arrow import parquet_rows
from featbank.exchange.ondisk import Array

PARQUET = ".parquet"

_KEY = b"featbank"
"""Metadata of the table: the description, with the class names."""


def column(view: str) -> str:
    """The column of a view; that of ``instance`` is what tables call features."""
    return "embedding" if view == "instance" else f"embedding/{view}"


def write_parquet(bank: Bank, path: Path) -> None:
    """Write the rows of all splits, one row group for each block."""
    import pyarrow as pa  # an extra: featbank[parquet]
    from pyarrow import parquet

    facts = {**describe(bank), "class_names": bank.class_names, "classifiers": []}
    facts["left_out"] = [
        what
        for what, views in (("classifiers", bank.classifiers), ("text", facts.pop("text", {})))
        if views
    ]
    for split in bank.splits:
        facts["splits"][split]["path"] = bank.paths(split) is not None
    names = {"split": pa.string(), "label": pa.int64(), "index": pa.int64()}
    if any(bank.paths(split) is not None for split in bank.splits):
        names["path"] = pa.string()
    for name in schema.FLAGS:
        if any(bank.flags(split, name) is not None for split in bank.splits):
            names[name] = pa.bool_()
    for name, kind in (("source_group", pa.int64()), ("cell", pa.list_(pa.int64(), 2))):
        if any(bank.place(split, name) is not None for split in bank.splits):
            names[name] = kind
    for view in bank.views:
        copies, _, *of_row = bank.shape("train", view)
        axes = (copies, *of_row) if copies > 1 else tuple(of_row)
        number = pa.from_numpy_dtype(bank.dtype)
        names[column(view)] = (
            pa.list_(number, axes[0]) if len(axes) == 1 else pa.fixed_shape_tensor(number, axes)
        )
    metadata = {_KEY: json.dumps(facts, ensure_ascii=False).encode()}
    table = pa.schema(list(names.items()), metadata)
    with parquet.ParquetWriter(path, table) as writer:
        for split in bank.splits:
            for block in _blocks(bank, split, list(names)):
                arrays = [_column(block[name], names[name]) for name in names]
                writer.write_batch(pa.record_batch(arrays, schema=table))


def about_of(path: Path) -> bytes | None:
    """The description in the metadata of a table, or None."""
    from pyarrow import parquet

    require_file(path)
    with readable(path):
        return (parquet.read_metadata(path).metadata or {}).get(_KEY)


def read_parquet(path: Path) -> Arrays:
    """Read a table that `write_parquet` wrote; features stay on disk.

    Raises
    ------
    DataError
        If its metadata and columns are not those of an export.
    """
    content = about_of(path)
    about = parsed_about(content or b"", str(path))
    with readable(path):
        table = parquet_rows(path).columns()
    names = about.get("class_names")
    if not isinstance(names, list) or len(names) != about["num_classes"]:
        raise errors.DataError(f"{path} has not the names of its classes. Export the bank again.")
    arrays = Arrays(exported=True, class_names=[str(name) for name in names])
    splits = np.asarray(table["split"]).astype(str)
    stored = {
        view: _copies(table[column(view)], tokens=view in about.get("tokens", {}))
        for view in about["views"]
    }
    for split, facts in about["splits"].items():
        rows = np.flatnonzero(splits == split)
        arrays.add_labels(split, np.asarray(table["label"])[rows], table.place("label"))
        arrays.index[split] = np.asarray(table["index"])[rows]
        arrays.sources[split] = str(facts["source"])
        if facts.get("path"):
            arrays.paths[split] = table["path"][rows].tolist()
        for name in schema.FLAGS:
            if name in facts:
                getattr(arrays, name)[split] = np.asarray(table[name])[rows].astype(bool)
        for name, of in arrays.of_places.items():
            if facts.get(name):
                of[split] = np.asarray(table[name])[rows]
        for view in about["views"]:
            selected = SelectedRows(stored[view], rows, int(stored[view].ndim > 2))
            arrays.add_features(split, view, selected, table.place(column(view)))
    arrays.default_scale |= about.get("default_scale", {})
    vars(arrays).update(read_class_facts(about, str(path)))
    arrays.source_group_names = read_group_names(about, str(path))
    if left_out := about.get("left_out"):
        arrays.notes.append(f"tables have rows alone; left out: {', '.join(map(str, left_out))}")
    return arrays


def _copies(x: Array, *, tokens: bool) -> Array:
    """Features [N, D] as they are, of tokens [1, N, T, D], of copies [A, N, …], held in memory."""
    if x.ndim - tokens == 3:
        return np.asarray(x).swapaxes(0, 1)
    return x[None] if tokens else x


def _blocks(bank: Bank, split: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a split by column."""
    step = min(bank.block_rows(split, view) for view in bank.views)
    columns: dict[str, Any] = {"label": bank.labels(split), "index": bank.index(split)}
    paths = bank.paths(split)
    columns["path"] = np.full(bank.rows(split), "") if paths is None else np.array(paths, dtype=str)
    for name in schema.FLAGS:
        flags = bank.flags(split, name)
        columns[name] = np.zeros(bank.rows(split), bool) if flags is None else flags
    for name, axes in schema.PLACES.items():
        places = bank.place(split, name)
        columns[name] = np.full((bank.rows(split), *axes), -1) if places is None else places
    for start in range(0, bank.rows(split), step):
        stop = min(start + step, bank.rows(split))
        block = {name: columns[name][start:stop] for name in names if name in columns}
        block["split"] = np.full(stop - start, split)
        for view in bank.views:
            copies = [
                bank.read(split, view, start, stop, copy=copy)
                for copy in range(bank.copies(split, view))
            ]
            for rows in copies:
                check_finite(rows, f"{bank.path}, {split}/{view}", first_row=start)
            block[column(view)] = copies[0] if len(copies) == 1 else np.stack(copies, axis=1)
        yield block


def _column(array: np.ndarray, kind: Any) -> Any:
    """An array of a column's type."""
    import pyarrow as pa

    if array.ndim == 1:
        return pa.array(array.tolist() if array.dtype.kind == "U" else array, kind)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    size = int(np.prod(array.shape[1:]))
    rows = pa.FixedSizeListArray.from_arrays(flat, size)
    return rows if array.ndim == 2 else pa.ExtensionArray.from_storage(kind, rows)
