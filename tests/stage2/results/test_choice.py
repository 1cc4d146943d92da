"""Which configurations a picture shows, over which settings, and the confusions of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import errors
from stage2.methods.recipe import Recipe
from stage2.plots.confusion import confused
from stage2.results.choice import choose
from stage2.results.grids import best_of_each, grids, varied
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.compare import assert_close
from tests.stage2.results.trajectories import moved, write

COUNTS = (300, 60, 5)
MACROS = {
    Recipe("crt", lr=0.1): 50.0,
    Recipe("crt", lr=0.2): 60.0,
    Recipe("crt", lr=0.4): 40.0,
    Recipe("crt-cifar", lr=0.2): 55.0,
    Recipe("lws", lr=0.1): 45.0,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three recipes, one with three configurations, and one that diverged."""
    runs = [moved(recipe, None, macro=macro) for recipe, macro in MACROS.items()]
    broken = {**moved(Recipe("ncm"), None), "status": "diverged", "evaluations": {}}
    write(tmp_path / "r.sqlite", [*runs, broken], COUNTS)
    with Store(tmp_path / "r.sqlite") as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["crt", "crt-cifar", "lws"]),
        ({"recipes": ["lws", "crt"]}, ["crt", "lws"]),
        ({"recipes": ["crt"], "best": False}, ["crt lr=0.2", "crt lr=0.1", "crt lr=0.4"]),
        ({"recipes": ["crt-", "crt"]}, None),
        ({"having": lambda own, row: own.name == "lws"}, ["lws"]),
    ],
)
def test_the_best_first(options: dict[str, Any], labels: list[str] | None, store: Store) -> None:
    """Reference: the macro accuracies that were stored, by hand; what diverged is left out."""
    choice = choose(Results(store), **options)
    macros = [row["selection"] for row in choice.rows]
    assert macros == sorted(macros, reverse=True)
    if labels:
        assert [each.label for each in choice.shown] == labels
    else:  # an id's beginning: all that begin so, each once
        assert sorted(macros) == [40.0, 50.0, 55.0, 60.0]


def test_more_than_there_is_room_for(store: Store) -> None:
    """Reference: the best two; the warning names the third."""
    lws = next(recipe for recipe in MACROS if recipe.name == "lws").id
    with pytest.warns(UserWarning, match=f"2 of 3 .* the best on val. Left out: {lws}. Choose"):
        choice = choose(Results(store), most=2)
    assert [each.label for each in choice.shown] == ["crt", "crt-cifar"]
    assert choice.protocol() == (
        "val, selected epoch · bank ab1200000000 · features as they are · "
        "selected on val (macro accuracy) · 6 configurations tried · seed 0 · "
        "by NLL,T within one standard error · val: 14 rows per class, unseen by stage 1 · "
        "46 configurations × epochs · "
        "best 0.0 on val, 0.0 corrected for choosing · 4 of 4 others tie with it"
    )


def test_what_is_not_there(store: Store) -> None:
    """Reference: one ConfigError with a remedy."""
    with pytest.raises(errors.ConfigError, match="no configuration 'lsw'. Did you mean 'lws'?"):
        choose(Results(store), recipes=["lsw"])
    with pytest.raises(errors.ConfigError, match="Every configuration asked for in .* diverged"):
        choose(Results(store), recipes=["ncm"])


def test_grids() -> None:
    """Reference: by hand; of several rows with the same values the first one counts."""
    rows: list[dict[str, Any]] = [
        {"name": "a", "parameters": {"x": 2, "y": "u", "z": 1}},
        {"name": "a", "parameters": {"x": 1, "y": "u", "z": 1}},
        {"name": "a", "parameters": {"x": 1, "y": "u", "z": 2}},
        {"name": "a", "parameters": {"x": 10, "y": None, "z": 1}},
        {"name": "b", "parameters": {"x": 1, "y": "u"}},
        {"name": "b", "parameters": {"x": 2, "y": "u"}},
    ]
    assert varied(rows[:4]) == {"x": [1, 2, 10], "y": [None, "u"], "z": [1, 2]}
    best = best_of_each(rows[:4], ["x"])
    assert best == {(2,): rows[0], (1,): rows[1], (10,): rows[3]}
    two, one = grids(rows, 1)
    assert (two.recipe, two.settings, two.values, two.tried) == ("a", ("x",), ([1, 2, 10],), 4)
    assert (one.recipe, one.values) == ("b", ([1, 2],))
    (grid,) = grids(rows, 2, by=["z"])
    assert (grid.settings, len(grid.best)) == (("z", "x"), 4)
    assert grids(rows[4:], 2) == []
    with pytest.raises(errors.ConfigError, match="No recipe varies 'w'"):
        grids(rows, 1, by=["w"])


def test_confused() -> None:
    """Reference: by hand; the pair that would bring a fourth class is left out, a later one that
    brings none is in the matrix."""
    pairs = np.array([[2, 0, 8], [1, 2, 6], [3, 0, 5], [0, 2, 2]])
    accuracy = np.array([90.0, 40.0, 20.0, 50.0])
    rows, counts = np.array([20, 10, 10, 10]), np.array([5, 50, 100, 7])
    classes, matrix = confused(pairs, accuracy, rows, counts, 3)
    assert classes.tolist() == [2, 1, 0], "most training samples first"
    nan = np.nan
    wanted = np.array([[20, nan, 80], [60, 40, nan], [10, nan, 90]])
    assert_close(np.nan_to_num(matrix, nan=-1), np.nan_to_num(wanted, nan=-1), 1e-12, "matrix")
