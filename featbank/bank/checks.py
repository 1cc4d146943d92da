"""Checks of arrays for a bank: each defect has its own error, with place and remedy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.wording import number


def as_copies(array: np.ndarray, split: str, view: str) -> np.ndarray:
    """Features as [A, N, D], or [A, N, T, D] of tokens; two axes mean one copy."""
    array = array if hasattr(array, "dtype") else np.asarray(array)  # rows on disk stay there
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "fiu":
        raise errors.DataError(
            f"{split}/{view}: features have type {array.dtype} and shape {list(array.shape)}. "
            "They must be numbers [N, D], [A, N, D] with A augmentation copies, or [A, N, T, D] "
            "with T tokens."
        )
    return array[None] if array.ndim == 2 else array


def checked_labels(labels: np.ndarray, split: str, num_classes: int) -> np.ndarray:
    """Labels [N] as int64; raise unless each is in 0…K−1."""
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise errors.DataError(
            f"{split}: labels have type {labels.dtype} and shape {list(labels.shape)}. "
            "They must be integers [N]."
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        raise errors.LabelRange(
            f"{split}: label {labels[outside[0]]} in row {outside[0]} is outside 0…"
            f"{num_classes - 1} ({number(outside.size, 'such row')}). Check the labels or the "
            "class names."
        )
    return labels.astype(np.int64)


def checked_index(index: np.ndarray, split: str) -> np.ndarray:
    """Source rows [N] as int64; raise if one is negative or occurs twice."""
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise errors.DataError(
            f"{split}: the index has type {index.dtype} and shape {list(index.shape)}. "
            "It must be integers [N]."
        )
    if index.size and index.min() < 0:
        raise errors.DataError(
            f"{split}: index {index.min()} in row {index.argmin()} is negative. It must be a row "
            "of the source data."
        )
    if (repeated := first_repeated(index)) is not None:
        raise errors.DataError(
            f"{split}: index {index[repeated]} in row {repeated} occurs before. "
            "Each row needs a source row that no other row has."
        )
    if index.size and index.max() > np.iinfo(np.int64).max:
        raise errors.DataError(f"{split}: index {index.max()} does not fit 64 bits with sign.")
    return index.astype(np.int64)


def check_disjoint(index: Mapping[str, np.ndarray], sources: Mapping[str, str]) -> None:
    """Raise if two splits that must be apart share source rows.

    Parameters
    ----------
    index
        Source rows [N] by split.
    sources
        Name of the source data by split; only splits with the same source can share rows.
    """
    for one, other in apart(index):
        if sources[one] != sources[other]:
            continue
        shared = np.intersect1d(index[one], index[other])
        if shared.size:
            raise errors.DataError(
                f"{one} and {other} share {number(shared.size, 'row')} of {sources[one]!r}, "
                f"such as {shared[0]}. Results need splits without common rows."
            )


def check_paths_apart(paths: Mapping[str, Sequence[str]]) -> None:
    """Raise if two splits that must be apart share paths."""
    for one, other in apart(paths):
        if shared := set(paths[one]).intersection(paths[other]):
            raise errors.DataError(
                f"{one} and {other} share {number(len(shared), 'path')}, such as {min(shared)!r}. "
                "Results need splits without common images: drop them from one."
            )


def apart(splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of splits that must be apart: all but train and train_balanced."""
    for pair in itertools.combinations(splits, 2):
        if set(pair) != {"train", "train_balanced"}:
            yield pair


def as_bytes(texts: Sequence[str], name: str) -> np.ndarray:
    """Texts [N] as UTF-8 bytes of equal length, padded with NUL."""
    encoded = []
    for row, text in enumerate(map(str, texts)):
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError:
            raise errors.DataError(
                f"{name}: {text!r} in row {row} cannot be stored as UTF-8. Rename it."
            ) from None
        if "\0" in text:
            raise errors.DataError(f"{name}: {text!r} in row {row} has a NUL. Rename it.")
    return np.array(encoded, dtype="S")


def is_utf8(text: bytes) -> bool:
    """Whether bytes are a text in UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_float32(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a model as float32; raise unless they are finite and have this shape."""
    array = check_numbers(np.asarray(array), name)
    if array.shape != shape:
        raise errors.DataError(
            f"{name} has shape {list(array.shape)}, the bank needs {list(shape)}. "
            "Check that it belongs to these features."
        )
    with np.errstate(over="ignore"):
        stored = array.astype(np.float32)
    check_finite(stored, name)
    return stored


