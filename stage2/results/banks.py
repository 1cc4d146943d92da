"""Several banks of a results file side by side, each ranked by its own val."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.naming import EVERY
from featbank.wording import listed
from stage2.results.classes import groups_of
from stage2.results.naming import matching_banks
from stage2.results.results import Results
from stage2.results.store import Store


def banks_of(
    store: Store, wanted: str | None, *, split: str | None = None, **options: Any
) -> list[Results]:
    """The results on the banks that are asked for, under the same options.

    Parameters
    ----------
    store
        The results file.
    wanted
        Banks as of `Store.one_bank`, separated by commas; ``all``: every bank with results. None
        for the only one of the file.
    split
        The split whose metrics are shown; by default that of `Results`, which must be the same on
        all.
    options
        Those of `Results`.

    Returns
    -------
    The results by bank; where banks call their class groups otherwise, by the usual names.

    Raises
    ------
    ConfigError
        For a bank that is unknown, ambiguous or named twice, banks of other classes, banks that by
        default show different splits, and as of `Results`.
    """
    found = [
        Results(store, bank=bank, split=split, **options) for bank in _fingerprints(store, wanted)
    ]
    first = found[0]
    for other in found[1:]:
        if difference := _other_classes(first, other):
            raise errors.ConfigError(
                f"{store.path}: {difference}, so their figures cannot be compared. Name banks of "
                f"the same classes, --bank {first.name},…"
            )
        if other.split != first.split:
            raise errors.ConfigError(
                f"{store.path}: {first.name} shows {first.split} and {other.name} {other.split}. "
                "Choose one of their splits with --split."
            )
    named_alike = len({each.groups.names for each in found}) == 1
    return found if named_alike else [each.with_usual_names() for each in found]


def same_rows(a: Results, b: Results, split: str) -> bool | None:
    """Whether a split has the same rows on two banks, by source, index and label; None where the
    results were written before that was recorded."""
    if a.fingerprint == b.fingerprint:
        return True
    identities = [each.about.get("identities", {}).get(split) for each in (a, b)]
    return None if None in identities else identities[0] == identities[1]


def between(banks: Sequence[Results]) -> list[str]:
    """Compare banks for a protocol line: their rows of the split shown, the imbalance
    of their training counts where these differ, and their groups."""
    first, *others = banks
    same = [same_rows(first, other, first.split) for other in others]
    if all(same):
        rows = f"the same {first.split} rows"
    elif None in same:
        rows = f"{first.split} rows not known to be the same"
    else:
        rows = f"not the same {first.split} rows"
    parts = [rows]
    if not all(np.array_equal(first.counts, other.counts) for other in others):
        parts.append(f"imbalance {', '.join(f'{b.name} {_imbalance(b)}' for b in banks)}")
    names = ", ".join(first.groups.names)
    if first.usual_names:
        own = (f"{b.name} {', '.join(groups_of(b.about).names)}" for b in banks)
        parts.append(f"{names}: {'; '.join(own)}")
    if not all(np.array_equal(first.groups.member, other.groups.member) for other in others):
        parts.append(f"{names}: other classes on each")
    return parts


def _imbalance(bank: Results) -> str:
    """The ratio of the largest training count to the smallest."""
    most, least = bank.counts.max(), bank.counts.min()
    return f"{most / least:.0f}" if least else "∞"


def _fingerprints(store: Store, wanted: str | None) -> list[str]:
    """The fingerprints of the banks that are asked for."""
    records = store.banks()
    if wanted == EVERY and EVERY not in records:
        with_results = [fingerprint for fingerprint in records if store.finished(fingerprint)]
        return with_results or [store.one_bank()[0]]
    if wanted is None or "," not in wanted or matching_banks(records, wanted):
        return [store.one_bank(wanted)[0]]
    parts: dict[str, str] = {}
    for text in map(str.strip, wanted.split(",")):
        if not text:
            raise errors.ConfigError(
                f"--bank {wanted} names an empty bank. Separate names by single commas."
            )
        fingerprint = store.one_bank(text)[0]
        if fingerprint in parts:
            raise errors.ConfigError(
                f"{parts[fingerprint]!r} and {text!r} are the same bank. Name it once."
            )
        parts[fingerprint] = text
    return list(parts)


def _other_classes(a: Results, b: Results) -> str:
    """The difference between the classes of two banks, in words; empty where none is known."""
    counts = [bank.about["num_classes"] for bank in (a, b)]
    if counts[0] != counts[1]:
        return f"{a.name} has {counts[0]} classes and {b.name} {counts[1]}"
    names = [_named(bank) for bank in (a, b)]
    if not all(names) or names[0] == names[1]:
        return ""
    other = [k for k, pair in enumerate(zip(*names, strict=True)) if pair[0] != pair[1]]
    k = other[0]
    return (
        f"class {listed(other, 3)} of {a.name} and {b.name} {'is' if len(other) == 1 else 'are'} "
        f"not the same, {names[0][k]!a} and {names[1][k]!a}"
    )


def _named(bank: Results) -> Sequence[str]:
    """The names of a bank's classes; none where they are only numbered."""
    names, numbers = bank.class_names, [*map(str, range(bank.about["num_classes"]))]
    return [] if names == numbers else names
