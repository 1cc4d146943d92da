"""JSON files as COCO and LVIS lay them out: annotations, proposals, results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.exchange.arrayfile import require_file

Entry = dict[str, Any]

_LISTS = ("images", "annotations", "categories")
LARGEST = 1e30
"""Bound of coordinates and scores; json may hold NaN and infinity."""

_GIVE = "Give a json file of annotations as COCO's or LVIS'."


def read_entries(path: Path, fields: Sequence[str], give: str) -> list[Entry]:
    """The list of objects in a json file, or that under its ``annotations``.

    Parameters
    ----------
    fields
        Names that every object must have.
    give
        Remedy of errors, a sentence.

    Raises
    ------
    DataError
        For a missing file, or one that holds something else.
    """
    content = _read(path, give)
    entries: Any = content.get("annotations") if isinstance(content, dict) else content
    _check(path, "the list", entries, fields, give)
    return [*entries]


@dataclass(frozen=True)
class Annotations:
    """The content of a file of annotations.

    Attributes
    ----------
    path
        The file.
    images
        With ``id``; LVIS' also with ``neg_category_ids`` and ``not_exhaustive_category_ids``.
    annotations
        With ``image_id``, ``category_id`` and ``bbox``, [x, y, width, height] in pixels.
    categories
        With ``id`` and ``name``; LVIS' also with ``frequency``: ``r``, ``c`` or ``f``.
    """

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]

    @property
    def federated(self) -> bool:
        """Whether each image is annotated for some of the categories only, as LVIS' are."""
        return any("neg_category_ids" in image for image in self.images)

    @property
    def image_ids(self) -> list[int]:
        """The images, in the order of the file."""
        return [image["id"] for image in self.images]


def read_annotations(path: Path) -> Annotations:
    """Read a file of annotations.

    Raises
    ------
    DataError
        For a missing file, or one that lacks a list or a field that `Annotations` names.
    """
    content = _read(path, _GIVE)
    if not isinstance(content, dict) or (missing := [n for n in _LISTS if n not in content]):
        lacks = "" if not isinstance(content, dict) else f" lacks {', '.join(missing)} and"
        raise errors.DataError(f"{path}{lacks} is no file of annotations. {_GIVE}")
    fields = (("id",), ("image_id", "category_id", "bbox"), ("id", "name"))
    for name, names in zip(_LISTS, fields, strict=True):
        _check(path, name, content[name], names, _GIVE)
    return Annotations(path, *(content[name] for name in _LISTS))


def _read(path: Path, give: str) -> Any:
    require_file(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = errors.first_line(error).rstrip(".")
        raise errors.DataError(f"{path} is not json ({reason}). {give}") from None


def _check(path: Path, name: str, entries: Any, fields: Sequence[str], give: str) -> None:
    """Raise unless `entries` is a list of objects with these fields, ids whole and boxes of four
    numbers."""
    if not isinstance(entries, list):
        raise errors.DataError(f"{path}: {name} is not a list. {give}")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problem = "is not an object"
        elif wrong := next((f for f in fields if not _valid(f, entry.get(f))), None):
            problem = f"has no {wrong}" if wrong not in entry else f"has a wrong {wrong}"
        else:
            continue
        raise errors.DataError(f"{path}: entry {place} of {name} {problem}. {give}")


def _valid(field: str, value: Any) -> bool:
    if field.endswith("id"):
        return isinstance(value, int)
    if field == "bbox":
        return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    return isinstance(value, str) if field == "name" else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
