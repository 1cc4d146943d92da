"""Random numbers and products on the threads PyTorch has been given, the same for any number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Places = TypeVar("Places", Tensor, slice)

CHUNK = 1 << 18
"""Normal numbers of one stream: PyTorch itself draws them on one thread."""

LARGE = 1 << 22
"""Numbers from which pieces of work are spread over threads; below, calls cost more than work."""


def by_class(y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes of labels [R], ascending, and the places of each."""
    order = y.argsort(stable=True)
    classes, counts = y.index_select(0, order).unique_consecutive(return_counts=True)
    yield from zip(classes.tolist(), order.split(counts.tolist()), strict=True)


def runs(y: Tensor) -> Iterator[tuple[int, slice]]:
    """The classes of labels [R] of which equal ones follow one another, and where each is."""
    classes, counts = y.unique_consecutive(return_counts=True)
    ends = [0, *counts.cumsum(0).tolist()]
    yield from zip(
        classes.tolist(), itertools.starmap(slice, itertools.pairwise(ends)), strict=True
    )


def normals(rows: int, size: int, random: torch.Generator) -> Tensor:
    """N(0, 1), [rows, size]; a large draw in chunks with a generator each."""
    drawn = torch.empty(rows, size, device=random.device)
    if drawn.is_cuda or drawn.numel() <= CHUNK:
        return drawn.normal_(generator=random)
    chunks = drawn.view(-1).split(CHUNK)
    seeds = _seeds(len(chunks), random)

    def fill(number: int) -> None:
        chunks[number].normal_(generator=torch.Generator().manual_seed(seeds[number]))

    _run(fill, len(chunks))
    return drawn


def draw_each(
    draw: Callable[[int, Places, torch.Generator], None],
    pieces: Sequence[tuple[int, Places]],
    random: torch.Generator,
    *,
    numbers: int,
) -> None:
    """Call `draw` with each class, its places, and a generator seeded from `random`.

    Where the pieces draw many `numbers` in all, they run side by side, one thread each.
    """
    if random.device.type == "cuda":
        for k, places in pieces:
            draw(k, places, random)
        return
    seeds = _seeds(len(pieces), random)

    def piece(number: int) -> None:
        draw(*pieces[number], torch.Generator().manual_seed(seeds[number]))

    _run(piece, len(pieces), threads=torch.get_num_threads() if numbers >= LARGE else 1)


def _seeds(count: int, random: torch.Generator) -> list[int]:
    return torch.randint(2**62, (count,), generator=random).tolist()


def _run(piece: Callable[[int], None], count: int, *, threads: int | None = None) -> None:
    """Call `piece` with 0 … count − 1, on as many threads as PyTorch has been given."""
    threads = threads or torch.get_num_threads()
    if min(threads, count) < 2:
        for number in range(count):
            piece(number)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(piece, range(count)))
    finally:
        torch.set_num_threads(before)
