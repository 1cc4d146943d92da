"""An estimate of a sweep's time and memory.

A few steps of its units (`stage2.cost.sample`) are timed, the largest units first, for about a
second; the time of the others is scaled from these by the operations they compute.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from featbank.bank import Bank
from featbank.devices import threads_for
from stage2.cost.sample import Sample
from stage2.engine.evaluation import evaluation_bytes
from stage2.engine.generation import window_bytes
from stage2.engine.plan import BatchStream, FusedGroup, Shape, group_bytes, plan
from stage2.engine.work import ITERATIONS, units_of
from stage2.features.budgets import MADE, half_of
from stage2.features.descent import allowed, is_large
from stage2.features.folds import folds_of
from stage2.features.planning import shapes_on
from stage2.features.probe import PROBE, Probe, probes_of
from stage2.features.probes import probe_size, settings_of
from stage2.methods.generators.calibrated import KEPT_BYTES
from stage2.methods.recipe import settings_hash


@dataclass(frozen=True)
class Estimate:
    """The estimate of a sweep.

    Attributes
    ----------
    seconds
        Duration.
    measured
        Share of the work of which steps were timed, 0 … 1; the rest is scaled from it.
    features, group
        Bytes that the features of a group, and the largest group itself, take at most.
    """

    seconds: float
    measured: float
    features: int
    group: int

    def __str__(self) -> str:
        """``about 3 min``, with its uncertainty."""
        factor = "2" if self.measured > 0.5 else "3"
        return f"about {duration(self.seconds)}, within a factor of {factor} if nothing else runs"


def estimate(
    bank: Bank,
    groups: Sequence[FusedGroup],
    *,
    device: str = "cpu",
    memory: int | None = None,
    workers: int | None = None,
    budget: float = 1.0,
    shares: Sequence[float] | None = None,
    folds: int = 0,
    kept: Collection[str] = (),
) -> Estimate:
    """Estimate a sweep.

    Parameters
    ----------
    bank, groups
        The bank and the groups to run, at least one, from `stage2.features.planning.plan_bank`.
    device, memory, workers
        As for `stage2.sweep.sweep`; `device` must exist.
    budget
        Seconds after which no further unit is timed.
    shares
        Share of each group that is trained, 0 … 1, where a search stops configurations early.
    folds
        The number of folds, each of them a group: features take their copy, and linear probes are
        trained once more on each.
    kept
        Hashes of the settings of probes that need not be trained.
    """
    started = time.perf_counter()
    workers = threads_for(device, workers)
    recipes = [recipe for group in groups for recipe in group.recipes]
    shape_of = shapes_on(bank)
    kind = torch.device(device).type
    parts = list(shares or [1.0] * len(groups))
    for needed in probes_of(bank, recipes):
        shape = shape_of(BatchStream((needed.view,)))
        (probe,) = plan([PROBE], shape, memory=half_of(memory, device), device=kind)
        group = FusedGroup(replace(probe.stream, views=(needed.view,)), probe.tiles)
        shares = _probe_shares(bank, needed, folds, kept)
        groups, parts = [group] * len(shares) + [*groups], shares + parts
    sample = Sample(bank, device, workers, folded=bool(folds))
    evaluated = sum(map(bank.rows, sample.evaluated))
    units = {(i, j): unit for i, g in enumerate(groups) for j, unit in enumerate(units_of(g))}
    work = {place: unit.work(shape_of(unit.stream), evaluated) for place, unit in units.items()}
    rates: dict[tuple, float] = {}  # thread-seconds by unit of work
    for place, unit in sorted(units.items(), key=lambda item: -work[item[0]]):
        if rates and time.perf_counter() - started > budget:
            break
        if unit.key not in rates:
            rates[unit.key] = sample.seconds(unit) / work[place]
    known = {place: unit.key in rates for place, unit in units.items()}
    measured = sum(work[p] for p in units if known[p])
    mean = sum(work[p] * rates[units[p].key] for p in units if known[p]) / measured
    total = 0.0
    for i, group in enumerate(groups):
        threads = min(workers, len(group.tiles))
        places = [place for place in units if place[0] == i]
        seconds = sum(work[p] * rates.get(units[p].key, mean) for p in places) / threads
        total += max(parts[i] * seconds, sample.reading(group.stream, memory))
    loaded = dict.fromkeys((v, g.stream.train_on) for g in groups for v in g.stream.views)
    total += sum(sample.loading(view, split) for view, split in loaded)
    return Estimate(
        total,
        measured / sum(work.values()),
        features=max(sample.features(group, memory) for group in groups),
        group=max(
            _group_bytes(bank, group, shape_of(group.stream), kind, workers) for group in groups
        ),
    )


def _group_bytes(bank: Bank, group: FusedGroup, shape: Shape, kind: str, workers: int) -> int:
    """Upper bound of the bytes of a group besides its features: training, what its generator holds,
    and the evaluation of as many tiles as run side by side."""
    stream, made = group.stream, 0
    if stream.generator is not None:
        epoch = 4 * stream.steps * stream.batch_size * shape.dim
        own = any(recipe.generator and recipe.generator.own for recipe in group.recipes)
        made = (MADE + own) * min(window_bytes(kind), epoch) + KEPT_BYTES
    rows = {split: bank.rows(split) for split in bank.evaluated}
    evaluated = [evaluation_bytes(tile, rows, shape.classes, kind) for tile in group.tiles]
    side_by_side = sorted(evaluated)[-max(1, workers) :]
    return group_bytes(group, shape, kind) + made + sum(side_by_side)


def _probe_shares(bank: Bank, probe: Probe, folds: int, kept: Collection[str]) -> list[float]:
    """The cost of a probe of all rows and of each fold, those that are kept left out, as shares of
    a full-batch training in float64."""
    size = probe_size(bank, probe)
    each = min(1.0, allowed(*size) / ITERATIONS / 2) if is_large(*size) else 1.0
    dealt = folds_of(bank, folds) if folds else None
    waiting = [
        settings_hash("probe", settings_of(bank, probe, dealt, fold)) not in kept
        for fold in (None, *range(folds))
    ]
    return [each] * sum(waiting)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
