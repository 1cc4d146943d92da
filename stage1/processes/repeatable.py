"""The rules that make a computation repeatable on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Within: cuDNN is deterministic and multiplies in float32, not TF32."""
    flags = torch.backends.cudnn.flags
    with flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
