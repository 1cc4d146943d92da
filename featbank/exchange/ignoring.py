"""Rows with an ignored label, which take no part: found before labels are numbered, then left out.

Such a label is no class: the classes after it move down by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featbank import errors
from featbank.exchange.arrays import Arrays
from featbank.exchange.integers import WHOLE, as_texts, as_vector, plain
from featbank.settings import shortened
from featbank.wording import number


@dataclass(frozen=True)
class Ignored:
    """Rows to leave out of an import.

    Attributes
    ----------
    labels
        The ignored labels as they are written.
    kept
        The other rows, ascending, by split.
    counts
        Rows that are left out, by split.
    """

    labels: Sequence[str]
    kept: Mapping[str, np.ndarray]
    counts: Mapping[str, int]

    def known(self, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Labels of the rows that are kept, by split."""
        return {split: as_vector(np.asarray(y))[self.kept[split]] for split, y in labels.items()}

    def filled(self, arrays: Arrays, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Numbered labels of every row, in which those of other rows hold the place of ignored."""
        full = {}
        for split, y in labels.items():
            rows = len(as_vector(np.asarray(arrays.labels[split])))
            full[split] = np.full(rows, y[0] if y.size else 0, np.int64)
            full[split][self.kept[split]] = y
        return full


def find_ignored(labels: Mapping[str, np.ndarray], ignored: Sequence[str]) -> Ignored:
    """Find rows with one of the labels `ignored` among labels [N] as they were read.

    Raises
    ------
    ConfigError
        For a name where labels are numbers.
    DataError
        If no row of a split is left.
    """
    kept, counts = {}, {}
    for split, given in labels.items():
        y = as_vector(np.asarray(given))
        out = np.zeros(len(y), bool)
        for label in ignored:
            out |= _equal(y, label, split)
        kept[split], counts[split] = np.flatnonzero(~out), int(out.sum())
        if len(y) and out.all():
            raise errors.DataError(
                f"{split}: every row has the ignored label {' or '.join(ignored)} "
                f"({number(len(y), 'row')}). Leave the split out, or check --ignore-label."
            )
    return Ignored(ignored, kept, counts)


def _equal(labels: np.ndarray, label: str, split: str) -> np.ndarray:
    """Mask of labels that are `label`, as a text or as the same whole number."""
    whole = WHOLE.fullmatch(label.strip())
    if labels.dtype.kind in "SU":
        texts = np.char.strip(as_texts(labels, f"{split} labels"))
        same = texts == label.strip()
        if whole:
            distinct, inverse = np.unique(texts, return_inverse=True)
            equal = [bool(WHOLE.fullmatch(t)) and plain(t) == plain(label) for t in distinct]
            same |= np.array(equal, bool)[inverse]
        return same
    if not whole:
        raise errors.ConfigError(
            f"--ignore-label {shortened(label)} is a name, but the labels of {split} are numbers. "
            "Give the number."
        )
    return labels == int(plain(label.strip()))


def close_gaps(
    arrays: Arrays, ignored: Ignored, given: Mapping[str, np.ndarray], base: int
) -> None:
    """Take ignored labels out of the classes: out of their names, and of what is in label order.

    Parameters
    ----------
    arrays
        With numbered labels; changed in place.
    ignored
        The ignored labels.
    given
        Labels as they were read.
    base
        The lowest of them that is a class.
    """
    named = any(np.asarray(y).dtype.kind in "SU" for y in given.values())
    names = list(arrays.class_names or ())
    gaps = set()
    for label in ignored.labels:
        if label.strip() in names:
            gaps.add(names.index(label.strip()))
        elif not named or not names:
            whole = WHOLE.fullmatch(label.strip())
            gaps.add(int(plain(label.strip())) - base if whole else -1)
    classes = arrays.num_classes
    out = np.array(sorted(gap for gap in gaps if 0 <= gap < classes), np.int64)
    if not out.size:
        return
    arrays.labels = {s: y - np.searchsorted(out, y) for s, y in arrays.labels.items()}
    if arrays.class_names is not None or not arrays.classifier:
        names = names or [str(k + base) for k in range(classes)]
        arrays.class_names = [name for k, name in enumerate(names) if k not in gaps]
    for view, (weight, bias) in arrays.classifier.items():
        if len(weight) == classes:
            less_bias = None if bias is None else np.delete(bias, out, axis=0)
            arrays.classifier[view] = np.delete(weight, out, axis=0), less_bias
    for view, text in arrays.embeddings.items():
        if text.names is None and text.features.shape[1] == classes:
            less = np.delete(text.features, out, axis=1)
            arrays.embeddings[view] = replace(text, features=less)


def leave_out(arrays: Arrays, ignored: Ignored) -> None:
    """Leave the rows out of all arrays, and report how many they are; they keep their index."""
    for split, rows in ignored.kept.items():
        if ignored.counts[split]:
            arrays.take(split, rows, split)
    arrays.ignored = {split: n for split, n in ignored.counts.items() if n}
    report_ignored(arrays, ignored.labels, "row")


def report_ignored(arrays: Arrays, labels: Sequence[str], what: str) -> None:
    """Report how many rows or pixels have ignored labels."""
    told = [f"{number(n, what)} of {split}" for split, n in arrays.ignored.items() if n]
    left = f"{', '.join(told)} left out" if told else f"no {what} has it"
    arrays.notes.append(f"ignored label {' and '.join(labels)}: {left}")
