"""The figures of a table: the runs of its rows, and how far they are from the paper's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage2.methods.recipe import Recipe
from stage2.results.store import Run, Store

METRICS = {"top1": "top-1", "ece": "ECE"}
"""The metrics of a table, in the order of the figures in `tables.toml`."""


@dataclass(frozen=True)
class Cell:
    """A metric of a row on a bank: the paper's figure, and ours of every run.

    ``trained`` says that the row's recipe trains in epochs, so that val can select one.
    """

    bank: str
    row: str
    label: str
    reported: float | None
    last: tuple[float, ...]
    selected: tuple[float, ...]
    trained: bool
    bare_stage1: bool

    def __str__(self) -> str:
        """The line of the page."""
        reported = "–" if self.reported is None else f"{self.reported:g}"
        gap = "–" if self.gap is None else f"{self.gap:+.1f}"
        ours = f"{spread(self.last)} | {spread(self.selected)}"
        return f"| {self.bank} | {self.row} | {self.label} | {reported} | {ours} | {gap} |"

    @property
    def gap(self) -> float | None:
        """Points from the paper's figure to ours of the last epoch, where there are both."""
        if self.reported is None or not self.last:
            return None
        return float(np.mean(self.last)) - self.reported


def cells_of(
    bank: str, row: Mapping[str, Any], recipe_name: str, runs: Sequence[Run]
) -> list[Cell]:
    """The cells of a row on a bank, from the runs on all banks of that name."""
    recipe = Recipe(recipe_name, **row.get("set", {}))
    of_row = [run for run in runs if _is_of(run, recipe)]
    reported = dict(zip(METRICS, row.get("paper", {}).get(bank, ()), strict=False))
    return [
        Cell(
            bank,
            row["name"],
            label,
            reported.get(metric),
            last=_figures(of_row, "last", metric),
            selected=_figures(of_row, "selected", metric),
            trained="epochs" in recipe.settings,
            bare_stage1=recipe.name == "tau_norm" and recipe.settings["tau"] == 0,
        )
        for metric, label in METRICS.items()
    ]


def runs_on(results: Path, labels: Sequence[str], seeds: Collection[int]) -> list[Run]:
    """The runs on the banks of these labels, with these seeds if they train anything."""
    with Store(results) as store:
        by_label = {about["label"]: key for key, about in store.banks().items()}
        runs = [run for label in labels for run in store.runs(by_label[label])]
    return [run for run in runs if run.seed in seeds or "epochs" not in run.parameters]


def sentence(cell: Cell, of_bank: Sequence[Cell]) -> str:
    """How far a figure is from the paper's: by the spread of seeds, and beside stage 1's."""
    assert cell.gap is not None
    side = "above" if cell.gap > 0 else "below"
    text = (
        f"{cell.row} on {cell.bank}: {cell.label} is {abs(cell.gap):.1f} points {side} the paper's "
        f"{cell.reported:g}"
    )
    deviation = float(np.std(cell.last, ddof=1)) if len(cell.last) > 1 else 0.0
    if deviation > 0:
        text += f", {abs(cell.gap) / deviation:.1f} times the deviation over seeds"
    for stage1 in of_bank:
        if stage1.bare_stage1 and stage1.label == cell.label and not cell.bare_stage1:
            if stage1.gap is not None:
                text += f"; stage 1 alone is {stage1.gap:+.1f} points from its figure"
            break
    return f"{text}."


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or the only value."""
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def _is_of(run: Run, recipe: Recipe) -> bool:
    """Whether a run is of a recipe; on a bank of experts its view names them."""
    expected = {**recipe.parameters, "view": {recipe.settings["view"]}}
    views = {part.rpartition("/")[2] for part in run.parameters["view"].split("+")}
    stored = {**run.parameters, "view": views}
    ignored = {"feature_scale", "precision"}  # resolved by the bank, and by the device
    same = all(stored.get(name) == expected[name] for name in expected.keys() - ignored)
    return run.name == recipe.name and same


def _figures(runs: Sequence[Run], epoch: str, metric: str) -> tuple[float, ...]:
    stored = [run.metrics["test", epoch][metric] for run in runs if ("test", epoch) in run.metrics]
    return tuple(float("nan") if value is None else float(value) for value in stored)
