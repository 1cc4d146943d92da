"""Scalars of training for TensorBoard, which is an extra."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.files import writing

NAMES = ("loss", "lr", "train_accuracy", "val_accuracy", "test_accuracy", "images_per_second")
"""Scalars among the fields of an epoch's line in the log."""


def check_tensorboard() -> None:
    """Raise `ConfigError` where the package tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401  an extra
    except ImportError:
        raise errors.ConfigError(
            "--tensorboard needs the package tensorboard. Run pip install 'featbank[tensorboard]'."
        ) from None


@contextlib.contextmanager
def scalars(folder: Path, *, start: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that writes the scalars of an epoch to disk; `start` epochs are written.

    TensorBoard hides later epochs, which a killed run may have written.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, purge_step=start + 1 if start else None) as writer:

        def write(epoch: Mapping[str, Any]) -> None:
            with writing(folder):
                for name in NAMES:
                    if name in epoch:
                        writer.add_scalar(name, epoch[name], epoch["epoch"])
                writer.flush()

        yield write
