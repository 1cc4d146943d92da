"""Reading what `featbank.exchange.export_features` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_same_length
from featbank.exchange.about import ABOUT, parsed_about, read_class_facts, read_group_names
from featbank.exchange.arrayfile import require_file
from featbank.exchange.arrays import Arrays
from featbank.exchange.collect import add_classifier
from featbank.exchange.embeddings import read_text
from featbank.exchange.formats import is_container, open_arrays, read_array
from featbank.exchange.integers import as_texts
from featbank.exchange.parquet import PARQUET, about_of, read_parquet
from featbank.exchange.sinks import SINKS
from featbank.wording import number


def is_export(path: Path) -> bool:
    """Whether a path is an export: a folder, or a file of arrays, with a `ABOUT`."""
    if path.is_dir() and not is_container(path):
        return (path / ABOUT).exists()
    suffix = path.suffix.lower()
    try:
        if suffix == PARQUET:
            return about_of(path) is not None
        return (is_container(path) or suffix in SINKS) and ABOUT in open_arrays(path)
    except errors.FeatbankError:
        return False


def read_export(path: Path) -> Arrays:
    """Read labels, indices, paths, marks, features, classifiers, text and class names of an export.

    Features stay on disk. Exports have no BatchNorm statistics.

    Raises
    ------
    DataError
        For a file that is missing or unreadable, or does not fit the others.
    """
    if path.suffix.lower() == PARQUET:
        return read_parquet(path)
    stored = _Stored(path)
    about = stored.about()
    arrays = Arrays(exported=True, class_names=stored.texts("classes/name"))
    if arrays.num_classes != about["num_classes"]:
        raise errors.DataError(
            f"{stored.place('classes/name', '.txt')} has {number(arrays.num_classes, 'line')}, "
            f"bank.json says K = {about['num_classes']}. A name with a line end cannot be read "
            "back: rename the class."
        )
    for split, facts in about["splits"].items():
        labels = np.asarray(read_array(stored.place(f"{split}/label")))
        arrays.add_labels(split, labels, stored.place(f"{split}/label"))
        arrays.index[split] = np.asarray(read_array(stored.place(f"{split}/index")))
        arrays.sources[split] = str(facts["source"])
        if stored.has_texts(f"{split}/path"):
            arrays.paths[split] = stored.texts(f"{split}/path")
        for name in schema.FLAGS:
            if name in facts:
                marks = _marks(stored.place(f"{split}/{name}"), split, name, labels)
                getattr(arrays, name)[split] = marks
        for name, of in arrays.of_places.items():
            if facts.get(name):
                of[split] = np.asarray(read_array(stored.place(f"{split}/{name}")))
        for view in about["views"]:
            place = stored.place(f"{split}/{view}/feature")
            x = read_array(place)
            one_copy = view in about.get("tokens", {}) and x.ndim == 3
            arrays.add_features(split, view, x[None] if one_copy else x, place)
    for view in about["classifiers"]:
        weight, bias = (stored.place(f"classifier/{view}/{part}") for part in ("weight", "bias"))
        add_classifier(arrays, weight, bias, view=view)
    for view, logit_scale in about.get("text", {}).items():
        place = stored.place(f"text/{view}/feature")
        arrays.embeddings[view] = read_text(place, logit_scale=logit_scale)
        arrays.places[f"text/{view}"] = place
    arrays.default_scale |= about.get("default_scale", {})
    vars(arrays).update(read_class_facts(about, str(path)))
    arrays.source_group_names = read_group_names(about, str(path))
    if about.get("batchnorm"):
        arrays.notes.append("exports have no BatchNorm statistics; those of the bank are left out")
    return arrays


@dataclass(frozen=True)
class _Stored:
    """An export: a folder of ``.npy`` and ``.txt``, or a file of arrays."""

    path: Path

    @property
    def in_files(self) -> bool:
        """Whether every array is a file of its own."""
        return self.path.is_dir() and not is_container(self.path)

    def place(self, name: str, suffix: str = ".npy") -> str:
        """The place of an array by its name in the bank."""
        return str(self.path / f"{name}{suffix}") if self.in_files else f"{self.path}:{name}"

    def about(self) -> dict[str, Any]:
        """The description."""
        if not self.in_files:
            place = f"{self.path}:{ABOUT}"
            return parsed_about(np.asarray(read_array(place)).tobytes(), place)
        require_file(self.path / ABOUT)
        return parsed_about((self.path / ABOUT).read_bytes(), str(self.path / ABOUT))

    def has_texts(self, name: str) -> bool:
        """Whether there are such texts."""
        if self.in_files:
            return (self.path / f"{name}.txt").exists()
        return name in open_arrays(self.path)

    def texts(self, name: str) -> list[str]:
        """Texts as they were written, blanks included."""
        if not self.in_files:
            place = f"{self.path}:{name}"
            return as_texts(np.asarray(read_array(place)), place).tolist()
        path = self.path / f"{name}.txt"
        require_file(path)
        try:
            text = path.read_bytes().decode()  # keeps every CR
        except UnicodeDecodeError:
            raise errors.DataError(f"{path} is not UTF-8. Export the bank again.") from None
        return text.removesuffix("\n").split("\n") if text else []


def _marks(place: str, split: str, name: str, labels: np.ndarray) -> np.ndarray:
    marks = np.asarray(read_array(place))
    if marks.dtype != bool or marks.ndim != 1:
        raise errors.DataError(
            f"{place} has type {marks.dtype} and shape {list(marks.shape)}. It must be bool [N]."
        )
    check_same_length(split, labels=labels, **{name: marks})
    return marks
