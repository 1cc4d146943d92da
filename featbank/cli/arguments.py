"""The arguments of ``featbank sweep``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from featbank.errors import ConfigError


def banks_and_specification(places: Sequence[str]) -> tuple[list[Path], str | None]:
    """Sort arguments: bank files, those of URLs as copies, and at most one specification.

    A specification is a ``.toml`` file, or a bare name that is no file.
    """
    from featbank.delivery import fetched, is_url

    banks: dict[Path, None] = {}
    specifications = []
    for place in places:
        if not place:
            raise ConfigError("The name of a bank is empty. Name a file.")
        bare = re.fullmatch(r"[\w-]+", place) and not Path(place).exists()
        if bare or place.endswith(".toml"):
            specifications.append(place)
        else:
            banks[fetched(place) if is_url(place) else Path(place)] = None
    if not places:
        raise ConfigError("Name a bank, or a specification. See featbank sweep --help.")
    if len(specifications) > 1:
        raise ConfigError(
            f"One specification at a time, got {' and '.join(specifications)}. "
            "Sweep them one after another into the same results file."
        )
    return list(banks), specifications[0] if specifications else None


def check_assignments(overrides: Sequence[str], places: Sequence[str]) -> None:
    """Refuse ``--set lr 0.1``, whose value is then one of the places."""
    for text in overrides:
        values = [place for place in places if re.fullmatch(r"[-+.,\deE]+", place)]
        if "=" not in text and values and not Path(values[0]).exists():
            raise ConfigError(
                f"--set {text} {values[0]} has no equals sign. Write --set {text}={values[0]}."
            )
