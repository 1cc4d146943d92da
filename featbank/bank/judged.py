"""Checks of `featbank.bank.verify` and what makes one of findings in the content of a bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.bank.composed import Bank
from featbank.bank.content import Content
from featbank.bank.schema import is_rows
from featbank.wording import number

STATUSES = ("ok", "note", "failed", "skipped")
"""A note is no defect; a check is skipped if its data cannot be read."""


@dataclass(frozen=True)
class Check:
    """A check and its result.

    `status` is one of `STATUSES`; `detail` describes the data, with figures; `findings` has a
    sentence for each defect or note. `figures` are the measurements of `detail` to show beside
    findings.
    """

    name: str
    status: str
    detail: str
    findings: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


def judged(
    name: str,
    detail: str,
    findings: Iterable[str],
    *,
    unread: Iterable[str] = (),
    otherwise: str = "failed",
) -> Check:
    """A check with the status `otherwise` if it has findings, skipped if it lacks data, or ok."""
    findings, unread = tuple(findings), sorted(unread)
    if not findings and unread:
        return Check(name, "skipped", detail, (f"{', '.join(unread)} could not be read whole",))
    return Check(name, otherwise if findings else "ok", detail, findings)


def by_split(column: str, bank: Bank, content: Content) -> tuple[dict[str, np.ndarray], list[str]]:
    """The column of each split that could be read, and the datasets that could not."""
    names = {split: f"{split}/{column}" for split in bank.splits}
    values = {s: content.columns[name] for s, name in names.items() if name in content.columns}
    return values, [name for name in names.values() if name in content.damaged]


def complaints(
    check: Callable[[np.ndarray, str], object], column: str, bank: Bank, content: Content
) -> tuple[list[str], list[str]]:
    """Complaints of a check of the writer about a column, and the datasets not read."""
    values, unread = by_split(column, bank, content)
    return [line for split, y in values.items() for line in complaint(check, y, split)], unread


def values(name: str, detail: str, datasets: list[str], content: Content) -> Check:
    unread = set(datasets).intersection(content.damaged)
    return judged(name, detail, bad_values(datasets, content), unread=unread)


def bad_values(datasets: list[str], content: Content) -> list[str]:
    """A sentence for each dataset and copy with bad values."""
    return [
        f"{name}{_part(name, copy)}: {number(bad.count, 'row')} {bad.defect}, first {bad.first}"
        for (name, copy), bad in sorted(content.bad_rows.items())
        if name in datasets
    ]


def _part(name: str, part: int) -> str:
    """The copy of a row of features, or the prompt of one of text."""
    if is_rows(name):
        return f", copy {part}"
    return f", prompt {part}" if name.endswith("/feature") else ""


def complaint(check: Callable[..., object], *arguments: object) -> list[str]:
    """First sentence of the error that a check of the writer or a reader raises, if it does."""
    try:
        check(*arguments)
    except (errors.DataError, errors.Corrupt) as error:
        return [str(error).split(". ")[0]]
    return []
