"""The training loop: a fused group from its first batch to its outcomes.

All tiles of a group train on the same batches. The loop is therefore over the group's windows, in
the order of its index stream, and each window is handed to every tile before the next one is made
or read: features pass through memory once, however many tiles there are.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Event

import torch
from torch import Tensor

from stage2.engine.ahead import ahead
from stage2.engine.evaluation import TileEvaluation
from stage2.engine.generation import generating
from stage2.engine.halving import Halving
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome, Outcomes
from stage2.engine.plan import BatchStream, FusedGroup, TileKey, pieces
from stage2.engine.pooled import HeldOut, PooledEvaluation
from stage2.engine.staging import pinned
from stage2.engine.tile import TileRun, aligned, rejoined
from stage2.engine.watching import Moment, Watching
from stage2.methods.samplers import index_stream
from stage2.methods.seeding import seeded

THREADED_FLOPS = 10**9
"""Floating-point operations per step above which a tile splits its products among threads, where
there are more of these than tiles."""

TILE_FLOPS = 5 * 10**7
"""Floating-point operations per step up to which the remains of halved tiles are joined: below it
the overhead of calling operations exceeds their own time."""


def group_stream(stream: BatchStream, labels: Tensor, copies: int = 1) -> Iterator[Tensor]:
    """Row indices [steps, B] of each epoch for all recipes of a group, from its labels [N]."""
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


def _drawn(stream: BatchStream, data: ViewData) -> Iterator[Tensor]:
    """Row indices [steps, B] of each epoch, on the host.

    For a GPU a thread draws the next epoch while one trains, into pinned memory. On a CPU it would
    take its time from the training.
    """
    if not stream.epochs:
        return iter(())
    labels = data.train.labels[: len(data.train.labels) // data.train.copies]
    rows = group_stream(stream, labels.cpu(), data.train.copies)
    return rows if data.train.device.type == "cpu" else ahead(map(pinned, rows))


def run_group(
    group: FusedGroup,
    *views: ViewData,
    workers: int = 1,
    halving: Halving | None = None,
    parameters: bool = True,
    watch: Watching | None = None,
) -> Outcomes:
    """Train and evaluate a fused group.

    Parameters
    ----------
    group
        From `stage2.engine.plan.plan`.
    views
        The group's views, in the order of its stream.
    workers
        CPU threads; tiles run side by side, one thread each, and a lone large tile uses them all.
        Beside a GPU there is one.
    halving
        Stop the worse configurations early, by their best macro accuracy so far on val, a split
        that the views must have. It does not apply to groups that are not trained in steps.
    parameters
        Whether outcomes have parameters, whose copies of many classes take long.
    watch
        Called at the end of every epoch.

    Returns
    -------
    One outcome per recipe, in the group's order. On return the group is measured, and all is on the
    host; statistics are computed when the outcomes are first read.
    """
    started = time.perf_counter()
    stopped = Event()
    views = tuple(generating(view, group.stream) for view in views)
    drawn = _drawn(group.stream, views[0])
    runs = [TileRun(tile, group.stream, views) for tile in group.tiles]
    measured: list[Outcomes] = []
    with _threads(workers, runs, stopped) as each:
        if group.stream.epochs:
            runs, measured = _train(
                *(drawn, runs, views, each, stopped),
                halving=halving,
                parameters=parameters,
                watch=watch,
            )
        else:
            each(TileRun.optimise, runs)
        evaluations = [TileEvaluation(run) for run in runs]
        each(TileEvaluation.fit, evaluations)
        for split in views[0].evaluated:
            _evaluate(split, evaluations, views, each)
        measured += each(partial(TileEvaluation.outcomes, parameters=parameters), evaluations)
    seconds = time.perf_counter() - started
    return Outcomes(partial(_in_order, group, measured, seconds))


def _in_order(group: FusedGroup, measured: list[Outcomes], seconds: float) -> list[Outcome]:
    """The outcomes of a group's tiles in the order of its recipes."""
    outcomes = list(itertools.chain(*measured))
    by_recipe = dict(zip((o.recipe for o in outcomes), _timed(outcomes, seconds), strict=True))
    return [by_recipe[recipe] for recipe in group.recipes]


