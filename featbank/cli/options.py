"""Options that several commands have."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from featbank.errors import ConfigError
from featbank.settings import shortened


class Finite(click.FloatRange):
    """A number that is one: click's own range lets NaN pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …"
)

bank_option = click.option(
    "--bank", help="Beginning of a fingerprint, where the file holds several banks."
)

width_option = click.option(
    "--width",
    default=7.0,
    show_default=True,
    type=Finite(2, 40),
    help="Inches; 3.3 for a column.",
)

seen_option = click.option(
    "--seen",
    type=click.Choice(["train", "none"]),
    help="Rows that stage 1 was trained on; none for a frozen pretrained model. Default: train "
    "where there is a stage-1 classifier.",
)

MOST_BYTES = 1 << 60

PRECISIONS = click.Choice(["fp32", "tf32", "bf16"])
"""Those of `stage2.methods.precision`, which is not imported for it: PyTorch comes with it."""


def parse_bytes(text: str | None) -> int | None:
    """The value of ``--memory``: ``2GiB``, ``500MB`` or plain bytes; None where it is not given."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*(?:([kmgt])(i?)b?)?\s*", text.lower())
    try:
        number, prefix, binary = match.groups() if match else ("", "", "")
        power = "kmgt".index(prefix) + 1 if prefix else 0
        size = float(number) * (1024 if binary else 1000) ** power
    except ValueError:
        raise ConfigError(
            f"--memory {shortened(text)[1:-1]} is not a size. Write --memory 2GiB."
        ) from None
    if not 1 <= size < MOST_BYTES:
        raise ConfigError(
            f"--memory {shortened(text)[1:-1]} is not between 1 byte and 1 EiB. "
            "Write --memory 2GiB, or leave it out."
        )
    return int(size)