def as_text(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Text embeddings [P, K, D] as float32; raise unless finite, of this shape, and none is 0."""
    stored = as_float32(array, name, shape)
    empty = np.argwhere(~np.square(stored, dtype=np.float64).sum(axis=-1).astype(bool))
    if len(empty):
        prompt, k = empty[0]
        raise errors.DataError(
            f"{name}: the embedding of class {k} in prompt {prompt} is 0, which has no direction. "
            "Drop that prompt or embed the class again."
        )
    return stored


def not_negative(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Integers ≥ 0 of this shape as int64; whole numbers of floating point too."""
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = np.rint(array).astype(np.int64)
    if array.shape != shape or (array.size and array.dtype.kind not in "iu"):
        raise errors.DataError(
            f"{name} have type {array.dtype} and shape {list(array.shape)}. They must be integers "
            f"{list(shape)}."
        )
    wrong = (array < 0) | (array > np.iinfo(np.int64).max)
    if wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1))[0])
        raise errors.DataError(
            f"{name}: {array[row].tolist()} in row {row} is not in 0…2⁶³−1. Count from 0."
        )
    return array.astype(np.int64)


def first_repeated(values: np.ndarray) -> int | None:
    """Position of the first of `values` [N] that occurs earlier, or None."""
    order = values.argsort(kind="stable")
    again = order[1:][values[order][1:] == values[order][:-1]]
    return int(again.min()) if again.size else None


def check_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array`; raise unless it holds real numbers."""
    if array.dtype.kind not in "fiu":
        raise errors.DataError(f"{name} has type {array.dtype}. It must be real numbers.")
    return array


def check_finite(block: np.ndarray, name: str, *, first_row: int = 0) -> None:
    """Raise if a value is NaN or infinite, naming the first such row."""
    finite = np.isfinite(block)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(len(block), -1).all(axis=1))
        raise errors.NotFinite(
            f"{name}: NaN or infinity in row {first_row + bad[0]} "
            f"({number(bad.size, 'such row')}). Repair or drop these rows."
        )


def check_same_length(split: str, **columns: Any) -> None:
    """Raise if columns of a split differ in length, naming the lengths."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise errors.DataError(
            f"{split}: row counts disagree: {counts}. Every row needs one of each."
        )


def check_choice(kind: str, value: str, choices: Sequence[str]) -> str:
    """Return `value`; raise, naming the closest of `choices`, unless it is one of them."""
    if value not in choices:
        raise errors.ConfigError(f"Unknown {kind} {value!r}. {errors.closest(value, choices)}")
    return value


def check_same_splits(features: Iterable[str], labels: Iterable[str]) -> None:
    """Raise if a split has features and no labels, or labels and no features."""
    if set(features) != set(labels):
        raise errors.DataError(
            f"Features have the splits {sorted(features)}, labels {sorted(labels)}. "
            "Give both for every split."
        )


def check_view_name(view: str) -> None:
    """Raise unless `view` can name a view."""
    if not schema.is_view_name(view):
        raise errors.ConfigError(
            f"View name {view!r} is not usable. Use letters, digits, '_', '-' and '.', and "
            f"none of {', '.join((*schema.SPLIT_COLUMNS, 'feature'))}."
        )


def check_views(views: Mapping[str, Iterable[str]], prefix: str = "") -> None:
    """Raise unless every split has the views of train, and train has some."""
    of_train = sorted(views["train"])
    for split, names in views.items():
        if sorted(names) != of_train or not of_train:
            raise errors.DataError(
                f"{prefix}{split} has the views {sorted(names)}, train has {of_train}. Give every "
                "view for every split."
            )


def check_model_view(kind: str, view: str, views: Iterable[str], prefix: str = "") -> None:
    """Raise if a classifier, text or BatchNorm statistics belong to no view.

    Classifier and text of ``instance`` serve every view without one, so ``instance`` itself may
    lack features.
    """
    if view not in views and (kind not in ("classifier", "text") or view != "instance"):
        raise errors.ConfigError(
            f"{prefix}{kind}/{view} is given, the views are {', '.join(sorted(views))}. "
            "Name one of them."
        )
