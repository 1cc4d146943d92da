"""The data of a page on several banks: that of each, and the best of each recipe by bank."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from featbank import errors
from stage2.engine.metrics import RANKING
from stage2.report.gathering import TOP, gather, rounded
from stage2.report.heads import gather_heads
from stage2.results.joined import ByBank, Joined, by_bank
from stage2.results.leaderboard import Row
from stage2.results.results import Results


def gather_banks(
    banks: Sequence[Results],
    *,
    condition: str | None = None,
    top: int = TOP,
    title: str | None = None,
    heads: Sequence[str | os.PathLike[str]] = (),
    features: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Everything that the page shows: of one bank its own data, of several also their grid.

    Parameters
    ----------
    banks
        The results on one bank or more (`stage2.results.banks.banks_of`).
    condition, top, title
        As of `stage2.report.gathering.gather`; banks where nothing meets the condition are left
        out with a warning.
    heads, features
        Exported heads and the bank, as of `stage2.report.heads.gather_heads`; of one bank alone.

    Raises
    ------
    ConfigError
        As of `gather` and `gather_heads`, and for heads on a page of several banks.
    """
    if heads and len(banks) > 1:
        raise errors.ConfigError(
            f"--head is for a page of one bank, {len(banks)} are given. Choose it with --bank."
        )
    if features is not None and not heads:
        raise errors.ConfigError("--features is for exported heads. Add --head head.safetensors.")
    exported = gather_heads(banks[0], heads, features) if heads else {}
    if len(banks) > 1 and condition is not None:
        kept = Joined.of(banks).where(condition).boards
        banks = [bank for bank in banks if bank.name in kept]
    pages = [gather(bank, condition=condition, top=top, title=title) for bank in banks]
    if len(pages) == 1:
        return {**pages[0], **exported}
    joined = Joined.of(banks)
    grid = by_bank(joined.where(condition) if condition is not None else joined)
    return {"title": pages[0]["title"], "banks": pages, "grid": _grid(grid)}


_TABLES = ("leaderboard", "report")


def _grid(grid: ByBank) -> dict[str, Any]:
    """The best configuration of each recipe on each bank, by several metrics."""
    rows = [row for cells in grid.cells.values() for row in cells.values()]
    abouts = [board.terms.about for board in grid.joined.boards.values()]
    known = grid.joined.metrics
    metrics = [
        name
        for name, metric in known.items()
        if (name == RANKING or any(metric.is_in(at, about) for at in _TABLES for about in abouts))
        and any(row[name] is not None for row in rows)
    ]
    names = [*grid.joined.boards]
    return {
        "protocol": grid.joined.protocol,
        "split": next(iter(grid.joined.boards.values())).terms.split,
        "banks": names,
        "metrics": [
            {
                "key": name,
                "label": known[name].label,
                "tooltip": known[name].description,
                "less": known[name].lower_is_better,
                "decimals": known[name].decimals,
            }
            for name in metrics
        ],
        "metric": RANKING,
        "rows": [
            {"name": line, "cells": [_cell(cells.get(bank), metrics) for bank in names]}
            for line, cells in grid.cells.items()
        ],
    }


def _cell(row: Row | None, metrics: Sequence[str]) -> dict[str, Any] | None:
    """A configuration and its metrics as [mean, std over seeds]; None where there is none."""
    if row is None:
        return None
    values = {name: [rounded(row[name]), rounded(row[f"{name}_std"])] for name in metrics}
    return {"id": row["recipe"], "tied": bool(row["tied"]), "values": values}
