"""Torch files of tensors and plain types, such as checkpoints and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from featbank import errors
from featbank.files import replacing


def save_tensors(path: Path, document: dict[str, Any]) -> None:
    """Write a torch file; it appears complete or not at all.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    # Opened by Python: where torch opens the file, the error of the system is lost.
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(document, file)
        except RuntimeError as error:  # torch turns a failed write into this
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_tensors(path: Path, kind: str, remedy: str) -> Any:
    """Read a torch file with ``weights_only=True``: it can run no code.

    Raises
    ------
    DataError
        For a file that torch cannot read, or that holds anything but tensors and plain types, with
        the `kind` it should be and the `remedy`.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged bytes make the restricted unpickler raise anything
        raise errors.DataError(
            f"{path} is not a readable {kind}: no torch file, or damaged, or with more in it than "
            f"tensors and plain types. {remedy}"
        ) from None
