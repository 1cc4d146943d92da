"""Collecting the arrays of an import: from pairs of files, the keys of a file, or a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.exchange import huggingface
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.arrays import Arrays, SelectedRows
from featbank.exchange.embeddings import FACTOR, NAMES, as_embeddings, read_text
from featbank.exchange.folder import is_folder, read_folder, read_folder_pair, require_same_names
from featbank.exchange.formats import TABLES, locate, open_arrays, read_array
from featbank.exchange.integers import as_integers, as_texts, as_vector
from featbank.exchange.roles import COLUMNS, column_of


def read_file(path: Path, *, group_column: str | None = None) -> Arrays:
    """Read a file that is a whole import: a table, or arrays whose keys name split and view.

    `group_column` is the column of source groups in a table, ``source_group`` by default.

    Raises
    ------
    ConfigError
        For a `group_column` of a file that is no table.
    DataError
        As `open_arrays`, for a key that is not understood, and for a column that is missing.
    """
    if huggingface.is_saved(path):
        return _read_datasets(path, group_column)
    file = open_arrays(path)
    if path.suffix.lower() in TABLES or _is_table(file):
        return _read_table(file, group_column)
    if group_column is not None:
        raise errors.ConfigError(
            f"--group-column is for tables, and {path} has the keys {_first_names(file.names)}. "
            "Name the source groups source_group_train, …, or give --source-groups SPLIT FILE:KEY."
        )
    return _read_keyed(file)


def add_pair(arrays: Arrays, split: str, x: str, y: str) -> None:
    """Add a split from the places of its features and labels, or from two folders."""
    if is_folder(x) or is_folder(y):
        features, labels, arrays.paths[split] = read_folder_pair(x, y)
    else:
        features, labels = read_array(x), read_array(y)
    arrays.add_features(split, "instance", features, x)
    arrays.add_labels(split, np.asarray(labels), y)


def add_view(arrays: Arrays, split: str, view: str, x: str) -> None:
    """Add a further view of a split from its place, or from a folder of the same images."""
    if is_folder(x):
        features, names = read_folder(x)
        of_images = locate(arrays.places.get(f"{split}/instance", ""))[0]
        require_same_names(of_images, arrays.paths.get(split, []), locate(x)[0], names)
    else:
        features = read_array(x)
    arrays.add_features(split, view, features, x)


def add_classifier(arrays: Arrays, weight: str, bias: str, *, view: str = "instance") -> None:
    """Add a view's stage-1 classifier from the places of weight [K, D] and bias [K]."""
    arrays.classifier[view] = (
        np.asarray(read_array(weight)),
        as_vector(np.asarray(read_array(bias))),
    )
    arrays.places |= {f"classifier/{view}/weight": weight, f"classifier/{view}/bias": bias}


def add_text(
    arrays: Arrays,
    text: str,
    *,
    view: str = "instance",
    names: Path | None = None,
    logit_scale: float | None = None,
) -> None:
    """Add text embeddings in the space of a view, as `read_text` reads them."""
    arrays.embeddings[view] = read_text(text, names=names, logit_scale=logit_scale)
    arrays.places[f"text/{view}"] = text


def _read_keyed(file: ArrayFile) -> Arrays:
    """Read all keys of a file.

    ``x_<split>`` or ``x_<split>_<view>`` are features of a split with labels ``y_<split>``; ``w0``
    and ``b0`` are the stage-1 classifier, ``w0_<view>`` and ``b0_<view>`` that of a view. So
    ``x_train_balanced`` is the view ``balanced`` of ``train``, unless there is a
    ``y_train_balanced``. ``source_group_<split>`` and ``cell_<split>`` say where rows come from.
    ``text``, ``text_<view>`` and ``text_features`` are text of the classes,
    `FACTOR` its logit scale, and `NAMES` the classes in label order, of text as well if it has as
    many. Any other key is an error, so that nothing is dropped unnoticed.
    """
    if file.single:
        raise errors.DataError(
            f"{file.path} is a single array. Give it with --train {file.path} LABELS."
        )
    if "classes/name" in file:
        raise errors.DataError(
            f"{file.path} is a bank already. Use it as it is, or give its arrays, as with --train "
            f"{file.path}:train/instance/feature {file.path}:train/label."
        )
    arrays = Arrays()
    labelled = [split for split in schema.SPLITS if f"y_{split}" in file]
    features = re.compile(rf"x_({'|'.join(sorted(labelled, key=len, reverse=True))})(?:_(.+))?")
    for key in file:
        if match := features.fullmatch(key):
            arrays.add_features(match[1], match[2] or "instance", file[key], file.place(key))
        elif key.startswith("y_") and key[2:] in schema.SPLITS:
            arrays.add_labels(key[2:], np.asarray(file[key]), file.place(key))
        elif (role := re.fullmatch("(source_group|cell)_(.+)", key)) and role[2] in labelled:
            arrays.of_places[role[1]][role[2]] = np.asarray(file[key])
            arrays.places[f"{role[2]}/{role[1]}"] = file.place(key)
        elif match := re.fullmatch("w0(?:_(.+))?", key):
            view, bias_key = match[1] or "instance", "b" + key[1:]
            bias = as_vector(np.asarray(file[bias_key])) if bias_key in file else None
            arrays.classifier[view] = (np.asarray(file[key]), bias)
            arrays.places[f"classifier/{view}/weight"] = file.place(key)
        elif match := re.fullmatch("text(?:_(.+))?", key):
            view = "instance" if match[1] in (None, "features") else match[1]
            arrays.embeddings[view] = as_embeddings(file, key, file.place(key))
            arrays.places[f"text/{view}"] = file.place(key)
        elif key in NAMES and np.asarray(file[key]).ndim == 1:
            arrays.class_names = as_texts(np.asarray(file[key]), file.place(key)).tolist()
        elif key != FACTOR and not (key.startswith("b0") and "w" + key[1:] in file):
            raise errors.DataError(
                f"{file.path}: key {key!r} is not understood. Name keys x_train, y_train, "
                "x_test, y_test, …, further views x_train_balanced, w0 and b0, or give arrays "
                f"with --train {file.path}:KEY {file.path}:KEY."
            )
    return arrays


