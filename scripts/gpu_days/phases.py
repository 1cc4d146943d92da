"""The phases of a day with a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import ceilings
import descents
import environment
import kernels
import others
import steps
import sweeps
from measuring_day import Day, Measurement, Phase


def _kernels(day: Day) -> Iterator[Measurement]:
    """The fused step first, since it takes most of the time of a step."""
    yield from descents.measurements(day)
    yield from kernels.measurements(day)


PHASES = {
    1: Phase("the machine, and the tests that need a GPU", 8, environment.measurements),
    2: Phase("ceilings: copies, products, launches", 3, ceilings.measurements),
    3: Phase("kernels: tuned, and against PyTorch's operations", 9, _kernels),
    4: Phase("steps of all shapes, heads and precisions", 8, steps.measurements),
    5: Phase("whole sweeps, opponents, accuracy by precision", 9, sweeps.measurements),
    6: Phase("streaming, generators, heads without steps", 6, others.measurements),
}
