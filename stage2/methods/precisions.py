"""Precisions of matrix products, as rows; nothing here loads PyTorch."""

from __future__ import annotations

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
