"""A results file of four small banks: what the tests of several banks share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from featbank import write_bank
from stage2.methods.recipe import Recipe, expand
from stage2.sweep import sweep
from tests.stage2.synthetic import Problem, problem

STEEP = (120, 30, 15, 10, 6, 4)
"""Training counts of the bank ``steep``; many, medium and few are other classes there."""


def write(folder: Path) -> Path:
    """``r.sqlite``, and its banks beside it, in this order.

    - ``r32``: the small problem;
    - ``ResNet-50``, a label, in ``r50.h5``: the same rows with other features;
    - ``steep``: other training counts, and other rows of test;
    - ``four``: four classes alone.
    """
    small = problem()
    noise = np.random.default_rng(0)
    noisy = {key: x + noise.normal(size=x.shape).astype(np.float32) for key, x in small.x.items()}
    steep, four = problem(STEEP, seed=3), problem((40, 30, 20, 10), seed=4)
    rows = np.arange(len(steep.y["test"])) + 7
    put(small, folder / "r32.h5")
    put(dataclasses.replace(small, x=noisy), folder / "r50.h5", provenance={"label": "ResNet-50"})
    put(steep, folder / "steep.h5", index={"test": rows})
    put(four, folder / "four.h5")
    recipes = expand({"crt": {"lr": [0.05, 0.2], "epochs": [3]}}, seeds=(0, 1))
    for name in ("r32", "r50", "steep", "four"):
        more = [Recipe("tau_norm"), Recipe("ncm")][: 1 if name == "steep" else 2]
        sweep(folder / f"{name}.h5", [*recipes, *more], results=folder / "r.sqlite")
    return folder / "r.sqlite"


def put(made: Problem, path: Path, **options: Any) -> Path:
    """Write a problem as a bank."""
    features: dict[str, dict[str, np.ndarray]] = {}
    for (split, view), x in made.x.items():
        features.setdefault(split, {})[view] = x
    names = [f"class {k}" for k in range(len(made.w0))]
    write_bank(
        path,
        features,
        made.y,
        **{"class_names": names, "classifier": {"instance": (made.w0, made.b0)}, **options},
    )
    return path
