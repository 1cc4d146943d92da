"""Sizes as people write them."""

from __future__ import annotations

import re

from featbank.errors import ConfigError


def parse_bytes(text: str) -> int:
    """The value of ``--memory``: ``2GiB``, ``500MB`` or plain bytes."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*(?:([kmgt])(i?)b?)?\s*", text.lower())
    try:
        number, prefix, binary = match.groups() if match else ("", "", "")
        power = "kmgt".index(prefix) + 1 if prefix else 0
        return int(float(number) * (1024 if binary else 1000) ** power)
    except ValueError:
        raise ConfigError(f"--memory {text} is not a size. Write --memory 2GiB.") from None
