"""Whether decoded images fit into the machine's memory, asked before any is decoded."""

from __future__ import annotations

import math
import os
from pathlib import Path

from featbank import errors

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


def check_memory(count: int, shape: tuple[int, ...], name: str) -> None:
    """Raise where `count` images [C, H, W] uint8 do not fit: N·C·H·W bytes.

    Raises
    ------
    ConfigError
        With both sizes in GB (10⁹ bytes), and the way to go on.
    """
    needed, available = count * math.prod(shape), available_memory()
    if available is not None and needed > available:
        raise errors.ConfigError(
            f"The {count} images of {name} take {needed / 1e9:.1f} GB of memory decoded at "
            f"{shape[2]}×{shape[1]}, {available / 1e9:.1f} GB are available. "
            "Give a smaller --image-size."
        )
