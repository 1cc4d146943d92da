"""The rates of GPUs that the model of `stage2.benchmark.model` knows, from public data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from featbank import errors
from stage2.benchmark.operations import Operation

REACHED = {"bytes": 0.896, "bf16": 0.80, "tf32": 0.81, "fp32": 0.75, "fp64": 0.75}
"""Share of a data sheet's rate that large copies and products reach. Assumed for all, from what is
reported of an H200: 4.3 TB/s, and 790, 400 and 50 TFLOP/s."""

SHORTEST = 4e-6
"""Seconds from one small kernel to the next where the device does not wait for the host."""

CALL = 11e-6
"""Seconds that the host takes to call an operation from Python, its kernel's launch included."""

TO_HOST = 6e9
"""Bytes a second from the device into new memory of the host, which is not pinned."""


@dataclass(frozen=True)
class Gpu:
    """A row of `GPUS`.

    Attributes
    ----------
    label
        For people.
    sheet
        Data sheet: bytes a second of memory, and dense floating-point operations a second of
        products in bf16, tf32, fp32 and fp64.
    memory
        Bytes.
    """

    label: str
    sheet: dict[str, float]
    memory: int

    def rate(self, name: str) -> float:
        """The rate that is reached of ``bytes`` or of products in a precision, a second."""
        return REACHED[name] * self.sheet[name]

    def seconds(self, operation: Operation) -> float:
        """The time of a kernel: of what it moves or what it computes, whichever takes longer."""
        computed = operation.flops / self.rate(operation.precision) if operation.flops else 0.0
        return max(operation.moved / self.rate("bytes"), computed, SHORTEST)


def _gpu(label: str, memory: int, terabytes: float, *teraflops: float) -> Gpu:
    rates = dict(zip(("bf16", "tf32", "fp32", "fp64"), teraflops, strict=True))
    sheet = {"bytes": terabytes, **rates}
    return Gpu(label, {name: 1e12 * rate for name, rate in sheet.items()}, memory << 30)


GPUS = {
    "h200": _gpu("NVIDIA H200 SXM, 141 GB", 139, 4.8, 989, 494, 67, 67),
    "h100": _gpu("NVIDIA H100 SXM, 80 GB", 79, 3.35, 989, 494, 67, 67),
    "a100": _gpu("NVIDIA A100 SXM, 80 GB", 79, 2.04, 312, 156, 19.5, 19.5),
    "b200": _gpu("NVIDIA B200 SXM, 180 GB", 177, 7.7, 2250, 1125, 75, 37),
}
"""GPUs by the name that ``featbank benchmark --model`` takes."""


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`.

    Raises
    ------
    ConfigError
        For another name.
    """
    if name not in GPUS:
        raise errors.ConfigError(
            f"There is no model of a GPU called {name!r}. Choose from: {', '.join(GPUS)}."
        )
    return GPUS[name]
