"""What an import understood, and its checks before anything is written."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.arrays import MOST_CLASSES
from featbank.bank.checks import (
    apart,
    as_bytes,
    as_copies,
    as_float32,
    check_disjoint,
    check_paths_apart,
    check_same_length,
    checked_index,
    checked_labels,
)
from featbank.bank.classes import (
    MOST_UNUSED,
    HoldOut,
    class_counts,
    hold_out,
    mostly_unused,
)
from featbank.exchange import axes
from featbank.exchange.formats import same_place
from featbank.exchange.integers import as_integers
from featbank.exchange.labels import number_labels
from featbank.wording import number


@dataclass
class Arrays:
    """The arrays of a bank in the making, with the arguments' names of `featbank.write_bank`.

    `places` tells where each came from, by its name in the bank, such as ``train/label``; `notes`
    what else a reader of the report should know. `exported` arrays are those of a bank already,
    whose labels and axes need no interpretation.
    """

    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    classifier: dict[str, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    index: dict[str, np.ndarray] = field(default_factory=dict)
    paths: dict[str, Sequence[str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    seen: dict[str, bool | np.ndarray] = field(default_factory=dict)
    held_out: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exported: bool = False

    def add_features(self, split: str, view: str, features: Any, place: str) -> None:
        """Add the features of a view."""
        self.features.setdefault(split, {})[view] = features
        self.places[f"{split}/{view}"] = place

    def add_labels(self, split: str, labels: np.ndarray, place: str) -> None:
        """Add the labels of a split."""
        self.labels[split] = labels
        self.places[f"{split}/label"] = place

    @property
    def num_classes(self) -> int:
        """K: of the class names, else the classifier, else the labels."""
        if self.class_names is not None:
            return len(self.class_names)
        for weight, _ in self.classifier.values():
            if weight.ndim == 2:
                return len(weight)
        return 1 + max((int(y.max()) for y in self.labels.values() if y.size), default=-1)


@dataclass(frozen=True)
class Rows:
    """Chosen `rows` of features [A, N, D] or [N, D]; they are read when a slice is asked for."""

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """[A, n, D] or [n, D]."""
        return (*self.array.shape[:-2], len(self.rows), self.array.shape[-1])

    @property
    def ndim(self) -> int:
        """3 or 2."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return Rows(self.array[key], self.rows) if self.ndim == 3 else self.array[self.rows[key]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return (
            np.asarray(self.array).take(self.rows, axis=-2).astype(dtype or self.dtype, copy=False)
        )


def settle(
    arrays: Arrays,
    *,
    class_names: Sequence[str] | None = None,
    label_base: int = 0,
    kind: str | None = None,
    renumber: bool = False,
    copies: int | None = None,
    max_classes: int = MOST_UNUSED,
) -> None:
    """Number the labels, settle the axes of features, and check all that can be checked unread.

    Parameters
    ----------
    arrays
        What was read; changed in place.
    class_names, label_base, kind, renumber
        As for `number_labels`.
    copies
        A of features [A, N, D].
    max_classes
        How large K may be where numbers alone tell it and most have no row.

    Raises
    ------
    ConfigError
        Without training features.
    DataError, LabelRange
        Where splits, views, lengths, labels or the classifier do not fit together.
    """
    if "train" not in arrays.features:
        raise errors.ConfigError("No training features were given. Give --train X Y, or one file.")
    if set(arrays.features) != set(arrays.labels):
        raise errors.DataError(
            f"Features have the splits {sorted(arrays.features)}, labels {sorted(arrays.labels)}. "
            "Give both for every split."
        )
    if arrays.exported:
        arrays.labels = {s: as_integers(y, f"{s} labels") for s, y in arrays.labels.items()}
    else:
        arrays.labels, arrays.class_names = number_labels(
            arrays.labels, class_names, base=label_base, kind=kind, renumber=renumber
        )
        _check_order(arrays, class_names, renumber)
        _settle_axes(arrays, copies)
    _check_features(arrays)
    _check_classifier(arrays)
    _check_labels(arrays, label_base)
    _check_num_classes(arrays, max_classes)
    _check_index(arrays)
    _settle_paths(arrays)
    _check_places(arrays)


def mark_seen(arrays: Arrays, splits: Collection[str]) -> None:
    """Mark whether stage 1 was trained on train and, where there is one, on the val that is given.

    Raises
    ------
    ConfigError
        For a val among `splits` that is not there.
    """
    if "val" in splits and "val" not in arrays.labels:
        raise errors.ConfigError(
            "--seen train+val is about a val that is given. Give --val X Y, or --seen train: a "
            "val that is held out of train counts as train does."
        )
    arrays.seen["train"] = "train" in splits
    held_out = arrays.held_out.get("val")
    if "val" in splits:
        arrays.seen["val"] = True
    elif held_out is not None:  # as train, where it came from
        arrays.seen["val"] = held_out & ("train" in splits)
    elif "val" in arrays.labels:
        arrays.seen.pop("val", None)
        if splits:
            arrays.notes.append(
                "val counts as not seen by stage 1; if it was, give --seen train+val"
            )


