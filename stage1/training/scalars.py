"""Scalars of training for TensorBoard, which is an extra."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.files import writing

NAMES = ("loss", "lr", "train_accuracy", "val_accuracy", "test_accuracy", "images_per_second")
"""Fields of an epoch's line in the log that are scalars."""


def check_tensorboard() -> None:
    """Raise `ConfigError` where the package tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401  an extra
    except ImportError:
        raise errors.ConfigError(
            "--tensorboard needs the package tensorboard. Run pip install 'featbank[tensorboard]'."
        ) from None


@contextlib.contextmanager
def scalars(folder: Path, *, begin: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what writes the scalars of an epoch, on disk at once; `begin` epochs are there.

    What a run that was killed wrote of later epochs is hidden by TensorBoard.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, purge_step=begin + 1 if begin else None) as writer:

        def write(epoch: Mapping[str, Any]) -> None:
            with writing(folder):
                for name in NAMES:
                    if name in epoch:
                        writer.add_scalar(name, epoch[name], epoch["epoch"])
                writer.flush()

        yield write
