"""Phrases that several messages share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def number(n: int, noun: str, plural: str = "") -> str:
    """A count and its noun: ``1 class``, ``12 classes``.

    Examples
    --------
    >>> number(1, "class", "classes"), number(12, "row")
    ('1 class', '12 rows')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def listed(values: Iterable[object], most: int) -> str:
    """The first `most` values, and a sign that there are more.

    Examples
    --------
    >>> listed(["cat", "owl"], 2), listed(range(9), 3)
    ('cat, owl', '0, 1, 2, …')
    """
    first = [str(value) for value in itertools.islice(values, most + 1)]
    return ", ".join([*first[:most], *(["…"] if len(first) > most else [])])
