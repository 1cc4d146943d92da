"""Precisions of matrix products, as rows; nothing here loads PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

from featbank.settings import Setting

PRECISIONS = {
    "fp32": "24 bits",
    "tf32": "11 bits; several times faster on NVIDIA GPUs from Ampere on",
    "bf16": "8 bits; twice as fast again",
}
"""Significant bits of a factor, by name."""

PRECISION = Setting(
    "precision",
    "fp32",
    "precision of the factors in matrix products; sums and parameters stay float32",
    choices=tuple(PRECISIONS),
)

AUTO = "auto"
"""What a command line may say instead: the precision that suits the machine."""


def default_precision(device: str) -> str:
    """Precision of recipes that are trained by name on ``cpu`` or ``cuda:0``, where nobody says
    one: tf32 on CUDA, whose effect docs/performance.md shows to be far below that of the seed."""
    return "tf32" if device.startswith("cuda") else PRECISION.default


def in_words(precisions: Iterable[str]) -> str:
    """``products in tf32``, of the precisions of recipes; empty where all are full."""
    used = {*precisions} - {PRECISION.default}
    lower = [name for name in PRECISIONS if name in used]
    return f"products in {' and '.join(lower)}" if lower else ""