def run_folds(
    group: FusedGroup,
    held_out: HeldOut,
    views_of: Callable[[int], Sequence[ViewData]],
    *,
    workers: int = 1,
    watch: Watching | None = None,
) -> list[Outcome]:
    """Train a fused group on each fold of the training rows, and measure it on the rows held out.

    A fold has its own batch stream, so that its parameters are those of a bank cut to the rows that
    it trains on. One fold is in memory at a time; the rows that the folds hold out are measured as
    one split, at the last epoch.

    Parameters
    ----------
    group
        From `stage2.engine.plan.plan`, with `folds`.
    held_out
        The rows that the folds hold out.
    views_of
        The group's views as a fold sees them (`stage2.engine.subset.fold_view`).
    workers, watch
        As of `run_group`.

    Returns
    -------
    One outcome per recipe, in the group's order, without parameters.
    """
    started = time.perf_counter()
    pooled = [PooledEvaluation(tile, held_out) for tile in group.tiles]
    for fold in range(len(group.folds)):
        _run_fold(group, fold, views_of(fold), pooled, workers, watch=watch)
    outcomes = [outcome for tile in pooled for outcome in tile.outcomes()]
    return _timed(outcomes, time.perf_counter() - started)


def _run_fold(
    group: FusedGroup,
    fold: int,
    views: Sequence[ViewData],
    pooled: Sequence[PooledEvaluation],
    workers: int,
    *,
    watch: Watching | None,
) -> None:
    """Train a fold and measure it; on return nothing of it is in memory."""
    stopped, stream = Event(), group.folds[fold]
    views = tuple(generating(view, stream) for view in views)
    drawn = _drawn(stream, views[0])
    runs = [TileRun(tile, stream, views) for tile in group.tiles]
    with _threads(workers, runs, stopped) as each:
        if stream.epochs:
            place = (fold, len(group.folds))
            _train(drawn, runs, views, each, stopped, watch=watch, place=place)
        else:
            each(TileRun.optimise, runs)
        pairs = list(zip(pooled, runs, strict=True))
        each(lambda pair: pair[0].fit(pair[1]), pairs)
        held = [view.evaluated[pooled[0].split] for view in views]
        for xs in aligned([rows.blocks() for rows in held]):
            each(lambda pair, xs=xs: pair[0].add(pair[1], xs), pairs)
        each(lambda pair: pair[0].end_fold(pair[1]), pairs)


def _timed(outcomes: Sequence[Outcome], seconds: float) -> list[Outcome]:
    """Outcomes of a group with their shares of its time, in proportion to the epochs trained."""
    stepped = outcomes[0].recipe.stepped
    parts = [len(outcome.curves["loss"]) if stepped else 1 for outcome in outcomes]
    return [
        replace(outcome, seconds=seconds * part / sum(parts))
        for outcome, part in zip(outcomes, parts, strict=True)
    ]


def _evaluate(
    split: str, evaluations: list[TileEvaluation], views: Sequence[ViewData], each: Callable
) -> None:
    """Measure tiles on a split."""
    for xs in aligned([view.evaluated[split].blocks() for view in views]):
        each(lambda evaluation, xs=xs: evaluation.evaluate(split, xs), evaluations)


