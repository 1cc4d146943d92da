"""Results of a tiny sweep with names that would be harmful in a page that trusts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featbank import write_bank
from stage2.methods.recipe import expand
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.report.chromium import opened
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import problem

COUNTS = (150, 80, 40, 30, 22, 12, 8, 5)
HARMFUL = "</script><img src=x onerror=window.injected=1>"
GRID = {
    "crt": {"lr": [0.001, 0.01, 0.1, 0.5], "weight_decay": [0.0, 1e-4, 1e-2], "epochs": [3]},
    "mislas": {"epochs": [3], "smooth_tail": [0.0, 0.1]},
    "glag": {"epochs": [3], "lr": [0.1, 0.2]},
    "ce": {"epochs": [3]},
    "tau_norm": {"tau": [0.0, 0.5, 1.0]},
    "lda": {},
}


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 configurations of six recipes, two seeds; a class and the recipe ``lda`` are called
    `HARMFUL`."""
    folder = tmp_path_factory.mktemp("report")
    made = problem(COUNTS)
    features: dict[str, dict[str, object]] = {}
    for (split, view), rows in made.x.items():
        features.setdefault(split, {})[view] = rows
    names = [HARMFUL, "a&amp;b", "<b>bold</b>", *(f"class {k}" for k in range(3, len(COUNTS)))]
    classifier = {"instance": (made.w0, made.b0)}
    write_bank(folder / "b.h5", features, made.y, class_names=names, classifier=classifier)
    path = folder / "results.sqlite"
    sweep(folder / "b.h5", expand(GRID, seeds=(0, 1)), results=path)
    change(path, "UPDATE run SET name = ?, id = ? WHERE name = 'lda'", (HARMFUL, HARMFUL))
    return path


@pytest.fixture
def store(results: Path) -> Iterator[Store]:
    """The same, opened."""
    with Store(results) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window."""
    yield from opened(tmp_path_factory.mktemp("chromium"))
