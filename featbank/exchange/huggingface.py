"""Folders of Hugging Face's ``datasets``, as ``save_to_disk`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange import arrow
from featbank.exchange.arrayfile import ArrayFile, readable
from featbank.exchange.ondisk import Array

SPLITS = {"validation": "val", "valid": "val", "dev": "val"}
"""Splits by the names that they have there, unless they are those of a bank."""


def is_saved(path: Path) -> bool:
    """Whether a folder is a ``Dataset`` or a ``DatasetDict``."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def dataset_file(path: Path) -> ArrayFile:
    """Open a ``Dataset``; keys are its columns. Of a ``DatasetDict`` they are ``split/column``."""
    found = _loaded(path)
    if not isinstance(found, dict):
        return _columns(path, found)
    splits = {str(name): _columns(path / str(name), dataset) for name, dataset in found.items()}
    keys = {f"{name}/{key}": (name, key) for name, file in splits.items() for key in file}
    return ArrayFile(path, tuple(keys), lambda key: splits[keys[key][0]][keys[key][1]])


def datasets_of(path: Path) -> dict[str, ArrayFile]:
    """The tables of a ``DatasetDict`` by split, or ``{"": table}`` of a ``Dataset``."""
    with readable(path):
        found = _loaded(path)
    if not isinstance(found, dict):
        return {"": _columns(path, found)}
    tables = {str(name): data for name, data in found.items()}
    return {SPLITS.get(name, name): _columns(path / name, data) for name, data in tables.items()}


def class_names(path: Path, column: str) -> list[str] | None:
    """The names of a ``ClassLabel``, in label order; None if the column is none."""
    found = _loaded(path)
    first = next(iter(found.values())) if isinstance(found, dict) else found
    return getattr(first.features.get(column), "names", None)


def _loaded(path: Path) -> Any:
    import datasets  # an extra: featbank[hf]

    return datasets.load_from_disk(str(path))


def _columns(path: Path, dataset: Any) -> ArrayFile:
    rows, step = len(dataset), arrow.BATCH_ROWS

    def batches(names: Sequence[str], first: int) -> arrow.Batches:
        view = dataset.select_columns(list(names)).with_format("arrow")
        return (view[start : start + step] for start in range(first * step, rows, step))

    counts = [min(step, rows - start) for start in range(0, rows, step)]
    file = arrow.Table(path, dataset.column_names, counts, batches).arrays()

    def read(key: str) -> Array:
        array, names = file[key], getattr(dataset.features.get(key), "names", None)
        return array if names is None else _named(f"{path}:{key}", array, names)

    return ArrayFile(path, file.names, read)


def _named(place: str, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The names of labels [N], by which a ``ClassLabel`` is kept apart from other numbers."""
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if outside.size:
        raise errors.DataError(
            f"{place}: label {labels[outside[0]]} in row {outside[0]} is outside 0…"
            f"{len(names) - 1}. Drop rows without a label."
        )
    return np.array(names, dtype=str)[labels]
