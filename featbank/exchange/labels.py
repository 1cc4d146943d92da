"""Numbering labels 0…K−1 from what users save: whole numbers of any type and base, or names.

A text is a number only if it is written as a whole number. Two different texts are never the same
class unless ``--labels numbers`` is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from featbank import errors
from featbank.exchange.integers import WHOLE, as_integers, as_texts, as_vector, plain
from featbank.settings import shortened
from featbank.wording import number

_REAL = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE
)

Labels = Mapping[str, np.ndarray]


def as_labels(array: np.ndarray, name: str) -> np.ndarray:
    """Labels [N] as int64, or as texts if they are texts.

    Raises
    ------
    DataError
        As `as_integers`, and for a text that is empty.
    """
    array = as_vector(np.asarray(array))
    if array.ndim != 1 or array.dtype.kind not in "SU":
        return as_integers(array, name)
    if not array.size:
        return np.zeros(0, np.int64)
    texts = as_texts(array, name)
    blank = np.char.strip(texts) == ""
    rows = np.flatnonzero(blank)
    if rows.size:
        rest = "" if blank.all() else f"; {_described(np.char.strip(texts), ~blank)}"
        raise errors.DataError(
            f"{name}: row {rows[0]} is empty ({number(rows.size, 'such row')}){rest}. Fill "
            "it in, or drop the row."
        )
    return texts


def number_labels(
    labels: Labels,
    names: Sequence[str] | None,
    *,
    base: int = 0,
    kind: str | None = None,
    renumber: bool = False,
) -> tuple[dict[str, np.ndarray], Sequence[str] | None]:
    """Number the labels of all splits from 0, as int64, and return the class names.

    Parameters
    ----------
    labels
        ``{split: [N]}`` integers or texts (see `as_labels`).
    names
        K class names in label order; without them, names are numbered in sorted order.
    base
        The lowest integer label, 0 or 1.
    kind
        ``names`` or ``numbers``, to treat all labels as such. By default texts are looked up in
        `names`; otherwise they are numbers if all are and no two are equal, and names if none is.
    renumber
        Number the ids that occur in ascending order; the ids become the class names.

    Raises
    ------
    DataError
        For labels that may be names or numbers, a name that is not in `names`, or a label below
        `base`.
    ConfigError
        For `renumber` with a `base` or `names`.
    """
    if renumber and (base or names is not None):
        other = "--label-base" if base else "--class-names"
        raise errors.ConfigError(
            f"--renumber and {other} both define which class a label is. Give one of them."
        )
    if kind == "names":  # a flag's text is True, not 1
        labels = {s: y.astype(str) if y.dtype == bool else y for s, y in labels.items()}
    known = {split: as_labels(y, f"{split} labels") for split, y in labels.items()}
    if kind != "numbers":  # around numbers, blanks are irrelevant
        _check_blanks(known)
    known = {s: np.char.strip(y) if y.dtype.kind == "U" else y for s, y in known.items()}
    if kind == "names":
        _check_spelling(known)
        known = {split: y.astype(str) if y.size else y for split, y in known.items()}
    elif kind == "numbers" or _are_numbers(known, names):
        known = {split: as_integers(y, f"{split} labels") for split, y in known.items()}
    texts = [split for split, y in known.items() if y.dtype.kind == "U"]
    if not texts:
        if renumber:
            return _renumbered(known)
        if kind is None and names is not None:
            _check_ambiguous(known, names, base)
        return {split: _lowered(y, base, split) for split, y in known.items()}, names
    if base:
        raise errors.DataError(
            f"{texts[0]} labels are names such as {_first(known[texts[0]])}, but --label-base "
            "counts numbers. Leave it out."
        )
    if names is None:
        names = np.unique(np.concatenate([known[split] for split in texts])).tolist()
    return {split: _numbered(y, names, split) for split, y in known.items()}, names


def _check_blanks(labels: Labels) -> None:
    """Raise if two texts differ only by surrounding blanks."""
    spellings: dict[str, str] = {}
    for y in labels.values():
        for text in np.unique(y).tolist() if y.dtype.kind == "U" else ():
            if (other := spellings.setdefault(text.strip(), text)) != text:
                raise errors.DataError(
                    f"Labels {shortened(other)} and {shortened(text)} differ by blanks alone. "
                    "Write them the same way if they are one class, in other words if they are "
                    "two."
                )


def _are_numbers(labels: Labels, names: Sequence[str] | None) -> bool:
    """Whether labels are numbers rather than names, decided for all splits together.

    Raises
    ------
    DataError
        If they may be either, with examples of each.
    """
    texts = {split: np.unique(y) for split, y in labels.items() if y.dtype.kind == "U"}
    integers = {split: np.unique(y) for split, y in labels.items() if y.dtype.kind == "i"}
    distinct = sorted({text for unique in texts.values() for text in unique.tolist()})
    if not distinct:
        return True
    whole = [text for text in distinct if WHOLE.fullmatch(text)]
    listed = set(names or ()).intersection(distinct)
    counted = [split for split, y in integers.items() if y.size]
    if not counted and len(listed) == len(distinct):
        return False
    if len(whole) == len(distinct):
        if listed:
            other = next(text for text in distinct if text not in listed) if not counted else None
            rest = f"{shortened(other)} is not" if other else f"{counted[0]} has integers"
            raise errors.DataError(
                f"Label {shortened(min(listed))} is one of the class names, but {rest}. Give "
                "--labels names or --labels numbers."
            )
        _check_merged(distinct, [n for y in integers.values() for n in y.tolist()])
        return True
    if names is not None and not counted:
        return False  # the lookup reports the missing name
    if whole or counted:
        raise errors.DataError(_mixture(labels))
    if all(_REAL.fullmatch(text) for text in distinct):
        raise errors.DataError(
            f"{next(iter(texts))} labels are numbers such as {shortened(distinct[0])}, but not "
            "whole ones. Give integers, or --labels names to take each text as a name."
        )
    return False


def _check_merged(texts: Sequence[str], integers: Sequence[int]) -> None:
    """Raise if a number is written in two ways, which may be two names."""
    spellings = {str(integer): str(integer) for integer in integers}
    for text in texts:
        if (other := spellings.setdefault(plain(text), text)) != text:
            raise errors.DataError(
                f"Labels {shortened(other)} and {shortened(text)} are the same number and "
                "different texts. Give --labels names if they are two classes, --labels numbers "
                "if they are one."
            )


def _check_spelling(labels: Labels) -> None:
    """Raise if one split has an integer, another the same number as a text spelt differently."""
    integers = {
        str(i) for y in labels.values() if y.dtype.kind == "i" for i in np.unique(y).tolist()
    }
    for split, y in labels.items():
        texts = np.unique(y).tolist() if integers and y.dtype.kind == "U" else []
        for text in filter(WHOLE.fullmatch, texts):
            if (integer := plain(text)) in integers and integer != text:
                raise errors.DataError(
                    f"{split}: label {shortened(text)} is another split's integer {integer}, "
                    "written otherwise. Save both as texts, or both as integers."
                )


def _check_ambiguous(labels: Labels, names: Sequence[str], base: int) -> None:
    """Raise if integers may either count the class names or be class names."""
    ids = np.unique(np.concatenate(list(labels.values()))).tolist()
    classes = {name: k + base for k, name in enumerate(names)}
    ambiguous = [i for i in ids if classes.get(str(i), i) != i]
    if ambiguous and all(str(i) in classes for i in ids):
        label = ambiguous[0]
        raise errors.DataError(
            f"Label {label} is also a class name, that of class {classes[str(label)]}. Give "
            "--labels names if labels are class names, --labels numbers if they count them."
        )


def _mixture(labels: Labels) -> str:
    """Describe a mixture of names and numbers, the rarer kind with its rows."""
    for split, y in labels.items():
        if y.dtype.kind == "U" and len({_kind(text) for text in y.tolist()}) > 1:
            return (
                f"{split} labels: {_described(y, np.ones(len(y), bool))}. Repair the odd ones, or "
                "give --labels names if all are names."
            )
    kinds = [
        f"{split} labels are {_kind(y[0])}s such as {_first(y)}"
        for split, y in labels.items()
        if y.size
    ]
    return f"{', '.join(kinds)}. Give names everywhere or numbers everywhere, or --labels names."


def _described(texts: np.ndarray, mask: np.ndarray) -> str:
    """``59 rows are names such as 'cat', row 0 is the number '7'``, for the texts in a mask."""
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(mask).tolist():
        rows_of.setdefault(_kind(texts[row]), []).append(row)
    parts: list[str] = []
    for kind, rows in sorted(rows_of.items(), key=lambda item: -len(item[1])):
        example, count = shortened(str(texts[rows[0]])), len(rows)
        if count > 1 and not parts:
            parts.append(f"{count} rows are {kind}s such as {example}")
        else:
            more = f" ({count} such rows)" if count > 1 else ""
            parts.append(f"row {rows[0]} is the {kind} {example}{more}")
    return ", ".join(parts)


def _kind(label: object) -> str:
    return "name" if isinstance(label, str) and not WHOLE.fullmatch(label) else "number"


def _first(labels: np.ndarray) -> str:
    return shortened(labels[0].item())


def _lowered(labels: np.ndarray, base: int, split: str) -> np.ndarray:
    below = np.flatnonzero(labels < base)
    if base and below.size:
        raise errors.DataError(
            f"{split}: label {labels[below[0]]} in row {below[0]} is below --label-base {base}. "
            "Leave the option out where labels count from 0."
        )
    return labels - base


def _renumbered(labels: Labels) -> tuple[dict[str, np.ndarray], list[str]]:
    ids = np.unique(np.concatenate(list(labels.values())))
    return {split: np.searchsorted(ids, y) for split, y in labels.items()}, list(map(str, ids))


def _numbered(labels: np.ndarray, names: Sequence[str], split: str) -> np.ndarray:
    classes = {name: k for k, name in enumerate(names)}
    if len(classes) < len(names):
        twice = next(name for k, name in enumerate(names) if classes[name] != k)
        raise errors.DataError(f"Class name {twice!r} comes twice. Labels by name need each once.")
    for row, name in enumerate(labels.tolist()):
        if name not in classes:
            raise errors.DataError(
                f"{split}: label {shortened(name)} in row {row} is not among the class names. "
                f"They begin {', '.join(names[:3])}.{errors.did_you_mean(name, names)}"
            )
    return np.array([classes[name] for name in labels.tolist()], dtype=np.int64)