def _train(
    drawn: Iterator[Tensor],
    runs: list[TileRun],
    views: Sequence[ViewData],
    each: Callable,
    stopped: Event,
    *,
    halving: Halving | None = None,
    parameters: bool = True,
    watch: Watching | None = None,
    place: tuple[int, int] = (0, 1),
) -> tuple[list[TileRun], list[Outcomes]]:
    """Train on every view, on the rows [steps, B] `drawn` for each epoch; `place` is the number of
    the fold and how many there are.

    Returns
    -------
    Tiles of the configurations that trained to the end, and outcomes of those that halving stopped.
    """
    stream = runs[0].stream
    rungs = halving.rungs(stream.epochs) if halving else []
    left: list[Outcomes] = []
    # One generator per view, all with the same seed: streamed views shuffle their blocks alike.
    shufflers = [seeded(stream.seed, "windows") for _ in views]
    following = next(drawn, None)
    for epoch in range(stream.epochs):
        rows = following  # of two epochs, not of three while the next one is drawn
        following = next(drawn, None)
        assert rows is not None
        each(lambda run, epoch=epoch: run.begin_epoch(epoch), runs)
        for number, (view, shuffler) in enumerate(zip(views, shufflers, strict=True)):
            for window in view.train.windows(rows, shuffler, epoch, following):
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
        if watch:
            watch(Moment(epoch + 1, stream.epochs, runs, *place))
        if halving and epoch + 1 in rungs:
            runs, losers = _halved(runs, halving)
            evaluations = [TileEvaluation(run, selected=False) for run in losers]
            _evaluate("val", evaluations, views, each)
            stopping = partial(TileEvaluation.outcomes, status="stopped", parameters=parameters)
            left += each(stopping, evaluations)
    return runs, left


def _halved(runs: list[TileRun], halving: Halving) -> tuple[list[TileRun], list[TileRun]]:
    """Tiles of the configurations that continue, and tiles of those that stop.

    Small remains of tiles with one key are joined into as few tiles as keep a step above
    `TILE_FLOPS`, and never into more than there were.
    """
    scores = [score for run in runs for score in run.scores()]
    hashes = [recipe.hash for run in runs for recipe in run.tile.recipes]
    continuing = iter(halving.continuing(scores, hashes))
    kept: dict[TileKey, list[tuple[TileRun, int]]] = {}
    losers = []
    for run in runs:
        continues = [next(continuing) for _ in run.tile.recipes]
        if any(continues):
            winners = kept.setdefault(run.tile.key, [])
            winners += [(run, c) for c, better in enumerate(continues) if better]
        if not all(continues):
            losers.append(
                rejoined([(run, [c for c, better in enumerate(continues) if not better])])
            )
    tiles = []
    for key, configs in kept.items():
        flops = sum(run.step_flops // len(run.tile.recipes) for run, _ in configs)
        most = sum(run.tile.key == key for run in runs)
        for piece in pieces(configs, min(most, -(-flops // TILE_FLOPS))):
            parts: dict[TileRun, list[int]] = {}
            for run, c in piece:
                parts.setdefault(run, []).append(c)
            tiles.append(rejoined(list(parts.items())))
    return tiles, losers


@contextlib.contextmanager
def _threads(workers: int, runs: list[TileRun], stopped: Event) -> Iterator[Callable]:
    """A map over tiles that uses `workers` threads.

    Tiles run side by side, each on one thread: small operations lose more at the barriers of a
    shared thread pool than they gain, and far more on a busy machine. Only fewer tiles than
    threads, and with large products, run faster with more threads inside each operation. Where an
    exception such as Ctrl-C leaves the context, tiles stop at their next step.
    """
    before = torch.get_num_threads()
    large = runs[0].step_flops > THREADED_FLOPS
    each = max(1, workers // len(runs)) if large else 1
    pool = None
    try:
        if len(runs) > 1 < workers and runs[0].views[0].train.device.type == "cpu":
            pool = ThreadPoolExecutor(
                min(workers, len(runs)), initializer=torch.set_num_threads, initargs=(each,)
            )
            yield lambda function, items: list(pool.map(function, items))
        else:
            torch.set_num_threads(each)
            yield lambda function, items: [function(item) for item in items]
    except BaseException:
        stopped.set()
        raise
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
