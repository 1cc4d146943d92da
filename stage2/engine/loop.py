"""The training loop: a fused group from its first batch to its evaluations.

An epoch is a slice of the group's index stream; every tile walks it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import torch
from torch import Tensor

from stage2.engine.evaluation import TileEvaluation
from stage2.engine.generation import generating
from stage2.engine.halving import Halving
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import BatchStream, FusedGroup, TileKey, pieces
from stage2.engine.tile import TileRun, aligned, rejoined
from stage2.methods.samplers import index_stream
from stage2.methods.seeding import seeded

THREADED_FLOPS = 10**9
"""Floating-point operations of a step from which a lone tile shares its products among threads."""


TILE_FLOPS = 5 * 10**7
"""Floating-point operations of a step below which what halving leaves of tiles is joined: calling
operations then takes longer than they do."""


def group_stream(stream: BatchStream, labels: Tensor, copies: int = 1) -> Iterator[Tensor]:
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


def run_group(
    group: FusedGroup, *views: ViewData, workers: int = 1, halving: Halving | None = None
) -> list[Outcome]:
    """Train and evaluate a fused group.

    Parameters
    ----------
    group
        From the planner.
    views
        The group's views, in the order of its stream.
    workers
        CPU threads; tiles run side by side, one thread each, and a lone large tile uses them all.
    halving
        Stop the worse configurations on the way, by their best macro accuracy on val, which the
        views then have. A group that is not trained in steps is left as it is.

    Returns
    -------
    One outcome per recipe, in the group's order.
    """
    begun = time.perf_counter()
    stopped = Event()
    views = tuple(generating(view, group.stream) for view in views)
    runs = [TileRun(tile, group.stream, views) for tile in group.tiles]
    left: list[Outcome] = []
    with _threads(workers, runs, stopped) as each:
        if group.stream.epochs:
            runs, left = _train(group.stream, runs, views, each, stopped, halving=halving)
        else:
            each(TileRun.optimise, runs)
        evaluations = [TileEvaluation(run) for run in runs]
        each(TileEvaluation.calibrate, evaluations)
        for split in views[0].evaluated:
            _evaluate(split, evaluations, views, each)
        outcomes = [*left, *itertools.chain(*each(TileEvaluation.outcomes, evaluations))]
    seconds = time.perf_counter() - begun
    by_recipe = dict(zip((o.recipe for o in outcomes), _timed(outcomes, seconds), strict=True))
    return [by_recipe[recipe] for recipe in group.recipes]


def _timed(outcomes: Sequence[Outcome], seconds: float) -> list[Outcome]:
    """Outcomes of a group with their share of its time, by the epochs that they trained."""
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
    stream: BatchStream,
    runs: list[TileRun],
    views: Sequence[ViewData],
    each: Callable,
    stopped: Event,
    *,
    halving: Halving | None = None,
) -> tuple[list[TileRun], list[Outcome]]:
    """Walk the group's index stream, on every view: tiles of what is left, and what was stopped."""
    rungs = halving.rungs(stream.epochs) if halving else []
    left: list[Outcome] = []
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
        if halving and epoch + 1 in rungs:
            runs, losers = _halved(runs, halving)
            evaluations = [TileEvaluation(run, selected=False) for run in losers]
            _evaluate("val", evaluations, views, each)
            outcomes = each(lambda evaluation: evaluation.outcomes("stopped"), evaluations)
            left += itertools.chain(*outcomes)
    return runs, left


def _halved(runs: list[TileRun], halving: Halving) -> tuple[list[TileRun], list[TileRun]]:
    """Tiles of the configurations that go on, and tiles of those that do not."""
    scores = [score for run in runs for score in run.scores()]
    hashes = [recipe.hash for run in runs for recipe in run.tile.recipes]
    best = iter(halving.going_on(scores, hashes))
    kept: dict[TileKey, list[tuple[TileRun, int]]] = {}
    losers = []
    for run in runs:
        goes_on = [next(best) for _ in run.tile.recipes]
        if any(goes_on):
            these = kept.setdefault(run.tile.key, [])
            these += [(run, c) for c, on in enumerate(goes_on) if on]
        if not all(goes_on):
            left = [c for c, on in enumerate(goes_on) if not on]
            losers.append(rejoined([(run, left)]))
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
