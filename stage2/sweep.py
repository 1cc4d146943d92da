"""The stage-2 road in one file: recipes → plan → fused training → results."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

import featbank
from featbank import errors
from featbank.bank import Bank
from featbank.bank.schema import EVALUATED
from featbank.devices import find_device
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.plan import Group, Shape, default_memory, plan
from stage2.engine.stream import BlockStream, MemoryRows, Rows
from stage2.engine.tile import Outcome
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from stage2.results.tables import Leaderboard, leaderboard


@dataclass(frozen=True)
class SweepResults:
    """What a sweep did.

    Attributes
    ----------
    outcomes
        Of the recipes trained now, parameters included.
    skipped
        Recipes that had a result already.
    board
        The leaderboard of the whole results file.
    """

    outcomes: list[Outcome]
    skipped: list[Recipe]
    board: Leaderboard = field(repr=False)


def sweep(
    bank: Bank | str | os.PathLike[str],
    recipes: Iterable[Recipe],
    *,
    results: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory: int | None = None,
    workers: int | None = None,
    select_on: str | None = None,
    force: bool = False,
    keep_outcomes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SweepResults:
    """Train and evaluate recipes on a bank, fused.

    A group for which a GPU's memory does not suffice is halved, and larger ones after it. Ctrl-C
    ends the sweep between two steps; finished groups are in the results.

    Parameters
    ----------
    bank
        An open bank or its path.
    recipes
        What to compare.
    results
        The SQLite file that takes each group's results when it is done; what it holds already is
        not trained again. Without it, results live in memory only.
    device
        ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    memory
        Budget in bytes, half for features and half for a fused group; by default half of main
        memory, or four fifths of the GPU's free memory. Features that do not fit are streamed from
        the bank in shuffled blocks.
    workers
        CPU threads; by default as many as PyTorch has been given.
    select_on
        Split that ranks; see `stage2.results.tables.leaderboard`.
    force
        Train again what is there.
    keep_outcomes
        Keep outcomes with their parameters in memory. A long sweep into a file need not.
    progress
        Called with (configurations done, configurations to do).

    Returns
    -------
    SweepResults

    Raises
    ------
    ConfigError, DataError
        Before anything is trained, where the bank lacks what a recipe needs.
    """
    with contextlib.ExitStack() as stack:
        if not isinstance(bank, Bank):
            bank = stack.enter_context(Bank(bank))
        wanted = list(dict.fromkeys(recipes))
        check_bank(bank, wanted)
        ranking = [split for split in EVALUATED if split in bank.splits]
        if select_on is not None and select_on not in ranking:
            raise errors.ConfigError(
                f"{bank.path} cannot select on {select_on!r}. Choose from: {', '.join(ranking)}."
            )
        place = str(find_device(device))
        workers = 1 if place.startswith("cuda") else workers or torch.get_num_threads()
        store = stack.enter_context(
            Store(results if results is not None else ":memory:", create=True)
        )
        store.add_bank(bank)
        finished = set() if force else store.finished(bank.fingerprint)
        todo = [recipe for recipe in wanted if recipe.hash not in finished]
        groups = _unfinished(
            lambda some: plan_bank(bank, some, device=place, memory=memory, workers=workers),
            wanted,
            finished,
        )
        outcomes: list[Outcome] = []
        views: dict[tuple[str, str], ViewData] = {}
        done = 0
        for finished_group in _run(
            groups, lambda group: _views_of(group, bank, views, place, memory), workers
        ):
            store.add_runs(bank.fingerprint, (_stored(o, place) for o in finished_group))
            outcomes += finished_group if keep_outcomes else []
            done += len(finished_group)
            if progress:
                progress(done, len(todo))
        split = "test" if "test" in bank.splits else "val"
        board = leaderboard(store, bank=bank.fingerprint, split=split, select_on=select_on)
        return SweepResults(outcomes, [r for r in wanted if r.hash in finished], board)


def plan_bank(
    bank: Bank,
    recipes: Sequence[Recipe],
    *,
    device: str = "cpu",
    memory: int | None = None,
    workers: int = 1,
) -> list[Group]:
    """The plan of a sweep on a bank; groups of the same views follow one another."""
    kind = torch.device(device).type
    splits: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        splits.setdefault(recipe.settings["train_on"], []).append(recipe)
    groups = []
    for split, some in splits.items():
        shape = Shape.of(_counts(bank, split), bank.dim)
        for views in {recipe.views: None for recipe in some if recipe.generator}:
            _check_in_memory(bank, views, device, memory, split)
        groups += plan(some, shape, memory=_half(memory, kind), device=kind, workers=workers)
    return sorted(groups, key=lambda group: (group.stream.views, group.stream.train_on))


def _check_in_memory(
    bank: Bank, views: Sequence[str], device: str, memory: int | None, split: str
) -> None:
    """Raise where training features would be streamed that a generator needs in memory."""
    share = (memory or default_memory(torch.device(device).type)) // len(views)
    for view in views:
        budget = view_budget(bank, view, device=device, memory=share, train_on=split)
        if budget[split] is not None:
            raise errors.ConfigError(
                f"Generators need the features of {split} in memory, "
                f"{view_bytes(bank, split, view) >> 20} MiB of {view!r} do not fit the budget. "
                "Raise --memory, or leave them out."
            )


def _run(
    groups: Iterable[Group], views_of: Callable[[Group], list[ViewData]], workers: int
) -> Iterator[list[Outcome]]:
    """Outcomes of each group; a group too large for the GPU, and those after it, in halves."""
    waiting = deque(groups)
    largest: float = math.inf
    while waiting:
        group = waiting.popleft()
        if len(group.recipes) > largest:
            waiting.extendleft(reversed(group.halves()))
            continue
        try:
            yield run_group(group, *views_of(group), workers=workers)
        except torch.cuda.OutOfMemoryError:
            if len(group.recipes) == 1:
                raise
            largest = math.ceil(len(group.recipes) / 2)
            waiting.appendleft(group)
            torch.cuda.empty_cache()


def _views_of(
    group: Group,
    bank: Bank,
    loaded: dict[tuple[str, str], ViewData],
    device: str,
    memory: int | None,
) -> list[ViewData]:
    """The views of a group, of which only these stay `loaded`."""
    stream = group.stream
    wanted = [(view, stream.train_on) for view in stream.views]
    for key in loaded.keys() - set(wanted):
        del loaded[key]
    share = (memory or default_memory(torch.device(device).type)) // len(wanted)
    for view, split in wanted:
        if (view, split) not in loaded:
            loaded[view, split] = load_view(bank, view, device, memory=share, train_on=split)
    return [loaded[key] for key in wanted]


def _unfinished(
    planned: Callable[[Sequence[Recipe]], list[Group]], wanted: list[Recipe], finished: set[str]
) -> list[Group]:
    """The groups of a sweep that are still to run.

    They are cut as if nothing had run yet, so that a resumed sweep fuses what an uninterrupted one
    fuses and ends with the same numbers to the last bit. Only what is left of a group that another
    sweep had a part of is planned anew.
    """
    fresh, left = [], []
    for group in planned(wanted):
        waiting = [recipe for recipe in group.recipes if recipe.hash not in finished]
        if len(waiting) == len(group.recipes):
            fresh.append(group)
        else:
            left += waiting
    return fresh + planned(left)


def load_view(
    bank: Bank,
    view: str,
    device: str = "cpu",
    *,
    memory: int | None = None,
    train_on: str = "train",
) -> ViewData:
    """A view of a bank for the engine: in memory where half of `memory` holds it, else streamed.

    Parameters
    ----------
    bank, view
        Which features.
    device
        Where they are wanted.
    memory
        As for `sweep`.
    train_on
        The split that recipes learn from.

    Raises
    ------
    ConfigError
        Where the budget is too small to stream.
    """
    rows: dict[str, Rows] = {}
    budgets = view_budget(bank, view, device=device, memory=memory, train_on=train_on)
    for split, budget in budgets.items():
        copies, _, dim = bank.shape(split, view)
        labels = torch.from_numpy(bank.labels(split)).to(device)
        if budget is None:
            x = torch.from_numpy(bank.load_copies(split, view)).view(-1, dim).to(device)
            rows[split] = MemoryRows(x, labels.repeat(copies), copies=copies)
        else:
            rows[split] = BlockStream(BankView(bank, split, view), labels, budget=budget)
    train = rows.pop(train_on)
    left = _half(memory, torch.device(device).type) - sum(
        view_bytes(bank, split, view) for split, budget in budgets.items() if budget is None
    )
    classifier = bank.classifier(view)
    weight, bias = (None, None) if classifier is None else map(torch.from_numpy, classifier)
    return ViewData(
        train=train,
        evaluated=rows,
        counts=_counts(bank, train_on),
        keeps_z0=4 * len(train.labels) * bank.num_classes <= left,
        bank_counts=bank.train_counts,
        weight0=None if weight is None else weight.to(device),
        bias0=None if bias is None else bias.to(device),
    )


def _counts(bank: Bank, split: str) -> np.ndarray:
    """Rows of each class of a split [K], float64."""
    return np.bincount(bank.labels(split), minlength=bank.num_classes).astype(np.float64)


def view_budget(
    bank: Bank,
    view: str,
    *,
    device: str = "cpu",
    memory: int | None = None,
    train_on: str = "train",
) -> dict[str, int | None]:
    """Bytes of features that each split of a view may hold in memory; None where all fit.

    Half of `memory` is for features. Training, which reads its features again and again, gets what
    the other splits leave, and those together at most a quarter.
    """
    left = _half(memory, torch.device(device).type)
    spare = left // 4
    budgets: dict[str, int | None] = {}
    for split in (*(s for s in EVALUATED if s in bank.splits and bank.rows(s)), train_on):
        size = view_bytes(bank, split, view)
        fits = size <= (left if split == train_on else spare)
        budgets[split] = None if fits else left
        if fits:
            left, spare = left - size, spare - size
    return budgets


def view_bytes(bank: Bank, split: str, view: str) -> int:
    """Bytes that the features of a split and view, all copies, take as float32."""
    return 4 * math.prod(bank.shape(split, view))


def _half(memory: int | None, kind: str) -> int:
    """What features may take, and as much again a fused group."""
    return (memory or default_memory(kind)) // 2


class BankView:
    """The features of a split and view, as `BlockStream` reads them."""

    def __init__(self, bank: Bank, split: str, view: str) -> None:
        self._bank, self._place = bank, (split, view)
        self.shape = bank.shape(split, view)
        self.chunk_rows = bank.chunk_rows(split, view)
        self.dtype = bank.dtype

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """The rows `start` … `stop` − 1 of a copy."""
        return self._bank.read(*self._place, start, stop, copy=copy, out=out)


def check_bank(bank: Bank, recipes: Iterable[Recipe]) -> None:
    """Raise where a bank lacks what a recipe needs: a view, the classifier, a class's samples."""
    if not any(split in bank.splits and bank.rows(split) for split in EVALUATED):
        raise errors.ConfigError(
            f"{bank.path} has neither val nor test rows: nothing to compare on. Import one."
        )
    if not bank.train_counts.any():
        raise errors.DataError(f"{bank.path} has no training rows. Nothing can be trained on it.")
    counts_of = cache(lambda split: _counts(bank, split))
    for recipe in recipes:
        _check_splits(bank, recipe)
        counts = counts_of(recipe.settings["train_on"])
        head = HEADS[recipe.head]
        head.check(recipe.part("head"), bank.dim)
        head.require(counts)
        needs_classifier = head.needs_classifier(recipe.part("head"))
        generator = recipe.generator
        if recipe.trained:
            loss = LOSSES[recipe.settings["loss"]]
            needs_classifier |= loss.needs_classifier
            loss(counts, recipe.part("loss"))
        if needs_classifier and generator and generator.moves_features(recipe.part("generator")):
            raise errors.ConfigError(
                f"Recipe {recipe.name!r} needs the stage-1 classifier, which does not fit the "
                f"features that generator {recipe.settings['generator']!r} makes. "
                f"{_elsewhere(recipe)}"
            )
        for view in recipe.views:
            if view not in bank.views:
                raise errors.ConfigError(
                    f"Recipe {recipe.name!r} needs the view {view!r}, {bank.path} has: "
                    f"{', '.join(bank.views)}. Choose with --set view={bank.views[0]}."
                )
            if needs_classifier and bank.classifier(view) is None:
                raise errors.ConfigError(
                    f"Recipe {recipe.name!r} needs the stage-1 classifier, {bank.path} has none. "
                    "Import it with --classifier."
                )


