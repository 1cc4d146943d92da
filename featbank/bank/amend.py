"""Amending a bank: a copy with other text, default scale, or facts of its classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.blocks import Progress
from featbank.bank.composed import Bank
from featbank.bank.copying import feature_bytes, origin, refuse_inputs, whole, write_pieces


def amend(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: Mapping[str, tuple[np.ndarray, float]] | None = None,
    default_scale: Mapping[str, str] | None = None,
    classes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a bank again with other text, default scales or facts of its classes; everything else
    is copied.

    Parameters
    ----------
    path
        The bank.
    output
        The bank to write.
    text, default_scale
        As for `featbank.write_bank`. Views that are not named keep theirs.
    classes
        Values of `featbank.bank.class_table.CLASS_FACTS` to replace, as for `featbank.write_bank`.
    overwrite
        Replace an existing output.
    progress
        Called with (MiB copied, MiB in all).

    Raises
    ------
    ConfigError
        If there is nothing to change, a view does not exist, or the output is the bank itself.
    DataError
        If text does not fit the view.
    BankError, OutputExists, OutputBusy, NoSpace
        If the bank cannot be read, or the output cannot be written.
    """
    if not text and not default_scale and not classes:
        raise errors.ConfigError(
            "There is nothing to amend. Give --text, --scale, --groups, --class-counts or "
            "--background."
        )
    refuse_inputs(Path(output), [Path(path)])
    with Bank(path) as bank:
        write_pieces(
            Path(output),
            [bank],
            {split: [whole(bank, split)] for split in bank.splits},
            text=text,
            default_scale=default_scale,
            classes=classes,
            provenance={"made_by": "featbank amend", "from": origin(bank)},
            overwrite=overwrite,
            progress=progress,
            total=feature_bytes(bank),
        )
