"""Results files with runs that moved β, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from featbank import Bank
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.results.store import Store

START, STEP = 0.5, 0.05


def walk(counts: Sequence[int], *, epochs: int, seed: int, tail: int = 100) -> np.ndarray:
    """β [epochs, K] float32 from `START` by ±`STEP`, upwards more often the smaller a class; NaN
    where a class has more than `tail` samples."""
    rng = np.random.default_rng(seed)
    n = np.asarray(counts)
    up = rng.random((epochs, len(n))) < 0.62 - 0.06 * np.log10(np.maximum(n, 1))
    beta = np.empty((epochs, len(n)), np.float32)
    beta[0] = START
    for epoch in range(1, epochs):
        moved = beta[epoch - 1] + np.where(up[epoch], STEP, -STEP)
        beta[epoch] = np.clip(moved, 0, 1)
    beta[:, n > tail] = np.nan
    return beta


def moved(recipe: Recipe, beta: np.ndarray | None, *, macro: float = 40.0) -> dict[str, Any]:
    """A run as the store takes it, with β [epochs, K] or without, and `macro` on val."""
    seen = Evaluation({**{name: macro for name in METRICS}}, np.zeros(6), np.zeros(42, dtype=bool))
    return {
        "recipe": recipe,
        "status": "done",
        "selected_epoch": 0,
        "curves": {},
        "seconds": 1.0,
        "device": "cpu",
        "versions": {},
        "evaluations": {("val", "last"): seen, ("val", "selected"): seen},
        "traces": {} if beta is None else {"beta": beta},
    }


def write(
    path: Path, runs: Sequence[dict[str, Any]], counts: Sequence[int], *, fingerprint: str = "ab12"
) -> str:
    """Add runs on a bank of these training counts to a results file; its fingerprint."""
    bank = SimpleNamespace(
        fingerprint=fingerprint.ljust(64, "0"),
        path=Path("bank.h5"),
        num_classes=len(counts),
        dim=8,
        class_names=None,
        train_counts=np.asarray(counts),
        full_counts=np.asarray(counts),
        cells=lambda split: None,
        source_groups=lambda split: None,
        outside_counts=None,
        background=None,
        class_fact=lambda name: None,
        seen=lambda split: np.zeros(42, bool),
        splits=("train", "val"),
        evaluated=("val",),
        views=("instance",),
        rows=lambda split: 42,
        labels=lambda split: np.arange(42) % len(counts),
        classifier=lambda view: (np.zeros((len(counts), 8)), np.zeros(len(counts))),
        norm=lambda view: None,
        default_scale=lambda view: None,
        from_test=lambda split: None,
        index=lambda split: np.arange(42),
        source=lambda split: split,
        provenance={},
    )
    with Store(path, create=True) as store:
        store.add_bank(cast(Bank, bank))
        store.add_runs(bank.fingerprint, runs)
    return bank.fingerprint