def hold_out_val(arrays: Arrays, how: HoldOut) -> None:
    """Move rows of every class from train to val, in all views.

    The index of either points to the rows where train came from.

    Raises
    ------
    ConfigError
        Where there is a val.
    EmptyClass
        Where no class has two rows.
    DataError
        Where a held-out row, or its path, is in another split too.
    """
    if "val" in arrays.labels:
        raise errors.ConfigError(
            "There is a val split already. Leave out --val-per-class and --val-fraction."
        )
    labels, views = arrays.labels["train"], arrays.features["train"]
    classes = arrays.num_classes
    kept, held = hold_out(labels, classes, how)
    index, paths = arrays.index.get("train", np.arange(len(labels))), arrays.paths.get("train")
    seen = arrays.seen.get("train")
    for split, rows in (("train", kept), ("val", held)):
        arrays.labels[split], arrays.index[split] = labels[rows], index[rows]
        arrays.features[split] = {
            view: Rows(as_copies(x, split, view), rows) for view, x in views.items()
        }
        arrays.sources[split] = arrays.sources.get("train", "train")
        if seen is not None:
            arrays.seen[split] = seen if isinstance(seen, bool) else seen[rows]
        if paths is not None:
            arrays.paths[split] = [paths[row] for row in rows]
        for name in ("label", *views):
            arrays.places[f"{split}/{name}"] = arrays.places[f"train/{name}"]
    _check_index(arrays)
    check_paths_apart(arrays.paths)
    arrays.held_out["val"] = np.ones(len(held), bool)
    told = how.describe(class_counts(labels[held], classes), class_counts(labels, classes))
    arrays.notes.append(f"val: {told}")


def _settle_axes(arrays: Arrays, copies: int | None) -> None:
    for split, views in arrays.features.items():
        for view, x in views.items():
            views[view] = axes.settled(x, f"{split}/{view}", len(arrays.labels[split]), copies)
    every = [x for views in arrays.features.values() for x in views.values()]
    if copies not in (None, 1) and all(x.ndim < 3 for x in every):
        raise errors.ConfigError(
            f"--copies {copies} is given, but no features have axes [{copies}, N, D]. Leave it out."
        )


def _check_features(arrays: Arrays) -> None:
    train = arrays.features["train"]
    for view in train:
        if not schema.is_view_name(view):
            raise errors.ConfigError(
                f"View name {view!r} is not usable. Use letters, digits, '_', '-' and '.', and "
                f"none of {', '.join((*schema.SPLIT_COLUMNS, 'feature'))}."
            )
    dim = next(iter(train.values())).shape[-1:]
    if any(x.shape[-1:] == (0,) for views in arrays.features.values() for x in views.values()):
        raise errors.DataError("Features have D = 0. Check what was saved.")
    for split, views in arrays.features.items():
        if set(views) != set(train):
            raise errors.DataError(
                f"{split} has the views {sorted(views)}, train has {sorted(train)}. Give every "
                "view for every split."
            )
        labels = arrays.labels[split]
        for view, x in views.items():
            if x.ndim == 2 and x.shape[0] != len(labels) == x.shape[1]:
                raise errors.DataError(
                    f"{split}/{view}: features have shape {list(x.shape)}, and there are "
                    f"{len(labels)} labels. They look transposed: give them as [N, D], a row per "
                    "label."
                )
            check_same_length(split, labels=labels, **{view: as_copies(x, split, view)[0]})
            if x.shape[-1:] != dim:
                raise errors.DataError(
                    f"{split}/{view}: features have D = {x.shape[-1]}, train has {dim[0]}. All "
                    "must come from one backbone."
                )


def _check_order(arrays: Arrays, names: Sequence[str] | None, renumber: bool) -> None:
    """Raise where nothing says which class a row of the classifier belongs to."""
    if arrays.classifier and names is None and arrays.class_names is not None:
        how = "--class-names FILE, one name"
        if renumber:
            how = "--labels names and --class-names FILE instead of --renumber, one id"
        raise errors.DataError(
            f"A classifier is given, and classes have names such as {arrays.class_names[0]!r}: "
            f"nothing says which row of W is which class. Give {how} per line, in the order of W's "
            "rows."
        )


def _check_classifier(arrays: Arrays) -> None:
    classes, dim = arrays.num_classes, next(iter(arrays.features["train"].values())).shape[-1]
    for view, (weight, bias) in arrays.classifier.items():
        turned = weight.ndim == 2 and weight.shape[0] == dim != weight.shape[1]
        remedy = "It looks transposed: give" if turned else "Check that it belongs to them; give"
        for name, array, shape in (("weight", weight, (classes, dim)), ("bias", bias, (classes,))):
            if array is not None and array.shape != shape:
                raise errors.DataError(
                    f"classifier/{view}: the {name} has shape {list(array.shape)}, the features "
                    f"have D = {dim}, and there are K = {classes} classes. {remedy} weight [K, D] "
                    "and bias [K]."
                )
        if view != "instance" and view not in arrays.features["train"]:
            raise errors.ConfigError(
                f"classifier/{view} is given, the views are "
                f"{', '.join(sorted(arrays.features['train']))}. Name one of them."
            )
        as_float32(weight, f"classifier/{view}/weight", (classes, dim))
        if bias is not None:
            as_float32(bias, f"classifier/{view}/bias", (classes,))


