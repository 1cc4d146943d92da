"""Metrics and settings of many rows of a results file, decoded together.

JSON of a few hundred rows is parsed in one pass: the names in it are then in memory once, and
metrics are columns of numbers. Texts that are not just what this version of featbank writes are
left to `stage2.results.content`, which takes them one by one and says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from math import isnan
from sys import intern
from typing import Any, NoReturn

import numpy as np

from stage2.engine.metrics import METRICS
from stage2.results import content

ROWS = 512
"""Rows that are decoded together."""

CHARACTERS = 1 << 21
"""Characters beyond which no more rows are."""

Values = Mapping[str, float | None]
"""The metrics of an evaluation by name; None where there was nothing to average."""


class Metrics(Mapping[str, float | None]):
    """The metrics of an evaluation: a row of numbers that shares its names with others.

    Parameters
    ----------
    places
        The column of each metric.
    values
        Rows of numbers, NaN for None; or of Python's where any is not a float.
    row
        The row.
    """

    __slots__ = ("_places", "_row", "_values")

    def __init__(self, places: Mapping[str, int], values: np.ndarray, row: int) -> None:
        self._places, self._values, self._row = places, values, row

    def __getitem__(self, name: str) -> float | None:
        value = self._values.item(self._row, self._places[name])
        return None if value is None or isnan(value) else value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a metric, or a default where it was not measured."""
        if (place := self._places.get(name)) is None:
            return default
        value = self._values.item(self._row, place)
        return None if value is None or isnan(value) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return repr(dict(self))


def batches(rows: Iterable[Sequence[Any]], text: int) -> Iterator[list[Sequence[Any]]]:
    """Cut rows into batches that are decoded together; `text` is the place of the JSON in a row."""
    batch: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row[text]) if isinstance(row[text], str) else 0
        if len(batch) == ROWS or size > CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def metrics_of(texts: Sequence[Any]) -> Sequence[Metrics | None]:
    """Decode metrics; all None where a text is anything but floats and null by name, in range."""
    left = [None] * len(texts)
    objects = _objects(texts, {"parse_int": _refuse})
    if objects is None or sum(text.count('"') for text in texts) != 2 * sum(map(len, objects)):
        return left  # a value is a text, or a name is there twice
    by_names: dict[tuple[str, ...], list[int]] = {}
    for place, names in enumerate(map(tuple, objects)):
        by_names.setdefault(names, []).append(place)
    decoded: list[Metrics | None] = [*left]
    for names, places in by_names.items():
        try:
            values = np.array([[*objects[place].values()] for place in places], np.float64)
        except (TypeError, ValueError):
            return left
        if not (set(names) >= content.FIRST_METRICS and _in_range(names, values)):
            return left
        columns = {intern(name): column for column, name in enumerate(names)}
        for row, place in enumerate(places):
            decoded[place] = Metrics(columns, values, row)
    return decoded


def one_metrics(text: Any) -> Metrics:
    """Decode the metrics of one evaluation, whatever its numbers are.

    Raises
    ------
    Unexpected
        As of `stage2.results.content.metrics`.
    """
    values = content.metrics(text)
    numbers = np.array([[*values.values()]], object)
    return Metrics({name: column for column, name in enumerate(values)}, numbers, 0)


def settings_of(texts: Sequence[Any]) -> Sequence[dict[str, Any] | None]:
    """Decode settings, equal texts into one mapping; all None where a text is not of one level."""
    left = [None] * len(texts)
    distinct = list(dict.fromkeys(texts))
    objects = _objects(distinct, {})
    if objects is None:
        return left
    try:
        checked = starmap(content.checked_parameters, zip(objects, distinct, strict=True))
        by_text = dict(zip(distinct, map(_interned, checked), strict=True))
    except content.Unexpected:
        return left
    return [by_text[text] for text in texts]


def _objects(texts: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Decode JSON objects without others inside; None for anything else.

    Each text has the braces of one object, at its ends: so many objects come out only if each of
    them is one of the texts.
    """
    if not all(map(_is_flat, texts)):
        return None
    together = f"[{','.join(texts)}]"
    if options and ("true" in together or "false" in together):  # which count as numbers
        return None
    try:
        together.encode()
        objects = json.loads(together, parse_constant=_refuse, **options)
    except (ValueError, RecursionError):
        return None
    return objects if len(objects) == len(texts) and all(map(_is_object, objects)) else None


def _is_flat(text: Any) -> bool:
    return (
        isinstance(text, str)
        and len(text) <= content.LONGEST_JSON
        and text[:1] == "{"
        and text[-1:] == "}"
        and text.count("{") == text.count("}") == 1
    )


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _in_range(names: Sequence[str], values: np.ndarray) -> bool:
    """Whether all metrics are in the range of `stage2.results.content.metrics`."""
    percent = [name in METRICS and METRICS[name].unit == "%" for name in names]
    bounds = np.where(percent, 100 + 1e-6, content.LARGEST)
    with np.errstate(invalid="ignore"):
        return bool((np.isnan(values) | ((values >= -1e-6) & (values <= bounds))).all())


def _interned(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: intern(value) if type(value) is str else value for name, value in settings.items()
    }


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)
