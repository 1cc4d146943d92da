"""Labels of banks: a name for people, given when a bank is made and kept in its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featbank import errors
from featbank.settings import shortened

EVERY = "all"
"""Stands for every bank of a results file, so no bank is called this."""

LONGEST = 60
"""Characters of a label."""


def check_label(label: str) -> str:
    """A label as it is given, where a bank can have it.

    Raises
    ------
    ConfigError
        For a label that is empty, too long or not printable, has a comma, begins or ends with a
        space, or is ``all``.
    """
    if not _is_label(label):
        raise errors.ConfigError(
            f"The label {shortened(label)} cannot name a bank. Give 1 to {LONGEST} printable "
            f"characters without a comma, other than {EVERY}."
        )
    return label


def label_of(provenance: Mapping[str, Any]) -> str | None:
    """The label in the provenance of a bank, whoever wrote it; None where there is none."""
    label = provenance.get("label")
    return label if isinstance(label, str) and _is_label(label) else None


def _is_label(text: str) -> bool:
    return (
        0 < len(text) <= LONGEST
        and text.isprintable()
        and "," not in text
        and text == text.strip()
        and text != EVERY
    )
