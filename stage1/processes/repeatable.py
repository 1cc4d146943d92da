"""Settings of PyTorch that make a computation repeatable on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Make cuDNN deterministic, and let it multiply in float32, not TF32."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
