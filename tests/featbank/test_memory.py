"""How much memory there is: the system's own files against what is made of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from featbank import memory
from stage2.engine.plan import UNTOLD_MEMORY, default_memory


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the files' numbers; without them, the whole memory of the machine."""
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(memory, "MEMINFO", info)
    monkeypatch.setattr(memory, "LIMIT", limit)
    whole = memory.available_memory()
    assert whole is None or whole > 2**28
    info.write_text("MemTotal:  200 kB\nMemAvailable:  100 kB\n")
    for text, expected in (("max\n", 102_400), ("5000\n", 5000), ("999999\n", 102_400)):
        limit.write_text(text)
        assert memory.available_memory() == expected


def test_a_sweep_takes_half_of_what_its_container_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: half of the smaller of the machine's memory and the limit; where the system does
    not tell, half of what is assumed."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMIT", limit)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for text, expected in (("max\n", whole), ("1000000\n", 1_000_000), (f"{2 * whole}\n", whole)):
        limit.write_text(text)
        assert default_memory("cpu") == expected // 2, text
    monkeypatch.delattr(os, "sysconf")
    assert default_memory("cpu") == UNTOLD_MEMORY // 2
