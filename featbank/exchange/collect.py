"""From files to the arrays of a bank: by pairs, by one file's keys, or by a table's columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.exchange.arrays import Arrays, SelectedRows
from featbank.exchange.folder import read_folder, read_folder_pair, require_same_names
from featbank.exchange.formats import TABLES, Source, open_source, read_array
from featbank.exchange.integers import as_integers, as_vector

COLUMNS = {
    "features": ("embedding", "embeddings", "feature", "features", "f"),
    "label": ("label",),
    "split": ("split",),
    "index": ("index",),
    "path": ("path",),
}
"""What a table given alone may hold, and the columns' names."""


def read_file(path: Path) -> Arrays:
    """Read a file that is a whole import: a table, or arrays whose keys say what they are.

    Raises
    ------
    DataError
    """
    source = open_source(path)
    return _read_table(source) if path.suffix.lower() in TABLES else _read_keyed(source)


def add_pair(arrays: Arrays, split: str, x: str, y: str) -> None:
    """Add a split from the places of its features and labels, or from two folders."""
    if Path(x).is_dir() or Path(y).is_dir():
        features, labels, arrays.paths[split] = read_folder_pair(Path(x), Path(y))
    else:
        features, labels = read_array(x), read_array(y)
    arrays.add_features(split, "instance", features, x)
    arrays.add_labels(split, labels, y)


def add_view(arrays: Arrays, split: str, view: str, x: str) -> None:
    """Add a further view of a split from its place, or from a folder of the same images."""
    if Path(x).is_dir():
        features, names = read_folder(Path(x))
        require_same_names(
            arrays.places.get(f"{split}/instance"), arrays.paths.get(split, []), x, names
        )
    else:
        features = read_array(x)
    arrays.add_features(split, view, features, x)


def add_classifier(arrays: Arrays, weight: str, bias: str, *, view: str = "instance") -> None:
    """Add a view's stage-1 classifier from the places of weight [K, D] and bias [K]."""
    arrays.classifier[view] = (read_array(weight), as_vector(read_array(bias)))
    arrays.places |= {f"classifier/{view}/weight": weight, f"classifier/{view}/bias": bias}


def _read_keyed(source: Source) -> Arrays:
    """Read all keys of a file.

    ``x_<split>`` or ``x_<split>_<view>`` are features of a split that has labels ``y_<split>``;
    ``w0`` and ``b0`` are the stage-1 classifier, ``w0_<view>`` and ``b0_<view>`` that of a view. So
    ``x_train_balanced`` is the view ``balanced`` of ``train``, unless there is a
    ``y_train_balanced``. Other keys are an error, so that nothing is left out unnoticed.
    """
    if source.single:
        raise errors.DataError(
            f"{source.path} is a single array. Give it with --train {source.path} LABELS."
        )
    arrays = Arrays()
    labelled = [split for split in schema.SPLITS if f"y_{split}" in source]
    features = re.compile(rf"x_({'|'.join(sorted(labelled, key=len, reverse=True))})(?:_(.+))?")
    for key in source:
        place = f"{source.path}:{key}"
        if match := features.fullmatch(key):
            arrays.add_features(match[1], match[2] or "instance", source[key], place)
        elif key.startswith("y_") and key[2:] in schema.SPLITS:
            arrays.add_labels(key[2:], source[key], place)
        elif match := re.fullmatch("w0(?:_(.+))?", key):
            view, other = match[1] or "instance", "b" + key[1:]
            bias = as_vector(source[other]) if other in source else None
            arrays.classifier[view] = (source[key], bias)
            arrays.places[f"classifier/{view}/weight"] = place
        elif not (key.startswith("b0") and "w" + key[1:] in source):
            raise errors.DataError(
                f"{source.path}: key {key!r} is not understood. Name keys x_train, y_train, "
                "x_test, y_test, …, further views x_train_balanced, w0 and b0, or give arrays "
                f"with --train {source.path}:KEY {source.path}:KEY."
            )
    return arrays


def _read_table(source: Source) -> Arrays:
    """Read a table: `COLUMNS` tells the columns; without ``split``, all rows are train."""
    found = _columns(source)
    features, labels = source[found["features"]], source[found["label"]]
    index, paths = np.arange(len(labels)), None
    if "index" in found:
        index = as_integers(source[found["index"]], f"{source.path}:index")
    if "path" in found:
        paths = np.char.strip(source[found["path"]].astype(str))
    arrays = Arrays()
    for split, rows in _rows_by_split(source, found, len(labels)).items():
        arrays.add_features(
            split, "instance", SelectedRows(features, rows), _place(source, found["features"])
        )
        arrays.add_labels(split, labels[rows], _place(source, found["label"]))
        arrays.index[split] = index[rows]
        if "index" not in found:
            arrays.sources[split] = source.path.name  # the splits share the rows of one table
        if paths is not None:
            arrays.paths[split] = paths[rows].tolist()
    taken = set(found.values())
    if unused := [key for key in source if key not in taken]:
        arrays.notes.append(f"not used: {_some(unused)}")
    return arrays


def _columns(source: Source) -> dict[str, str]:
    """The column of each of `COLUMNS` that the table has."""
    found = {
        what: next(name for name in names if name in source)
        for what, names in COLUMNS.items()
        if any(name in source for name in names)
    }
    for what in ("features", "label"):
        if what not in found:
            raise errors.DataError(
                f"{source.path} has no column {COLUMNS[what][0]!r}, but {_some(source)}. "
                f"Rename one, or give columns with --train {source.path}:KEY {source.path}:KEY."
            )
    return found


def _rows_by_split(source: Source, found: Mapping[str, str], rows: int) -> dict[str, np.ndarray]:
    if "split" not in found:
        return {"train": np.arange(rows)}
    values = np.char.strip(source[found["split"]].astype(str))
    for row in np.flatnonzero(~np.isin(values, schema.SPLITS))[:1]:
        raise errors.DataError(
            f"{source.path}: split {values[row].item()!r} in row {row} is unknown. "
            f"{errors.closest(values[row].item(), schema.SPLITS)}"
        )
    return {split: np.flatnonzero(values == split) for split in schema.SPLITS if split in values}


def _some(names: Iterable[str], most: int = 20) -> str:
    """The first of many names."""
    told = list(names)
    more = f" and {len(told) - most:,} more" if len(told) > most else ""
    return f"{', '.join(told[:most])}{more}"


def _place(source: Source, column: str) -> str:
    return f"{source.path}:{column}"
