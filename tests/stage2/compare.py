"""Comparisons that say what they got and what they expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def array(value: Any) -> np.ndarray:
    """A tensor, array or number as float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, np.float64)


def difference(got: Any, expected: Any) -> float:
    """Largest absolute difference; infinite where the shapes differ or something is not finite."""
    a, b = array(got), array(expected)
    if a.shape != b.shape:
        return float("inf")
    gap = float(np.abs(a - b).max(initial=0.0))
    return gap if np.isfinite(gap) else float("inf")


def assert_close(got: Any, expected: Any, within: float, what: str = "") -> None:
    """Absolute: no entry differs by more than `within`."""
    gap = difference(got, expected)
    assert gap <= within, (
        f"{what}: differs by {gap:.3g}, allowed {within:.3g}\ngot {array(got)}\n"
        f"expected {array(expected)}"
    )


def assert_relative(got: Any, expected: Any, within: float, what: str = "") -> None:
    """Relative to the largest entry of `expected`."""
    size = float(np.abs(array(expected)).max(initial=0.0))
    assert_close(got, expected, within * max(size, 1e-30), f"{what} (largest entry {size:.3g})")
