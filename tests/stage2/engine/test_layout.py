"""Epochs dealt to windows: the places of draws, against a loop, and the memory of planning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stage2.engine.layout import Blocks, Epoch, Layout, plan_epoch
from stage2.methods.seeding import seeded


def _by_loop(
    draws: list[int], kept: list[int], layout: Layout, blocks: Blocks, seed: int, turn: int
) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """Draws, places, ends of windows and the rows that each loads, one row at a time."""
    generator = seeded(seed, "windows")
    members: list[list[int]] = [[] for _ in range(blocks.copies * blocks.per_copy)]
    for row in sorted(set(draws) - set(kept)):
        copy, item = divmod(row, blocks.items)
        members[copy * blocks.per_copy + item // blocks.chunk].append(row)
    numbers = torch.randperm(len(members), generator=generator).tolist()
    loads: list[list[int]] = [[]]
    for block in sorted(range(len(members)), key=lambda block: numbers[block]):
        if len(loads[-1]) + len(members[block]) > layout.buffer_rows:
            loads.append([])
        loads[-1] += members[block]
    home = {row: window for window, rows in enumerate(loads) for row in rows}
    place = {row: layout.kept + i for i, row in enumerate(kept)}
    for window, rows in enumerate(loads):
        first = layout.buffers[(window + turn) % 2]
        place |= {row: first + i for i, row in enumerate(rows)}
    loaded = [home[row] for row in draws if row in home]
    total, before, edges = len(loaded), 0, []
    for window in range(len(loads)):
        before += loaded.count(window)
        edges.append(before / total if total else 1.0)
    stays = [i for i, row in enumerate(draws) if row not in home]
    chances = torch.rand(len(stays), generator=generator, dtype=torch.float64).tolist()
    chance = dict(zip(stays, chances, strict=True))
    window = [
        sum(edge <= chance[i] for edge in edges[:-1]) if i in chance else home[row]
        for i, row in enumerate(draws)
    ]
    mixed = torch.rand(len(draws), generator=generator, dtype=torch.float64).tolist()
    order = sorted(range(len(draws)), key=lambda i: (window[i] + mixed[i], i))
    ends = [sum(each <= number for each in window) for number in range(len(loads))]
    rows = [draws[i] for i in order]
    return rows, [place[row] for row in rows], ends, loads


def _rows_of(epoch: Epoch, blocks: Blocks) -> list[list[int]]:
    """The rows of each load, read block by block."""
    edges = blocks.edges().tolist()
    loads = []
    for load in epoch.loads:
        rows: list[int] = []
        for block, size in zip(load.blocks, load.sizes, strict=True):
            copy, start, stop = blocks.bounds(block)
            first = copy * blocks.items
            assert (first + start, first + stop) == (edges[block], edges[block + 1])
            some = load.taken[first + start : first + stop].nonzero().flatten() + first + start
            assert len(some) == size
            rows += some.tolist()
        loads.append(rows)
    return loads


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(("copies", "items", "chunk"), [(1, 203, 8), (3, 67, 8), (2, 64, 64)])
def test_an_epoch_is_planned_as_by_a_loop(
    copies: int, items: int, chunk: int, repeats: bool, turn: int
) -> None:
    """Reference: the rule, one row at a time: each draw once or some often, of one copy of the rows
    or several, with a last block that is short or not; all numbers to the last bit."""
    blocks, layout = Blocks(copies, items, chunk), Layout(7, 20, max(chunk, 40))
    rows, random = copies * items, torch.Generator().manual_seed(copies)
    kept = torch.randperm(rows, generator=random)[:20].sort().values
    draws = (
        torch.randint(rows // 2, (147,), generator=random)
        if repeats
        else torch.randperm(rows, generator=random)[: rows // 7 * 7]
    )
    epoch = plan_epoch(draws, kept, layout, blocks, seeded(5, "windows"), turn=turn)
    got = epoch.draws.tolist(), epoch.places.tolist(), epoch.ends, _rows_of(epoch, blocks)
    expected = _by_loop(draws.tolist(), kept.tolist(), layout, blocks, 5, turn)
    for name, ours, other in zip(("draws", "places", "ends", "loads"), got, expected, strict=True):
        assert ours == other, f"{name} differ"


def test_only_kept_rows_are_drawn() -> None:
    """Reference: by hand; nothing is loaded, all is one window, places are those of the kept."""
    blocks, layout, kept = Blocks(1, 30, 8), Layout(2, 3, 8), torch.tensor([4, 9, 29])
    epoch = plan_epoch(torch.tensor([9, 29, 9, 4]), kept, layout, blocks, seeded(0, "windows"))
    place = {4: 4, 9: 5, 29: 6}
    assert epoch.places.tolist() == [place[row] for row in epoch.draws.tolist()]
    assert sorted(epoch.draws.tolist()) == [4, 9, 9, 29]
    assert (epoch.ends, _rows_of(epoch, blocks)) == ([4], [[]])


PLANNING = """
import json, torch
from stage2.benchmark.timing import peak_memory, reset_peak_memory
from stage2.engine.layout import Blocks, Layout, plan_epoch
cpu, n = torch.device("cpu"), 6_000_000
def plan(draws):
    kept = torch.arange(0, len(draws), 50)
    layout = Layout(100, len(kept), len(draws) // 24)
    blocks = Blocks(1, len(draws), 512)
    return plan_epoch(draws, kept, layout, blocks, torch.Generator())
plan(torch.randperm(10_000))
draws = torch.randperm(n)
reset_peak_memory(cpu)
before = peak_memory(cpu)
epoch = plan(draws)
peak = peak_memory(cpu)
reset_peak_memory(cpu)
print(json.dumps([(peak - before) / n, (peak_memory(cpu) - before) / n]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_planning_takes_some_bytes_a_draw() -> None:
    """Reference: the types, 19 bytes a draw in work and 9 in the end, and what the allocator keeps;
    the code that sorted whole keys took 49 and kept 24."""
    done = subprocess.run(
        [sys.executable, "-c", PLANNING], check=True, capture_output=True, text=True
    )
    most, left = json.loads(done.stdout)
    assert most < 30, f"planning takes {most:.0f} bytes a draw"
    assert left < 16, f"an epoch keeps {left:.0f} bytes a draw"


def test_an_epoch_is_of_small_numbers() -> None:
    """Reference: int32 for draws and places, and one byte a row for what is read."""
    layout = Layout(2, 1, 8)
    epoch = plan_epoch(
        torch.arange(30), Tensor([3]).long(), layout, Blocks(1, 30, 8), seeded(0, "w")
    )
    assert (epoch.draws.dtype, epoch.places.dtype) == (torch.int32, torch.int32)
    assert all(load.taken is epoch.loads[0].taken for load in epoch.loads)
    assert epoch.loads[0].taken.element_size() == 1