def _check_labels(arrays: Arrays, base: int) -> None:
    used = [y for y in arrays.labels.values() if y.size]
    low, high = min(map(np.min, used), default=0), max(map(np.max, used), default=0)
    if base == 0 and low == 1 and high == arrays.num_classes:
        raise errors.LabelRange(
            f"Labels go from 1 to {high}, with {arrays.num_classes} classes. They seem to start "
            "at 1: give --label-base 1."
        )
    for split, labels in arrays.labels.items():
        if base == 0 and labels.size and labels.min() == 1 and labels.max() == arrays.num_classes:
            raise errors.LabelRange(
                f"{split} labels go from 1 to {labels.max()}, other splits' from 0, and there are "
                f"{arrays.num_classes} classes. {split} seems to count from 1: subtract 1 there."
            )
        _check_range(labels, split, arrays)
        checked_labels(labels, split, arrays.num_classes)


def _check_range(labels: np.ndarray, split: str, arrays: Arrays) -> None:
    """Raise where labels are negative, or beyond the rows of the classifier: they may be ids."""
    classes = arrays.num_classes
    if arrays.class_names is not None or labels.dtype.kind != "i":
        return
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if not outside.size:
        return
    rows = number(outside.size, "such row")
    place = f"{split}: label {labels[outside[0]]} in row {outside[0]}"
    if arrays.classifier:
        raise errors.LabelRange(
            f"{place} is outside 0…{classes - 1}, the rows of the classifier ({rows}). If labels "
            "are ids, give --labels names --class-names FILE, one id per line in the order of W's "
            "rows."
        )
    raise errors.LabelRange(
        f"{place} is negative ({rows}). If labels are ids, give --renumber; drop rows without a "
        "label."
    )


def _check_num_classes(arrays: Arrays, most: int) -> None:
    """Raise where K is no number of classes: too few, or ids with hardly any of them used."""
    classes = arrays.num_classes
    if arrays.class_names is None and not arrays.classifier:
        used = len(np.unique(np.concatenate(list(arrays.labels.values()))))
        if classes > most and mostly_unused(used, classes):
            every = ", or --max-classes to have them all" if classes <= MOST_CLASSES else ""
            raise errors.LabelRange(
                f"Labels go up to {classes - 1:,}, and {used} of {classes:,} classes are used. "
                f"Give --renumber to number the ids that occur{every}."
            )
    if classes < 2:
        told = number(classes, "class", "classes")
        raise errors.DataError(f"The labels have {told}. A bank needs 2.")
    if arrays.class_names is not None:
        as_bytes(arrays.class_names, "class names")


def _check_places(arrays: Arrays) -> None:
    """Raise where two splits that must be apart have the same features, by their places."""
    for one, other in apart(arrays.features):
        views = itertools.product(arrays.features[one].items(), arrays.features[other].items())
        for (view, x), (other_view, z) in views:
            if isinstance(x, Rows) and isinstance(z, Rows):  # each has its own rows of a table
                continue
            here, there = arrays.places[f"{one}/{view}"], arrays.places[f"{other}/{other_view}"]
            if same_place(here, there):
                told = here if here == there else f"{here} and {there}"
                raise errors.DataError(
                    f"{one} and {other} have the same features, {told}. Results need splits "
                    "without common images: give each its own."
                )


def _check_index(arrays: Arrays) -> None:
    for split, index in arrays.index.items():
        check_same_length(split, labels=arrays.labels[split], index=index)
        checked_index(index, split)
    check_disjoint(arrays.index, {s: arrays.sources.get(s, s) for s in arrays.index})


def _settle_paths(arrays: Arrays) -> None:
    """Name the folder in the paths of folders that use the same names; paths must be apart."""
    places = {split: arrays.places.get(f"{split}/instance") for split in arrays.paths}
    folders = {split: Path(place) for split, place in places.items() if place}
    folders = {split: folder for split, folder in folders.items() if folder.is_dir()}
    if any(set(arrays.paths[one]) & set(arrays.paths[other]) for one, other in apart(folders)):
        for split, folder in folders.items():
            arrays.paths[split] = [f"{folder.as_posix()}/{name}" for name in arrays.paths[split]]
    for split, paths in arrays.paths.items():
        check_same_length(split, labels=arrays.labels[split], path=paths)
        as_bytes(paths, f"{split}/path")
    check_paths_apart(arrays.paths)
