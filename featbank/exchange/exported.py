"""Reading a folder that `featbank.exchange.export_features` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_same_length
from featbank.exchange.arrayfile import require_file
from featbank.exchange.arrays import Arrays
from featbank.exchange.collect import add_classifier
from featbank.exchange.embeddings import read_text
from featbank.exchange.formats import read_array
from featbank.wording import number


def is_export(path: Path) -> bool:
    """Whether a path is an export: a folder with a ``bank.json``."""
    return path.is_dir() and (path / "bank.json").exists()


def read_export(folder: Path) -> Arrays:
    """Read labels, indices, paths, marks, features, classifiers and class names of an export.

    Features stay on disk. Exports have no BatchNorm statistics.

    Raises
    ------
    DataError
        For a file that is missing or unreadable, or does not fit the others.
    """
    about = _about(folder / "bank.json")
    names = folder / "classes" / "name.txt"
    arrays = Arrays(exported=True, class_names=_lines(names))
    if arrays.num_classes != about["num_classes"]:
        raise errors.DataError(
            f"{names} has {number(arrays.num_classes, 'line')}, bank.json says K = "
            f"{about['num_classes']}. A name with a line end cannot be read back: rename the class."
        )
    for split, facts in about["splits"].items():
        labels = _read(folder / split / "label.npy")
        arrays.add_labels(split, labels, f"{folder / split / 'label.npy'}")
        arrays.index[split] = _read(folder / split / "index.npy")
        arrays.sources[split] = str(facts["source"])
        if (folder / split / "path.txt").exists():
            arrays.paths[split] = _lines(folder / split / "path.txt")
        for name in schema.FLAGS:
            if name in facts:
                marks = _marks(folder / split / f"{name}.npy", split, labels)
                getattr(arrays, name)[split] = marks
        for view in about["views"]:
            place = folder / split / view / "feature.npy"
            x = _read(place)
            one_copy = view in about.get("tokens", {}) and x.ndim == 3
            arrays.add_features(split, view, x[None] if one_copy else x, str(place))
    for view in about["classifiers"]:
        weight, bias = (folder / "classifier" / view / f"{part}.npy" for part in ("weight", "bias"))
        add_classifier(arrays, str(weight), str(bias), view=view)
    for view, logit_scale in about.get("text", {}).items():
        place = str(folder / "text" / view / "feature.npy")
        arrays.embeddings[view] = read_text(place, logit_scale=logit_scale)
        arrays.places[f"text/{view}"] = place
    arrays.default_scale |= about.get("default_scale", {})
    if about.get("batchnorm"):
        arrays.notes.append("exports have no BatchNorm statistics; those of the bank are left out")
    return arrays


def _about(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        splits, views, classifiers = about["splits"], about["views"], about["classifiers"]
        known = (
            isinstance(about["num_classes"], int)
            and set(splits) <= set(schema.SPLITS)
            and all("source" in facts for facts in splits.values())
            and all(map(schema.is_view_name, (*views, *classifiers)))
            and set(about.get("tokens", {})) <= set(views)
            and all(map(schema.is_view_name, about.get("text", {})))
            and all(isinstance(s, int | float) for s in about.get("text", {}).values())
            and set(about.get("default_scale", {})) <= set(views)
            and all(map(schema.is_scale, about.get("default_scale", {}).values()))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise errors.DataError(
            f"{path} is not what `featbank export-features` writes now. Export the bank again, or "
            "give the arrays with --train X Y."
        )
    return about


def _read(path: Path) -> np.ndarray:
    return read_array(str(path))


def _lines(path: Path) -> list[str]:
    """Lines as they were written, blanks included."""
    require_file(path)
    try:
        text = path.read_bytes().decode()  # keeps every CR
    except UnicodeDecodeError:
        raise errors.DataError(f"{path} is not UTF-8. Export the bank again.") from None
    return text.removesuffix("\n").split("\n") if text else []


def _marks(path: Path, split: str, labels: np.ndarray) -> np.ndarray:
    marks = _read(path)
    if marks.dtype != bool or marks.ndim != 1:
        raise errors.DataError(
            f"{path} has type {marks.dtype} and shape {list(marks.shape)}. It must be bool [N]."
        )
    check_same_length(split, labels=labels, **{path.stem: marks})
    return marks
