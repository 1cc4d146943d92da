"""The training loop: a fused group from its first batch to its evaluations.

An epoch is a slice of the group's index stream; every tile walks it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import torch
from torch import Tensor

from stage2.engine.generation import generating
from stage2.engine.model import ViewData
from stage2.engine.plan import Group, Stream
from stage2.engine.tile import Outcome, TileRun, aligned
from stage2.methods.samplers import index_stream
from stage2.methods.seeding import seeded

THREADED_FLOPS = 10**9
"""Floating-point operations of a step from which a lone tile shares its products among threads."""


def group_stream(stream: Stream, labels: Tensor, copies: int = 1) -> Iterator[Tensor]:
    """The row indices every recipe of a group sees in each epoch, [steps, B], from `labels` [N]."""
    assert stream.sampler is not None
    return index_stream(
        stream.sampler,
        labels,
        copies=copies,
        epochs=stream.epochs,
        steps=stream.steps,
        batch_size=stream.batch_size,
        seed=stream.seed,
        settings=dict(stream.sampler_settings),
    )


def run_group(group: Group, *views: ViewData, workers: int = 1) -> list[Outcome]:
    """Train and evaluate a fused group.

    Parameters
    ----------
    group
        From the planner.
    views
        The group's views, in the order of its stream.
    workers
        CPU threads; tiles run side by side, one thread each, and a lone large tile uses them all.

    Returns
    -------
    One outcome per recipe, in the group's order.
    """
    begun = time.perf_counter()
    stopped = Event()
    views = tuple(generating(view, group.stream) for view in views)
    runs = [TileRun(tile, group.stream, views) for tile in group.tiles]
    with _threads(workers, runs, stopped) as each:
        if group.stream.epochs:
            _train(group.stream, runs, views, each, stopped)
        else:
            each(TileRun.optimise, runs)
        each(TileRun.calibrate, runs)
        for split in views[0].evaluated:
            for xs in aligned([view.evaluated[split].blocks() for view in views]):
                each(lambda run, split=split, xs=xs: run.evaluate(split, xs), runs)
        outcomes = each(TileRun.outcomes, runs)
    seconds = (time.perf_counter() - begun) / len(group.recipes)
    return [replace(outcome, seconds=seconds) for tile in outcomes for outcome in tile]


def _train(
    stream: Stream,
    runs: list[TileRun],
    views: Sequence[ViewData],
    each: Callable,
    stopped: Event,
) -> None:
    """Walk the group's index stream, on every view."""
    labels = views[0].train.labels[: len(views[0].train.labels) // views[0].train.copies]
    shufflers = [seeded(stream.seed, "windows") for _ in views]
    for epoch, rows in enumerate(group_stream(stream, labels, views[0].train.copies)):
        draws = rows.to(views[0].train.device)
        each(lambda run, epoch=epoch: run.begin_epoch(epoch), runs)
        for number, (view, shuffler) in enumerate(zip(views, shufflers, strict=True)):
            for window in view.train.windows(draws, shuffler, epoch):
                each(
                    lambda run, number=number, window=window: run.train(number, window, stopped),
                    runs,
                )
        if "val" in views[0].evaluated:
            start = 0
            val = [view.evaluated["val"] for view in views]
            for xs in aligned([rows.blocks() for rows in val]):
                y = val[0].labels[start : start + len(xs[0])]
                start += len(y)
                each(lambda run, xs=xs, y=y: run.watch(xs, y), runs)
        each(TileRun.end_epoch, runs)


@contextlib.contextmanager
def _threads(workers: int, runs: list[TileRun], stopped: Event) -> Iterator[Callable]:
    """A map over tiles that uses `workers` threads.

    Tiles run side by side, each on one thread: small operations lose more to the barriers of a
    shared thread pool than they gain, and on a busy machine they lose everything. Only a lone tile
    whose products are large is better off with all threads inside each operation. Where the map is
    left by an exception, such as Ctrl-C, tiles stop at their next step.
    """
    before = torch.get_num_threads()
    pool = None
    try:
        if len(runs) > 1 < workers:
            pool = ThreadPoolExecutor(
                min(workers, len(runs)), initializer=torch.set_num_threads, initargs=(1,)
            )
            yield lambda function, items: list(pool.map(function, items))
        else:
            torch.set_num_threads(workers if runs[0].step_flops > THREADED_FLOPS else 1)
            yield lambda function, items: [function(item) for item in items]
    except BaseException:
        stopped.set()
        raise
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
