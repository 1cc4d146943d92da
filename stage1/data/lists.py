"""Image lists: text files of lines ``relative/path label``, as ImageNet-LT has them."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import errors, texts
from featbank.bank.checks import apart
from featbank.bank.classes import MOST_UNUSED, mostly_unused, other_bases
from featbank.regular import unprintable
from stage1.data.entries import ListEntry

MAX_CLASSES = 1_000_000
"""More classes than any data set has: a larger label is a typo, and must not fill the memory."""


def read_list(path: Path, *, num_classes: int | None = None) -> list[ListEntry]:
    """Read a list file; blank lines are skipped.

    Parameters
    ----------
    path
        Text, as `featbank.texts.read_lines` reads it; the last word of a line is the label, the
        rest the image's path.
    num_classes
        K, if it is known: labels must then be below it.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError, LabelRange
        For a malformed line or a bad label, with the line number; for a file without a line.
    """
    remedy = "Give lines 'relative/path label'."
    entries = []
    for number, line in enumerate(texts.read_lines(path, "list file", remedy), 1):
        if line.strip():
            entries.append(_entry(line, f"{path} line {number}", num_classes))
    if not entries:
        raise errors.DataError(f"{path} names no image. {remedy}")
    return entries


def entries_within(
    entries: Sequence[ListEntry], root: Path, *, allow_outside: bool = False
) -> list[ListEntry]:
    """Rewrite paths that contain ``..`` or start from ``/`` as paths below `root`.

    Only the path as written counts: a symbolic link below `root` may lead anywhere.

    Parameters
    ----------
    entries
        Of a list.
    root
        Folder the paths start from.
    allow_outside
        Keep the paths that leave `root`.

    Raises
    ------
    DataError
        For a path that leaves `root`, with its list and line.
    """
    real = root.resolve()
    return [entry if allow_outside else _below(entry, root, real) for entry in entries]


def _below(entry: ListEntry, root: Path, real: Path) -> ListEntry:
    if not os.path.isabs(entry.path) and ".." not in Path(entry.path).parts:
        return entry
    below = os.path.relpath(root / entry.path, root)
    if _leads_up(below) and os.path.isabs(entry.path):  # the root may be a link
        below = os.path.relpath(entry.path, real)
    if _leads_up(below):
        raise errors.DataError(
            f"{entry.place}: {entry.path} is outside the root {root}. "
            "Give another --root, or --allow-outside where the list can be trusted."
        )
    return dataclasses.replace(entry, path=below)


def _leads_up(path: str) -> bool:
    return Path(path).parts[:1] == ("..",)


def count_classes(entries_of: Mapping[str, Sequence[ListEntry]]) -> int:
    """Count the classes of lists without class names: the highest label + 1.

    Many unused classes, and splits that seem to count from 0 and from 1, are warnings.

    Raises
    ------
    LabelRange
        For more than `MOST_UNUSED` classes of which fewer than half have an image.
    """
    entries = [entry for of_split in entries_of.values() for entry in of_split]
    top = max(entries, key=lambda entry: entry.label)
    used, classes = len({entry.label for entry in entries}), top.label + 1
    if mostly_unused(used, classes):
        fact = (
            f"{top.place} has the label {top.label}, and {used:,} of {classes:,} classes are used"
        )
        remedy = "Check that label, or give --class-names."
        if classes > MOST_UNUSED:
            raise errors.LabelRange(f"{fact}. {remedy}")
        warnings.warn(f"{fact}. {remedy}")
    for question in other_bases({s: _labels(of_split) for s, of_split in entries_of.items()}):
        warnings.warn(f"In the lists, {question} Then subtract 1 there.")
    return classes


def _labels(entries: Sequence[ListEntry]) -> np.ndarray:
    return np.array([entry.label for entry in entries], np.int64)


def warn_of_shared(entries_of: Mapping[str, Sequence[ListEntry]]) -> None:
    """Warn of images that two splits share, by their paths, as `featbank verify` does."""
    places = {
        split: {os.path.normpath(entry.path): entry.place for entry in reversed(entries)}
        for split, entries in entries_of.items()
    }
    for one, other in apart(places):
        shared = [path for path in places[other] if path in places[one]]
        if shared:
            path = shared[-1]
            count = "1 image" if len(shared) == 1 else f"{len(shared):,} images"
            warnings.warn(
                f"The lists of {one} and {other} share {count}, such as {path} "
                f"({places[one][path]}, {places[other][path]}). Take them out of one of the two."
            )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one per line, in label order; a repeated name is a warning.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError
        For fewer than two names, a control character, or an empty line between names.
    """
    names = texts.read_class_names(path)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if character := unprintable(name):
            raise errors.DataError(
                f"{path}: line {number} has the control character {character!r}. Take it out."
            )
        first.setdefault(name, number)
    if len(names) < 2:
        raise errors.DataError(f"{path} has {len(names)} class names. Give 2 or more.")
    if len(first) < len(names):
        number, name = next(row for row in enumerate(names, 1) if first[row[1]] != row[0])
        warnings.warn(
            f"{path} has {len(names) - len(first)} names again, such as {name!r} in lines "
            f"{first[name]} and {number}. Each line is a class: give all different names."
        )
    return tuple(names)


def _entry(line: str, place: str, num_classes: int | None) -> ListEntry:
    words = line.rsplit(maxsplit=1)
    if len(words) != 2:
        raise errors.DataError(f"{place} reads {_short(line)}. Write 'relative/path label'.")
    path, label = words[0].strip(), words[1]
    if not re.fullmatch("-?[0-9]{1,18}", label):
        raise errors.DataError(f"{place} has the label {_short(label)}. Labels are integers 0…K−1.")
    top = (num_classes or MAX_CLASSES) - 1
    if not 0 <= int(label) <= top:
        raise errors.LabelRange(
            f"{place} has the label {label}, outside 0…{top}. Check the list or the class names."
        )
    return ListEntry(path, int(label), place)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"
