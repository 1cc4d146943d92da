"""Labels as people keep them become labels 0…K−1: whole numbers of any type and base, or names.

A text is a number only if it is written as a whole number. Texts keep their identity: two
different ones are never one class unless ``--labels numbers`` says so.
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


def as_labels(array: np.ndarray, what: str) -> np.ndarray:
    """Labels [N] as int64, or as texts, where they are texts.

    Raises
    ------
    DataError
        As `as_integers`, and for a text that is empty.
    """
    array = as_vector(np.asarray(array))
    if array.ndim != 1 or array.dtype.kind not in "SU":
        return as_integers(array, what)
    if not array.size:
        return np.zeros(0, np.int64)
    texts = as_texts(array, what)
    blank = np.char.strip(texts) == ""
    rows = np.flatnonzero(blank)
    if rows.size:
        rest = "" if blank.all() else f"; {_described(np.char.strip(texts), ~blank)}"
        raise errors.DataError(
            f"{what}: row {rows[0]} is empty ({number(rows.size, 'such row')}){rest}. Fill "
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
    """Labels of all splits as int64 counted from 0, and the class names.

    Parameters
    ----------
    labels
        ``{split: [N]}`` integers or texts (see `as_labels`).
    names
        K class names in label order; without them, names are numbered in sorted order.
    base
        What integer labels count from, 0 or 1.
    kind
        ``names`` or ``numbers``, to take all labels as that. By default texts are looked up in
        `names`, are numbers where all are and no two give one number, and are names where none is.
    renumber
        Number the ids that occur by size; the ids become the class names.

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
            f"--renumber and {other} both say which class a label is. Give one of them."
        )
    if kind == "names":  # a flag's text is True, not 1
        labels = {s: y.astype(str) if y.dtype == bool else y for s, y in labels.items()}
    known = {split: as_labels(y, f"{split} labels") for split, y in labels.items()}
    if kind != "numbers":  # of numbers, blanks say nothing
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
            _check_places(known, names, base)
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
    """Raise where the blanks around two texts are all that tells them apart."""
    seen: dict[str, str] = {}
    for y in labels.values():
        for text in np.unique(y).tolist() if y.dtype.kind == "U" else ():
            if (other := seen.setdefault(text.strip(), text)) != text:
                raise errors.DataError(
                    f"Labels {shortened(other)} and {shortened(text)} differ by blanks alone. "
                    "Write them the same way if they are one class, in other words if they are "
                    "two."
                )


def _are_numbers(labels: Labels, names: Sequence[str] | None) -> bool:
    """Whether labels are numbers, or names: decided for all splits together.

    Raises
    ------
    DataError
        Where they may be either, naming what speaks for each.
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
        return False  # the lookup says which is missing
    if whole or counted:
        raise errors.DataError(_mixture(labels))
    if all(_REAL.fullmatch(text) for text in distinct):
        raise errors.DataError(
            f"{next(iter(texts))} labels are numbers such as {shortened(distinct[0])}, but not "
            "whole ones. Give integers, or --labels names to take each text as a name."
        )
    return False


def _check_merged(texts: Sequence[str], integers: Sequence[int]) -> None:
    """Raise where two ways to write a number occur, of which either may be a name."""
    seen = {str(number): str(number) for number in integers}
    for text in texts:
        if (other := seen.setdefault(plain(text), text)) != text:
            raise errors.DataError(
                f"Labels {shortened(other)} and {shortened(text)} are the same number and "
                "different texts. Give --labels names if they are two classes, --labels numbers "
                "if they are one."
            )


def _check_spelling(labels: Labels) -> None:
    """Raise where integers, to be taken as names, are written otherwise in the texts of a split."""
    integers = {
        str(i) for y in labels.values() if y.dtype.kind == "i" for i in np.unique(y).tolist()
    }
    for split, y in labels.items():
        texts = np.unique(y).tolist() if integers and y.dtype.kind == "U" else []
        for text in filter(WHOLE.fullmatch, texts):
            if (number := plain(text)) in integers and number != text:
                raise errors.DataError(
                    f"{split}: label {shortened(text)} is another split's integer {number}, "
                    "written otherwise. Save both as texts, or both as integers."
                )


def _check_places(labels: Labels, names: Sequence[str], base: int) -> None:
    """Raise where integers may be places among the class names, or class names themselves."""
    ids = np.unique(np.concatenate(list(labels.values()))).tolist()
    places = {name: k + base for k, name in enumerate(names)}
    moved = [i for i in ids if places.get(str(i), i) != i]
    if moved and all(str(i) in places for i in ids):
        raise errors.DataError(
            f"Label {moved[0]} is also a class name, that of class {places[str(moved[0])]}. Give "
            "--labels names if labels are class names, --labels numbers if they count them."
        )


def _mixture(labels: Labels) -> str:
    """Names among numbers, or numbers among names: the rarer is what stands out."""
    for split, y in labels.items():
        if y.dtype.kind == "U" and len({_kind(text) for text in y.tolist()}) > 1:
            return (
                f"{split} labels: {_described(y, np.ones(len(y), bool))}. Repair the odd ones, or "
                "give --labels names if all are names."
            )
    counted = {split: y for split, y in labels.items() if y.size}
    told = [
        f"{split} labels are {_kind(y[0])}s such as {_first(y)}" for split, y in counted.items()
    ]
    return f"{', '.join(told)}. Give names everywhere or numbers everywhere, or --labels names."


def _described(texts: np.ndarray, which: np.ndarray) -> str:
    """``59 rows are names such as 'cat', row 0 is the number '7'``, of the texts in a mask."""
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(which).tolist():
        rows.setdefault(_kind(texts[row]), []).append(row)
    said: list[str] = []
    for kind, of_kind in sorted(rows.items(), key=lambda item: -len(item[1])):
        first, count = of_kind[0], len(of_kind)
        if count > 1 and not said:
            said.append(f"{count} rows are {kind}s such as {shortened(str(texts[first]))}")
        else:
            more = f" ({count} such rows)" if count > 1 else ""
            said.append(f"row {first} is the {kind} {shortened(str(texts[first]))}{more}")
    return ", ".join(said)


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
    place = {name: k for k, name in enumerate(names)}
    if len(place) < len(names):
        twice = next(name for k, name in enumerate(names) if place[name] != k)
        raise errors.DataError(f"Class name {twice!r} comes twice. Labels by name need each once.")
    for row, name in enumerate(labels.tolist()):
        if name not in place:
            raise errors.DataError(
                f"{split}: label {shortened(name)} in row {row} is not among the class names. "
                f"They begin {', '.join(names[:3])}.{errors.did_you_mean(name, names)}"
            )
    return np.array([place[name] for name in labels.tolist()], dtype=np.int64)
