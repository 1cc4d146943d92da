"""Random numbers and products on the threads PyTorch has been given, the same for any number."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

Places = TypeVar("Places", Tensor, slice)

CHUNK = 1 << 18
"""Normal numbers of one stream: PyTorch itself draws them on one thread."""

LARGE = 1 << 22
"""Numbers from which pieces of work are spread over threads; below, calls cost more than work."""


_given: ContextVar[int | None] = ContextVar("threads that `spread` may use", default=None)


@contextlib.contextmanager
def threads_of_ours(numbers: int) -> Iterator[None]:
    """Where few `numbers` are made, PyTorch's operations take one thread each and only `spread`
    takes all: PyTorch's threads spin for milliseconds between operations, on the cores of ours."""
    before = torch.get_num_threads()
    if numbers >= LARGE or before == 1:
        yield
        return
    torch.set_num_threads(1)
    token = _given.set(before)
    try:
        yield
    finally:
        _given.reset(token)
        torch.set_num_threads(before)


def by_class(y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes of labels [R], ascending, and the places of each."""
    order = y.argsort(stable=True)
    classes, counts = y.index_select(0, order).unique_consecutive(return_counts=True)
    yield from zip(classes.tolist(), order.split(counts.tolist()), strict=True)


def normals(rows: int, size: int, random: torch.Generator) -> Tensor:
    """N(0, 1), [rows, size]; a large draw in chunks with a generator each."""
    drawn = torch.empty(rows, size, device=random.device)
    if drawn.is_cuda or drawn.numel() <= CHUNK:
        return drawn.normal_(generator=random)
    chunks = drawn.view(-1).split(CHUNK)
    spread(lambda number, random: chunks[number].normal_(generator=random), len(chunks), random)
    return drawn


def draw_each(
    draw: Callable[[int, Places, torch.Generator], None],
    pieces: Sequence[tuple[int, Places]],
    random: torch.Generator,
    *,
    numbers: int,
) -> None:
    """Call `draw` with each class, its places, and a generator of its own.

    Where the pieces draw many `numbers` in all, they run side by side, one thread each.
    """
    spread(
        lambda number, random: draw(*pieces[number], random),
        len(pieces),
        random,
        threads=None if numbers >= LARGE else 1,
    )


def spread(
    draw: Callable[[int, torch.Generator], object],
    count: int,
    random: torch.Generator,
    *,
    threads: int | None = None,
) -> None:
    """Call `draw` with 0 … count − 1, on as many threads as PyTorch has been given, each with a
    generator seeded from `random`; on a GPU one after the other with `random` itself."""
    if random.device.type == "cuda":
        for number in range(count):
            draw(number, random)
        return
    seeds = torch.randint(2**62, (count,), generator=random).tolist()

    def one(number: int) -> None:
        draw(number, torch.Generator().manual_seed(seeds[number]))

    threads = threads or _given.get() or torch.get_num_threads()
    if min(threads, count) < 2:
        for number in range(count):
            one(number)
    else:
        list(_pool(threads, os.getpid()).map(one, range(count)))


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of one PyTorch thread each; kept, because to start them costs as much as a draw."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=_alone)
    started = Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(before)
    return pool


def _alone() -> None:
    """Do all work of this thread on it."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first call of a thread takes over what was set last, by any
    _given.set(1)
