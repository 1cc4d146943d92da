"""Choosing the device."""

from __future__ import annotations

import pytest
import torch

from featbank import errors
from featbank.devices import find_device


def test_auto_is_the_gpu_where_there_is_one() -> None:
    """Against torch's own word."""
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", ""])
def test_unusable_devices_are_told(name: str) -> None:
    """Unknown, without memory, or not in this machine."""
    with pytest.raises(errors.ConfigError, match=rf"Device '{name}' cannot be used \(.*\)"):
        find_device(name)