def _read_datasets(path: Path, group_column: str | None) -> Arrays:
    """Read the splits of Hugging Face's ``datasets``; the class names are those of its labels."""
    arrays = Arrays()
    for split, table in huggingface.datasets_of(path).items():
        if split and split not in schema.SPLITS:
            raise errors.DataError(
                f"{path}: split {split!r} is unknown. {errors.closest(split, schema.SPLITS)} Or "
                f"give arrays, as with --train {path}:{split}/KEY {path}:{split}/KEY."
            )
        columns = _columns(table, group_column)
        arrays.class_names = huggingface.class_names(path, columns["label"])
        _add_table(arrays, table, columns, split)
    return arrays


def _read_table(table: ArrayFile, group_column: str | None) -> Arrays:
    """Read a table with the columns `COLUMNS`; without ``split``, all rows are train."""
    arrays = Arrays()
    _add_table(arrays, table, _columns(table, group_column))
    return arrays


def _add_table(
    arrays: Arrays, table: ArrayFile, columns: Mapping[str, str], only: str = ""
) -> None:
    """Add the rows of a table: all to the split `only`, or by its column ``split``."""
    features = table[columns["features"]]
    labels = as_vector(np.asarray(table[columns["label"]]))
    index, paths = np.arange(len(labels)), None
    if "index" in columns:
        index = as_integers(table[columns["index"]], table.place("index"))
    if "path" in columns:
        paths = _texts(table, columns["path"])
    rows_of = (
        {only: np.arange(len(labels))} if only else _rows_by_split(table, columns, len(labels))
    )
    for split, rows in rows_of.items():
        place = table.place(columns["features"])
        arrays.add_features(split, "instance", SelectedRows(features, rows), place)
        arrays.add_labels(split, labels[rows], table.place(columns["label"]))
        arrays.index[split] = index[rows]
        if "index" not in columns:
            arrays.sources[split] = only or table.path.name  # splits share the rows of one table
        if paths is not None:
            arrays.paths[split] = paths[rows].tolist()
        for role, of in arrays.of_places.items():
            if role in columns:
                of[split] = np.asarray(table[columns[role]])[rows]
                arrays.places[f"{split}/{role}"] = table.place(columns[role])
    if unused := [key for key in table if key not in columns.values()]:
        arrays.notes.append(f"not used: {_first_names(unused)}")


def _is_table(file: ArrayFile) -> bool:
    """Whether the keys of a file are the columns of a table: features and label."""
    return all(column_of(file, COLUMNS[role]) for role in ("features", "label"))


def _columns(table: ArrayFile, group_column: str | None) -> dict[str, str]:
    """Names of the columns of `COLUMNS` that the table has."""
    columns = {role: name for role in COLUMNS if (name := column_of(table, COLUMNS[role]))}
    if group_column is not None:
        if group_column not in table:
            raise errors.DataError(
                f"{table.path} has no column {group_column!r}, but {_first_names(table.names)}. "
                "Give one of these as --group-column."
            )
        columns["source_group"] = group_column
    for role in ("features", "label"):
        if role not in columns:
            raise errors.DataError(
                f"{table.path} has no column {COLUMNS[role][0]!r}, but {_first_names(table.names)}."
                f" Rename one, or give columns with --train {table.path}:KEY {table.path}:KEY."
            )
    return columns


def _rows_by_split(
    table: ArrayFile, columns: Mapping[str, str], rows: int
) -> dict[str, np.ndarray]:
    if "split" not in columns:
        return {"train": np.arange(rows)}
    splits = _texts(table, columns["split"])
    for row in np.flatnonzero(~np.isin(splits, schema.SPLITS))[:1]:
        raise errors.DataError(
            f"{table.path}: split {splits[row].item()!r} in row {row} is unknown. "
            f"{errors.closest(splits[row].item(), schema.SPLITS)}"
        )
    return {split: np.flatnonzero(splits == split) for split in schema.SPLITS if split in splits}


def _texts(table: ArrayFile, column: str) -> np.ndarray:
    return np.char.strip(table[column].astype(str))


def _first_names(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
