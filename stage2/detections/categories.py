"""Which class of a head is the background, and which category each of the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank.class_names import are_numbers, match_classes
from featbank.exchange.coco import Annotations
from featbank.settings import shortened
from featbank.texts import read_lines
from featbank.wording import listed, number

_IDS = "one whole number per line, for each class of the head but the background"


def background_of(names: Sequence[str], given: str | None = None, known: int | None = None) -> int:
    """The background among the classes of a head: the `given` name or number, or else the one
    `known` to the head, or else that named background, in any case and between any signs.

    Raises
    ------
    ConfigError
        Where none is, or none is given and several are.
    """
    if given is not None:
        if given in names:
            return list(names).index(given)
        if re.fullmatch(r"\d{1,9}", given) and int(given) < len(names):
            return int(given)
        raise errors.ConfigError(
            f"--background {shortened(given)} is no class of the head, which has "
            f"{len(names)}: {listed(map(shortened, names), 3)}. Give the name or number of one."
        )
    if known is not None:
        return known
    found = [k for k, n in enumerate(names) if re.sub(r"[\W_]", "", n).casefold() == "background"]
    if len(found) != 1:
        fact = "several classes" if found else "no class"
        raise errors.ConfigError(
            f"The head has {fact} named background. Give --background NAME or its number."
        )
    return found[0]


def category_ids(
    names: Sequence[str],
    background: int,
    annotations: Annotations | None,
    listed_in: Path | None = None,
) -> np.ndarray:
    """The category of each of the K classes of a head [K] int64; −1 for the background.

    Parameters
    ----------
    names
        The K classes.
    annotations
        Their categories are found by name, `featbank.bank.class_names.match_classes`.
    listed_in
        A text file with the category of each class but the background, which goes before names.

    Raises
    ------
    ConfigError
        Where neither says it.
    DataError
        For a file of other than K − 1 whole numbers, or of one twice.
    Mismatch
        For a class that is no category.
    """
    foreground = np.delete(np.arange(len(names)), background)
    ids = np.full(len(names), -1)
    if listed_in is not None:
        ids[foreground] = _read_ids(listed_in, len(foreground))
        return ids
    if annotations is None:
        raise errors.ConfigError(
            "Nothing says which category each class is. Give --annotations ANN.json, whose "
            f"categories have the names of the classes, or --category-ids FILE: {_IDS}."
        )
    given = [name for k, name in enumerate(names) if k != background]
    remedy = f"Give --category-ids FILE: {_IDS}."
    known = [category["name"] for category in annotations.categories]
    whose, among = "the head", f"the categories of {annotations.path}"
    if are_numbers(names):
        raise errors.Mismatch(f"The classes of {whose} have no names. {remedy}")
    match = match_classes(given, known, whose, remedy, among=among)
    if strange := match.unknown:
        raise errors.Mismatch(
            f"{number(len(strange), 'class', 'classes')} of {whose} "
            f"({listed(map(shortened, strange), 3)}) are not among {among}. {remedy}"
        )
    ids[foreground] = [annotations.categories[k]["id"] for k in match.places]
    return ids


def _read_ids(path: Path, count: int) -> list[int]:
    remedy = f"Give {_IDS}."
    lines = [line.strip() for line in read_lines(path, "file of category ids", remedy)]
    wrong = next((line for line in lines if not re.fullmatch(r"\d{1,18}", line)), None)
    if wrong is not None:
        raise errors.DataError(f"{path} has the line {shortened(wrong)}. {remedy}")
    if len(lines) != count or len(set(lines)) != count:
        raise errors.DataError(
            f"{path} has {number(len(set(map(int, lines))), 'id')} in {number(len(lines), 'line')} "
            f"for {number(count, 'class', 'classes')}. {remedy}"
        )
    return [*map(int, lines)]
