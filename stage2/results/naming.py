"""Names of the banks of a results file, and the banks that a name means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featbank.characters import visible

Records = Mapping[str, Mapping[str, Any]]
"""The records of banks (`stage2.results.store.Store.add_bank`) by fingerprint."""


def bank_names(records: Records) -> dict[str, str]:
    """A name of each bank by fingerprint, no two alike.

    It is the bank's label, else the name of its file without ``.h5``; where several banks have the
    same, with the first digits of the fingerprint.
    """
    plain = {fingerprint: _plain(about) for fingerprint, about in records.items()}
    count = Counter(plain.values())
    return {
        fingerprint: name if count[name] == 1 else f"{name}-{fingerprint[:12]}"
        for fingerprint, name in plain.items()
    }


def matching_banks(records: Records, wanted: str | None) -> list[str]:
    """Fingerprints of the banks that a text means: every bank for None.

    A label or the name of a file, with or without ``.h5``, is meant before the path of a file, and
    that before the beginning of a fingerprint.
    """
    if not wanted:
        return list(records)
    unique = bank_names(records)
    readings = (
        [f for f in records if unique[f] == wanted],
        [f for f, about in records.items() if wanted in (_plain(about), Path(about["path"]).name)],
        [f for f, about in records.items() if wanted == about["path"]],
        [f for f in records if f.startswith(wanted)],
    )
    return next(filter(None, readings), [])


def described(records: Records) -> str:
    """Every bank in words: fingerprint and file, and the label where there is one."""
    banks = [
        f"{fingerprint[:12]} ({', '.join(filter(None, (about.get('label'), about['path'])))})"
        for fingerprint, about in records.items()
    ]
    return ", ".join(banks) or "none"


def _plain(about: Mapping[str, Any]) -> str:
    """The label of a bank, else the name of its file without ``.h5``, on one line."""
    return visible(about.get("label") or Path(about["path"]).name.removesuffix(".h5") or "bank")
