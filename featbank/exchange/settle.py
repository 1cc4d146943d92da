"""Settling an import: labels become classes, axes become [N, D], and the parts must fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from featbank import errors
from featbank.bank import checks
from featbank.bank.arrays import MOST_CLASSES
from featbank.bank.classes import MOST_UNUSED, mostly_unused
from featbank.exchange import axes
from featbank.exchange.arrays import Arrays, SelectedRows
from featbank.exchange.formats import locate, same_place
from featbank.exchange.ignoring import close_gaps, find_ignored, leave_out
from featbank.exchange.integers import as_integers
from featbank.exchange.labels import number_labels
from featbank.exchange.origins import settle_origins
from featbank.wording import number


def settle(
    arrays: Arrays,
    *,
    class_names: Sequence[str] | None = None,
    label_base: int = 0,
    kind: str | None = None,
    renumber: bool = False,
    copies: int | None = None,
    tokens: bool = False,
    max_classes: int = MOST_UNUSED,
    ignore: Sequence[str] = (),
) -> None:
    """Number the labels, settle the axes of features, and check all that needs no reading.

    Parameters
    ----------
    arrays
        The arrays that were read; changed in place.
    class_names, label_base, kind, renumber
        As for `number_labels`.
    copies
        A of features [A, N, D].
    tokens
        Whether a further axis, [N, T, D] or [A, N, T, D], is one of tokens.
    max_classes
        The largest K that numbers alone may define if most of the classes have no row.
    ignore
        Labels whose rows are left out, as they are written.

    Raises
    ------
    ConfigError
        Without training features.
    DataError, LabelRange
        If splits, views, lengths, labels or the classifier do not fit together.
    """
    if "train" not in arrays.features:
        raise errors.ConfigError("No training features were given. Give --train X Y, or one file.")
    checks.check_same_splits(arrays.features, arrays.labels)
    if arrays.exported:
        arrays.labels = {s: as_integers(y, f"{s} labels") for s, y in arrays.labels.items()}
    else:
        class_names = arrays.class_names if class_names is None else class_names
        given, ignored = arrays.labels, find_ignored(arrays.labels, ignore)
        numbered, arrays.class_names = number_labels(
            ignored.known(given) if ignore else given,
            class_names,
            base=label_base,
            kind=kind,
            renumber=renumber,
        )
        arrays.labels = ignored.filled(arrays, numbered) if ignore else numbered
        _check_order(arrays, class_names, renumber)
        if ignore and not renumber:
            close_gaps(arrays, ignored, given, label_base)
        _settle_axes(arrays, copies, tokens)
    _check_features(arrays)
    _check_classifier(arrays)
    _check_labels(arrays, label_base)
    _check_num_classes(arrays, max_classes)
    _settle_text(arrays)
    check_index(arrays)
    _settle_paths(arrays)
    settle_origins(arrays)
    check_places(arrays)
    if ignore and not arrays.exported:
        leave_out(arrays, ignored)


def check_index(arrays: Arrays) -> None:
    """Raise unless source rows are valid and apart."""
    for split, index in arrays.index.items():
        checks.check_same_length(split, labels=arrays.labels[split], index=index)
        checks.checked_index(index, split)
    checks.check_disjoint(arrays.index, {s: arrays.sources.get(s, s) for s in arrays.index})


def _check_order(arrays: Arrays, names: Sequence[str] | None, renumber: bool) -> None:
    """Raise if nothing relates the rows of the classifier to classes."""
    if arrays.classifier and names is None and arrays.class_names is not None:
        remedy = "--class-names FILE, one name"
        if renumber:
            remedy = "--labels names and --class-names FILE instead of --renumber, one id"
        raise errors.DataError(
            f"A classifier is given, and classes have names such as {arrays.class_names[0]!r}: "
            f"nothing says which row of W is which class. Give {remedy} per line, in the order of "
            "W's rows."
        )


def _settle_axes(arrays: Arrays, copies: int | None, tokens: bool) -> None:
    for split, views in arrays.features.items():
        for view, x in views.items():
            views[view] = axes.settled(
                x, f"{split}/{view}", len(arrays.labels[split]), copies, tokens=tokens
            )
    every = [x for views in arrays.features.values() for x in views.values()]
    if copies not in (None, 1) and all(x.ndim < 3 for x in every):
        raise errors.ConfigError(
            f"--copies {copies} is given, but no features have axes [{copies}, N, D]. Leave it out."
        )
    if tokens and all(x.ndim < 4 for x in every):
        raise errors.ConfigError(
            "--tokens is given, but no features have axes [N, T, D]. Leave it out."
        )


def _settle_text(arrays: Arrays) -> None:
    """Bring text into the order of the classes; raise unless it fits the views."""
    train = arrays.features["train"]
    for view, embeddings in arrays.embeddings.items():
        checks.check_model_view("text", view, train)
        text = embeddings.of_classes(arrays.class_names, arrays.num_classes)
        if embeddings.names is not None and arrays.class_names is not None:
            unused = embeddings.features.shape[1] - arrays.num_classes
            more = f"; text of {number(unused, 'other class', 'other classes')} is left out"
            how = f"matched to the classes by name{more if unused else ''}"
        else:
            how = "taken in label order"
        dim = train.get(view, next(iter(train.values()))).shape[-1]
        arrays.text[view] = text.checked(view, dim)
        if not arrays.exported:
            arrays.notes.append(f"text/{view} is {how}")


def _check_features(arrays: Arrays) -> None:
    train = arrays.features["train"]
    for view in train:
        checks.check_view_name(view)
    checks.check_views(arrays.features)
    for split, views in arrays.features.items():
        labels = arrays.labels[split]
        for view, x in views.items():
            if x.shape[-1:] == (0,):
                raise errors.DataError("Features have D = 0. Check what was saved.")
            if x.ndim == 2 and x.shape[0] != len(labels) == x.shape[1]:
                raise errors.DataError(
                    f"{split}/{view}: features have shape {list(x.shape)}, and there are "
                    f"{len(labels)} labels. They look transposed: give them as [N, D], a row per "
                    "label."
                )
            one_copy = checks.as_copies(x, split, view)[0]
            checks.check_same_length(split, labels=labels, **{view: one_copy})
            here, there = (checks.as_copies(z, split, view).shape[2:] for z in (x, train[view]))
            if here != there:
                raise errors.DataError(
                    f"{split}/{view}: features have {_size(here)}, train has {_size(there)}. All "
                    "must come from one backbone."
                )


def _size(of_row: tuple[int, ...]) -> str:
    """``D = 3``, or ``50 tokens, D = 3``."""
    *tokens, dim = of_row
    return "".join(f"{number(t, 'token')}, " for t in tokens) + f"D = {dim}"


def _check_classifier(arrays: Arrays) -> None:
    train = arrays.features["train"]
    classes, first = arrays.num_classes, next(iter(train.values()))
    for view, (weight, bias) in arrays.classifier.items():
        dim = train.get(view, first).shape[-1]
        transposed = weight.ndim == 2 and weight.shape[0] == dim != weight.shape[1]
        remedy = "It looks transposed:" if transposed else "Check that it belongs to them;"
        parts: list[tuple[str, np.ndarray, tuple[int, ...]]] = [("weight", weight, (classes, dim))]
        if bias is not None:
            parts.append(("bias", bias, (classes,)))
        for name, array, shape in parts:
            if array.shape != shape:
                raise errors.DataError(
                    f"classifier/{view}: the {name} has shape {list(array.shape)}, the features "
                    f"have D = {dim}, and there are K = {classes} classes. {remedy} give weight "
                    "[K, D] and bias [K]."
                )
        checks.check_model_view("classifier", view, train)
        for name, array, shape in parts:
            checks.as_float32(array, f"classifier/{view}/{name}", shape)


def _check_labels(arrays: Arrays, base: int) -> None:
    classes = arrays.num_classes
    used = [y for y in arrays.labels.values() if y.size]
    low, high = min(map(np.min, used), default=0), max(map(np.max, used), default=0)
    if base == 0 and low == 1 and high == classes:
        raise errors.LabelRange(
            f"Labels go from 1 to {high}, with {classes} classes. They seem to start at 1: give "
            "--label-base 1."
        )
    for split, labels in arrays.labels.items():
        if base == 0 and labels.size and labels.min() == 1 and labels.max() == classes:
            raise errors.LabelRange(
                f"{split} labels go from 1 to {labels.max()}, other splits' from 0, and there are "
                f"{classes} classes. {split} seems to count from 1: subtract 1 there."
            )
        if arrays.class_names is None:
            _check_range(arrays, split)
        checks.checked_labels(labels, split, classes)


def _check_range(arrays: Arrays, split: str) -> None:
    """Raise if labels are negative, or beyond the rows of the classifier: they may be ids."""
    labels, classes = arrays.labels[split], arrays.num_classes
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
    if labels[outside[0]] >= classes:
        raise errors.LabelRange(
            f"{place} is outside 0…{classes - 1}, the classes of the text ({rows}). Give "
            "--class-names and --text-names, so that they are matched by name."
        )
    raise errors.LabelRange(
        f"{place} is negative ({rows}). If labels are ids, give --renumber; drop rows without a "
        "label."
    )


def _check_num_classes(arrays: Arrays, most: int) -> None:
    """Raise if K is implausible: too few classes, or ids of which few are used."""
    classes, used = arrays.num_classes, arrays.num_used
    if arrays.numbered and classes > most and mostly_unused(used, classes):
        keep = ", or --max-classes to keep them all" if classes <= MOST_CLASSES else ""
        raise errors.LabelRange(
            f"Labels go up to {classes - 1:,}, and {used} of {classes:,} classes are used. "
            f"Give --renumber to number the ids that occur{keep}."
        )
    if classes < 2:
        count = number(classes, "class", "classes")
        raise errors.DataError(f"The labels have {count}. A bank needs 2.")
    if arrays.class_names is not None:
        checks.as_bytes(arrays.class_names, "class names")


def _settle_paths(arrays: Arrays) -> None:
    """Prepend the folder to paths if folders share names; raise unless paths are apart."""
    places = {split: arrays.places.get(f"{split}/instance") for split in arrays.paths}
    folders = {split: locate(place)[0] for split, place in places.items() if place}
    folders = {split: folder for split, folder in folders.items() if folder.is_dir()}
    pairs = checks.apart(folders)
    if any(set(arrays.paths[one]) & set(arrays.paths[other]) for one, other in pairs):
        for split, folder in folders.items():
            arrays.paths[split] = [f"{folder.as_posix()}/{name}" for name in arrays.paths[split]]
    for split, paths in arrays.paths.items():
        checks.check_same_length(split, labels=arrays.labels[split], path=paths)
        checks.as_bytes(paths, f"{split}/path")
    checks.check_paths_apart(arrays.paths)


def check_places(arrays: Arrays) -> None:
    """Raise if two splits that must be apart have their features in the same place."""
    for one, other in checks.apart(arrays.features):
        views = itertools.product(arrays.features[one].items(), arrays.features[other].items())
        for (view, x), (other_view, z) in views:
            if isinstance(x, SelectedRows) and isinstance(z, SelectedRows):
                continue  # different rows of one table
            here, there = arrays.places[f"{one}/{view}"], arrays.places[f"{other}/{other_view}"]
            listed = one in arrays.paths and other in arrays.paths  # and their paths are apart
            if listed and locate(here)[0].is_dir():
                continue
            if same_place(here, there):
                shared = here if here == there else f"{here} and {there}"
                raise errors.DataError(
                    f"{one} and {other} have the same features, {shared}. Results need splits "
                    "without common images: give each its own."
                )
