"""Counts of classes from outside, their groups and the background, as users write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import GROUPS, ClassGroups
from featbank.bank.checks import not_negative
from featbank.bank.class_names import match_classes
from featbank.bank.grouping import BY_LIST, BY_SHARE
from featbank.exchange.columns import LONGEST_TEXT
from featbank.exchange.formats import locate, open_arrays
from featbank.exchange.integers import as_texts
from featbank.texts import read_class_names
from featbank.wording import listed

NAMES = ("class", "name", "class_name", "class_names", "names", "label")
"""Keys of the class names beside counts or groups in a table or archive."""

COUNTS = ("count", "counts", "n", "pixels", "images", "image_count", "instance_count")
MEMBERS = ("group", "groups", "frequency")
"""Keys of counts and of groups, of which the first that is there is taken."""

TRIOS = (tuple(GROUPS), BY_SHARE, BY_LIST, ("head", "medium", "tail"))
"""Names of groups whose order is known."""

_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)(%?)"
_BOUNDS = re.compile(rf"{_NUMBER}\s*,\s*{_NUMBER}")
_NAMED = re.compile(r"([^,:/]+),([^,:/]+),([^,:/]+):(.+)")

WAYS = (
    "Give two counts such as 100,20, two shares such as 1%,0.1%, or a file with the group of each "
    "class; with names in front where you like, as head,body,tail:1%,0.1%"
)
"""Forms of groups, for help and messages."""


@dataclass(frozen=True)
class Classes:
    """The K classes that facts are about.

    Attributes
    ----------
    names
        Their names, or None where they are only numbered.
    count
        K.
    """

    names: Sequence[str] | None
    count: int

    def background(self, text: str) -> int:
        """The number of the class with a name, or with a number 0…K−1."""
        if self.names is not None and text in self.names:
            return list(self.names).index(text)
        if text.isascii() and text.isdigit() and int(text) < self.count:
            return int(text)
        near = "" if self.names is None else errors.did_you_mean(text, self.names)
        raise errors.ConfigError(
            f"--background {text!r} is no class.{near} Give the name of one, or its number in 0…"
            f"{self.count - 1}."
        )

    def counts(self, place: str) -> np.ndarray:
        """Counts [K] at a place: in label order, or by name where there are names beside them."""
        values = self._in_order(place, COUNTS, "class counts")
        try:
            array = np.array([float(value) for value in values])
        except (TypeError, ValueError):
            raise errors.DataError(
                f"{place} has class counts that are no numbers. Give whole numbers ≥ 0."
            ) from None
        exact = np.array(values) if all(isinstance(v, int) for v in values) else array
        return not_negative(exact, place, (self.count,))

    def groups(self, text: str, counts: np.ndarray, background: int | None) -> ClassGroups:
        """Class groups by thresholds or shares of counts [K], or as a file lists them (`WAYS`)."""
        named = _NAMED.fullmatch(text)
        names = tuple(name.strip() for name in named.groups()[:3]) if named else None
        what = (named[4] if named else text).strip()
        if bounds := _BOUNDS.fullmatch(what):
            high, high_unit, low, low_unit = bounds.groups()
            if high_unit != low_unit:
                raise errors.ConfigError(
                    f"--groups {text} has a share and a count. Give both bounds in %, or neither."
                )
            if high_unit:
                shares = float(high) / 100, float(low) / 100
                return ClassGroups.by_shares(counts, *shares, names or BY_SHARE, background)
            thresholds = float(high), float(low)
            return ClassGroups.by_thresholds(
                counts, *thresholds, names or tuple(GROUPS), background
            )
        if not locate(what)[0].is_file():
            raise errors.ConfigError(f"--groups {text!r} is neither bounds nor a file. {WAYS}.")
        members = [str(member) for member in self._in_order(what, MEMBERS, "class groups")]
        return ClassGroups.by_list(members, names or _trio(members, what), background)

    def _in_order(self, place: str, keys: Sequence[str], what: str) -> list[Any]:
        """Values of the K classes at a place, in label order."""
        values, names = _read(place, keys)
        if names is not None and self.names is not None:
            match = match_classes(
                names, self.names, place, f"Give {what} in label order.", among="the bank"
            )
            if missing := match.absent:
                raise errors.DataError(
                    f"{place} has no {what} for {listed(missing, 5)}. Give them for every class of "
                    "the bank."
                )
            by_class = {int(k): v for k, v in zip(match.places, values, strict=True) if k >= 0}
            return [by_class[k] for k in range(self.count)]
        if len(values) != self.count:
            raise errors.DataError(
                f"{place} has {what} for {len(values)} classes, K = {self.count}. Give one for "
                "each class, in label order or with names beside them."
            )
        return values


def _trio(members: Sequence[str], place: str) -> Sequence[str]:
    """The names in `TRIOS` that a list uses, or the initials of."""
    words = {member.strip().casefold() for member in members} - {"-", "", "-1", "none"}
    for trio in TRIOS:
        initials = {name[0] for name in trio}
        if words <= {*trio, *(initials if len(initials) == len(trio) else ())}:
            return trio
    known = "; ".join(", ".join(trio) for trio in TRIOS)
    raise errors.DataError(
        f"{place} lists groups such as {listed(sorted(words), 3)}. Give their order, from most to "
        f"least frequent, as --groups A,B,C:FILE; known are {known}."
    )


def _read(place: str, keys: Sequence[str]) -> tuple[list[Any], list[str] | None]:
    """Values at a place, and the names of their classes where it has them."""
    path, key = locate(place)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _from_json(path, keys)
    if suffix in (".txt", "", ".lst"):
        return list(read_class_names(path)), None
    file = open_arrays(path)
    key = key or next((k for k in keys if k in file), file.names[0] if len(file) == 1 else "")
    array = np.asarray(file[key])
    if array.ndim != 1:
        raise errors.DataError(f"{place} has shape {list(array.shape)}. Give one value per class.")
    beside = next((name for name in NAMES if name in file and name != key), None)
    names = None
    if beside is not None and (of := np.asarray(file[beside])).dtype.kind in "SU":
        names = as_texts(of, file.place(beside)).tolist()
    texts = array.dtype.kind in "SU"
    return (as_texts(array, place) if texts else array).tolist(), names


def _from_json(path: Path, keys: Sequence[str]) -> tuple[list[Any], list[str] | None]:
    """A list, values by class name, or the ``categories`` of annotations as of LVIS and COCO."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise errors.DataError(
            f"{path} is no JSON that can be read ({errors.first_line(error)[:LONGEST_TEXT]}). Give "
            "a list, or values by class name."
        ) from None
    if isinstance(document, Mapping) and isinstance(document.get("categories"), list):
        document = document["categories"]
        key = next((k for k in keys if all(isinstance(c, dict) and k in c for c in document)), None)
        if key is None or not all("name" in c for c in document):
            raise errors.DataError(f"{path} has categories without {listed(keys, 9)}. Add one.")
        return [c[key] for c in document], [str(c["name"]) for c in document]
    if isinstance(document, Mapping):
        return list(document.values()), [str(name) for name in document]
    if isinstance(document, list):
        return document, None
    raise errors.DataError(f"{path} is no list. Give a list, or values by class name.")