def _elsewhere(recipe: Recipe) -> str:
    """What to do where heads see features of another space."""
    if "output_space" in recipe.part("generator"):
        return "Use --set output_space=raw, or a head that begins fresh."
    return "Use a head that begins fresh."


def _check_splits(bank: Bank, recipe: Recipe) -> None:
    """Raise where a bank lacks the rows a recipe learns from, or is calibrated on."""
    split = recipe.settings["train_on"]
    if split not in bank.splits or not bank.rows(split):
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} learns from {split}, {bank.path} has no rows of it. "
            "Extract or import that split, or leave the recipe out."
        )
    if "val" in bank.splits and bank.rows("val"):
        return
    calibration = recipe.settings["calibration"]
    if calibration != "none":
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} fits its {calibration} calibration to val, {bank.path} has no "
            "val. Hold one out with `featbank split BANK --val-per-class 20`."
        )
    if recipe.generator and recipe.part("generator").get("beta_step"):
        raise errors.ConfigError(
            f"Recipe {recipe.name!r} moves β by the accuracy on val, {bank.path} has no val. Fix β "
            "with --set beta_step=0, or hold val out with `featbank split BANK --val-per-class 20`."
        )


def _stored(outcome: Outcome, device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        **{name: value for name, value in vars(outcome).items() if name != "parameters"},
        "curves": {
            curve: [value if math.isfinite(value) else None for value in values]
            for curve, values in outcome.curves.items()
        },
        "device": f"{device} ({name})",
        "versions": {
            "featbank": featbank.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
