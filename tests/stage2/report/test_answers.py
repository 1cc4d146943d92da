"""What the page says of the sweep as a whole: verdict, intervals, importance, time, environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stage2.report.answers import environment, intervals, verdict_data
from stage2.report.gathering import gather
from stage2.report.importance import LEAST, MOST_GROUPS, explained, importances
from stage2.results.compare import compare
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.verdict import verdict


def test_the_verdict_is_that_of_the_results(store: Store) -> None:
    """Reference: `verdict`; the command names the file without its folder."""
    results = Results(store)
    data, expected = verdict_data(results), verdict(results)
    assert tuple(data["lines"]) == expected.lines
    assert data["id"] == expected.id
    assert [gain["difference"] for gain in data["gains"]] == [
        gain.difference for gain in expected.gains
    ]
    assert data["command"].startswith("featbank export results.sqlite ")
    assert str(results.path.parent) not in data["command"]


def test_intervals_are_those_of_compare(store: Store) -> None:
    """Reference: `compare` of the same two, whose interval is of the same bootstrap."""
    results = Results(store)
    data = gather(results)["intervals"]
    assert data["id"] == results.ranking.order([*results.configurations])[0]
    names = {id_.rpartition("-")[0] for id_, *_ in data["differences"]}
    assert len(names) == len(data["differences"]) == 5, "the best of each other recipe"
    for id_, difference, low, high in data["differences"]:
        (pair,) = compare(results, [data["id"], id_]).comparisons
        macro = pair.measures["macro"]
        assert difference == pytest.approx(macro.difference, abs=6e-4)
        assert (low, high) == pytest.approx((macro.low, macro.high), abs=0.25)
    assert intervals(results, []) is None
    assert gather(results, condition="name=crt")["intervals"] is None, "one recipe"


def test_importance_is_explained_variance() -> None:
    """Reference: figures that are made of one setting alone, and figures that are noise."""
    random = np.random.default_rng(0)
    places = random.integers(0, 4, 2000)
    assert explained(places, places.astype(float)) == pytest.approx(1)
    signal = random.normal(0, 1, 4)[places]
    noise = random.normal(0, signal.std(), 2000)
    assert explained(places, signal + noise) == pytest.approx(0.5, abs=0.05)
    chance = [explained(random.integers(0, 4, 20), random.normal(size=20)) for _ in range(300)]
    assert np.mean([share for share in chance if share is not None]) < 0.06
    assert explained(np.arange(4), random.random(4)) is None, "no value occurs twice"
    assert explained(places, np.ones(2000)) == 0
    many = np.arange(2000) % 1000
    smooth = explained(many, many.astype(float))
    assert smooth == pytest.approx(1 - 1 / MOST_GROUPS**2, abs=0.01), "variance within a group"


def test_importance_by_recipe(store: Store) -> None:
    """Reference: one-way analysis of variance by SciPy, F = ε² in other words."""
    from scipy.stats import f_oneway

    results = Results(store)
    random = np.random.default_rng(1)
    rows: list[Any] = [
        {
            "name": row["name"],
            "parameters": row["parameters"],
            "selection": random.normal(row["parameters"].get("lr", 0), 0.2),
        }
        for row in results.board.first_rows()
    ]
    data = importances(rows)
    assert {name: each["configurations"] for name, each in data.items()} == {"crt": 12}
    crt = [row for row in rows if row["name"] == "crt"]
    assert len(crt) >= LEAST
    for name, share in data["crt"]["settings"]:
        groups: dict[object, list[float]] = {}
        for row in crt:
            groups.setdefault(row["parameters"][name], []).append(row["selection"])
        f, k, n = f_oneway(*groups.values()).statistic, len(groups), len(crt)
        expected = (k - 1) * (f - 1) / ((k - 1) * f + n - k)
        assert share == pytest.approx(100 * max(0, expected), abs=0.06)
    assert {name for name, _ in data["crt"]["settings"]} == {"lr", "weight_decay"}


def test_time_and_environment(store: Store) -> None:
    """Reference: the stored runs."""
    results = Results(store)
    data = gather(results)
    for row in data["rows"]:
        runs = results.configurations[row["id"]].runs
        assert row["seconds"] == pytest.approx(sum(run.seconds for run in runs), rel=0.01)
    (place,) = environment(results.tried)
    run = results.tried[0].runs[0]
    assert place["device"] == run.device
    assert place["versions"] == dict(run.versions)
    assert place["runs"] == sum(len(each.runs) for each in results.tried)
