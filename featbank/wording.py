"""Words that several messages share."""

from __future__ import annotations


def number(n: int, noun: str, plural: str = "") -> str:
    """A count and its noun: ``1 class``, ``12 classes``.

    Examples
    --------
    >>> number(1, "class", "classes"), number(12, "row")
    ('1 class', '12 rows')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
