"""The device stage 1 computes on, and the rules that make it repeatable there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from featbank import errors


def find_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` is CUDA where there is a GPU, else the CPU.

    Raises
    ------
    ConfigError
        For another name, or a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _unusable(name, str(error).splitlines()[0]) from None
    if device.type not in ("cpu", "cuda"):
        raise _unusable(name, "featbank computes on cpu and cuda")
    return device


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Within: cuDNN is deterministic and multiplies in float32, not TF32."""
    flags = torch.backends.cudnn.flags
    with flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def _unusable(name: str, reason: str) -> errors.ConfigError:
    return errors.ConfigError(
        f"Device {name!r} cannot be used ({reason}). Choose auto, cpu or cuda."
    )
