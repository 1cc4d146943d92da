"""The phases of a day with a GPU."""

from __future__ import annotations

import ceilings
import environment
import kernels
import others
import steps
import sweeps
from measuring_day import Phase

PHASES = {
    1: Phase("the machine, and the tests that need a GPU", 8, environment.measurements),
    2: Phase("ceilings: copies, products, launches", 3, ceilings.measurements),
    3: Phase("kernels: tuned, and against PyTorch's operations", 8, kernels.measurements),
    4: Phase("steps of all shapes, heads and precisions", 8, steps.measurements),
    5: Phase("whole sweeps, opponents, accuracy by precision", 9, sweeps.measurements),
    6: Phase("streaming, generators, heads without steps", 6, others.measurements),
}
