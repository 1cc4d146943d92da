"""Whether decoded images fit into the machine's memory, asked before any is decoded."""

from __future__ import annotations

import math
import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's own limit, where it has one (control groups, version 2)."""


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell.

    What Linux calls available, within the limit of the container; elsewhere the whole memory.
    """
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):  # Windows has no sysconf
            return None
    try:
        return min(free, int(LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one whose limit reads "max"
        return free


def fits_memory(count: int, shape: tuple[int, ...]) -> bool:
    """Whether `count` images [C, H, W] uint8 fit into memory, N·C·H·W bytes, as far as is told."""
    available = available_memory()
    return available is None or count * math.prod(shape) <= available
