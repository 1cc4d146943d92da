"""The memory of the machine, or of the container this process runs in; and of Python's objects."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Memory limit of the container, if it has one (control groups, version 2)."""


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping; None if the system does not report them.

    On Linux the available memory, within the limit of the container; elsewhere the whole memory.
    """
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return _within_limit(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        return whole_memory()


def whole_memory() -> int | None:
    """Bytes of main memory, within the limit of the container; None if unknown."""
    try:
        return _within_limit(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def size_text(size: int) -> str:
    """Format a number of bytes in a suitable unit.

    >>> size_text(640), size_text(1536), size_text(300 << 30)
    ('640 bytes', '1.5 KiB', '300 GiB')
    """
    if size < 1024:
        return f"{size} bytes"
    power = min(4, (size.bit_length() - 1) // 10)
    number = size / 1024**power
    return f"{number:{',.0f' if number >= 100 else '.3g'}} {'KMGT'[power - 1]}iB"


def fits_memory(count: int, shape: tuple[int, ...]) -> bool:
    """Whether `count` images [C, H, W] uint8, N·C·H·W bytes, fit into memory; yes if unknown."""
    available = available_memory()
    return available is None or count * math.prod(shape) <= available


def _within_limit(size: int) -> int:
    try:
        return min(size, int(LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one whose limit reads "max"
        return size


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Suspend Python's search for cycles while many objects are made that are all to stay: it
    would go through them again and again, a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
