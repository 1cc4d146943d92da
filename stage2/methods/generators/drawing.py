"""Random draws on the threads PyTorch may use; their number does not change what is drawn."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

Places = TypeVar("Places", "Tensor", slice)

CHUNK = 1 << 18
"""Normal numbers drawn from one generator; PyTorch fills a tensor from one on a single thread."""

LARGE = 1 << 22
"""Numbers from which work is spread over threads; dispatching fewer costs more than it saves."""


_THREADS: ContextVar[int | None] = ContextVar("threads that `spread` may use", default=None)


@contextlib.contextmanager
def own_threads(numbers: int) -> Iterator[None]:
    """Run PyTorch's operations on one thread each while few `numbers` are made, and only `spread`
    on all: between operations PyTorch's threads spin for milliseconds on the cores of ours."""
    before = torch.get_num_threads()
    if numbers >= LARGE or before == 1:
        yield
        return
    torch.set_num_threads(1)
    token = _THREADS.set(before)
    try:
        yield
    finally:
        _THREADS.reset(token)
        torch.set_num_threads(before)


def by_class(y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes among labels [R], in ascending order, and the places of each."""
    order = y.argsort(stable=True)
    classes, counts = y.index_select(0, order).unique_consecutive(return_counts=True)
    yield from zip(classes.tolist(), order.split(counts.tolist()), strict=True)


def normals(rows: int, size: int, random: torch.Generator) -> Tensor:
    """Draws from N(0, 1), [rows, size]; many of them in chunks, each with its own generator."""
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
    """Call `draw` with each class, its places and a generator of its own.

    If the pieces draw many `numbers` in all, they run in parallel, one thread each.
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
    """Call `draw` with 0 … count − 1 on as many threads as PyTorch may use.

    Each call gets a generator seeded from `random` before the first starts, so neither the number
    of threads nor their order changes a draw. On a GPU the calls share `random`, one by one.
    """
    if random.device.type == "cuda":
        for number in range(count):
            draw(number, random)
        return
    seeds = torch.randint(2**62, (count,), generator=random).tolist()

    def call(number: int) -> None:
        draw(number, torch.Generator().manual_seed(seeds[number]))

    threads = threads or _THREADS.get() or torch.get_num_threads()
    if min(threads, count) < 2:
        for number in range(count):
            call(number)
    else:
        list(_pool(threads, os.getpid()).map(call, range(count)))


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool whose threads use one PyTorch thread each; cached, as starting it costs as much as a
    draw. A forked `process` gets its own."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=_alone)
    started = Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(before)
    return pool


def _alone() -> None:
    """Let PyTorch do all work of this thread on this thread."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first call in a thread adopts what any thread set last
    _THREADS.set(1)
