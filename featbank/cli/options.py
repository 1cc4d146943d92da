"""Options that several commands have."""

from __future__ import annotations

import re

import click

from featbank.errors import ConfigError

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
    type=click.FloatRange(2, 40),
    help="Inches; 3.3 for a column.",
)

seen_option = click.option(
    "--seen",
    type=click.Choice(["train", "none"]),
    help="Rows that stage 1 was trained on; none for a frozen pretrained model. Default: train "
    "where there is a stage-1 classifier.",
)


PRECISIONS = click.Choice(["fp32", "tf32", "bf16"])
"""Those of `stage2.methods.precision`, which is not imported for it: PyTorch comes with it."""


def parse_bytes(text: str | None) -> int | None:
    """The value of ``--memory``: ``2GiB``, ``500MB`` or plain bytes; None where it is not given."""
    if not text:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*(?:([kmgt])(i?)b?)?\s*", text.lower())
    try:
        number, prefix, binary = match.groups() if match else ("", "", "")
        power = "kmgt".index(prefix) + 1 if prefix else 0
        return int(float(number) * (1024 if binary else 1000) ** power)
    except ValueError:
        raise ConfigError(f"--memory {text} is not a size. Write --memory 2GiB.") from None
