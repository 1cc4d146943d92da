"""The device that both stages compute on, and its threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from featbank import errors
from featbank.settings import shortened

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> torch.device:
    """Device with this name; ``auto`` is CUDA if there is a GPU, else the CPU.

    Raises
    ------
    ConfigError
        For any other name, and for a device that this machine does not have.
    """
    import torch  # here, so that importing featbank stays fast

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # its message lists every backend of PyTorch
        raise _unusable(name, "there is no such device") from None
    if device.type not in ("cpu", "cuda"):
        raise _unusable(name, "featbank computes on cpu and cuda")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _unusable(name, errors.first_line(error)) from None
    return device


def _unusable(name: str, reason: str) -> errors.ConfigError:
    return errors.ConfigError(
        f"Device {shortened(name)} cannot be used ({reason}). Choose auto, cpu or cuda."
    )


def threads_for(device: str, threads: int | None = None) -> int:
    """CPU threads of work on a device: one beside a GPU, else `threads`, by default PyTorch's."""
    import torch  # as above

    return 1 if device.startswith("cuda") else threads or torch.get_num_threads()


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads."""
    import torch  # as above

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
