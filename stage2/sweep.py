"""The stage-2 road in one file: recipes → plan → fused training → results."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import featbank
from featbank import errors
from featbank.bank import Bank
from featbank.bank.schema import EVALUATED
from featbank.devices import find_device
from stage2.engine.loop import Outcome, ViewData, run_group
from stage2.engine.plan import Group, Shape, default_memory, plan
from stage2.engine.stream import BlockStream, MemoryRows, Rows
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
        views: dict[str, ViewData] = {}
        done = 0
        for group in groups:
            view = group.stream.view
            if view not in views:
                views.clear()  # one view in memory at a time
                views = {view: load_view(bank, view, place, memory=memory)}
            finished_group = run_group(group, views[view], workers=workers)
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
    """The plan of a sweep on a bank; groups of one view follow one another."""
    kind = torch.device(device).type
    shape = Shape(int(bank.train_counts.sum()), bank.dim, bank.num_classes)
    groups = plan(recipes, shape, memory=_half(memory, kind), device=kind, workers=workers)
    return sorted(groups, key=lambda group: group.stream.view)


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


def load_view(bank: Bank, view: str, device: str = "cpu", *, memory: int | None = None) -> ViewData:
    """A view of a bank for the engine: in memory where half of `memory` holds it, else streamed.

    Parameters
    ----------
    bank, view
        Which features.
    device
        Where they are wanted.
    memory
        As for `sweep`.

    Raises
    ------
    ConfigError
        Where the budget is too small to stream.
    """
    rows: dict[str, Rows] = {}
    for split, budget in view_budget(bank, view, device=device, memory=memory).items():
        copies, _, dim = bank.shape(split, view)
        labels = torch.from_numpy(bank.labels(split)).to(device)
        if budget is None:
            x = torch.from_numpy(bank.load_copies(split, view)).view(-1, dim).to(device)
            rows[split] = MemoryRows(x, labels.repeat(copies), copies=copies)
        else:
            rows[split] = BlockStream(BankView(bank, split, view), labels, budget=budget)
    classifier = bank.classifier(view)
    weight, bias = (None, None) if classifier is None else map(torch.from_numpy, classifier)
    return ViewData(
        train=rows.pop("train"),
        evaluated=rows,
        counts=bank.train_counts.astype(np.float64),
        groups=bank.groups(),
        weight0=None if weight is None else weight.to(device),
        bias0=None if bias is None else bias.to(device),
    )


def view_budget(
    bank: Bank, view: str, *, device: str = "cpu", memory: int | None = None
) -> dict[str, int | None]:
    """Bytes of features that each split of a view may hold in memory; None where all fit.

    Half of `memory` is for features. Training, which reads its features again and again, gets what
    the other splits leave, and those together at most a quarter.
    """
    left = _half(memory, torch.device(device).type)
    spare = left // 4
    budgets: dict[str, int | None] = {}
    for split in (*(s for s in EVALUATED if s in bank.splits and bank.rows(s)), "train"):
        size = view_bytes(bank, split, view)
        fits = size <= (left if split == "train" else spare)
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
    for recipe in recipes:
        view = recipe.settings["view"]
        if view not in bank.views:
            raise errors.ConfigError(
                f"Recipe {recipe.name!r} needs the view {view!r}, {bank.path} has: "
                f"{', '.join(bank.views)}. Choose with --set view={bank.views[0]}."
            )
        head = HEADS[recipe.head]
        if head.needs_classifier(recipe.part("head")) and bank.classifier(view) is None:
            raise errors.ConfigError(
                f"Recipe {recipe.name!r} needs the stage-1 classifier, {bank.path} has none. "
                "Import it with --classifier."
            )
        head.require(bank.train_counts)
        if recipe.trained:
            LOSSES[recipe.settings["loss"]](bank.train_counts, recipe.part("loss"))


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
