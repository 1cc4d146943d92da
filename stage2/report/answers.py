"""Answers of a sweep: the verdict, differences from the best, and where and how long it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from stage2.results.configurations import Configuration
from stage2.results.leaderboard import Row
from stage2.results.results import Results
from stage2.results.verdict import paired_gain, shown_rows, verdict

MOST = 16
"""Recipes that are compared with the best."""


def verdict_data(results: Results) -> dict[str, Any]:
    """The verdict: its lines, its gains over the baselines, and the next command, with the name of
    the results file alone."""
    of = verdict(results)
    command = of.next_command.replace(str(results.path), results.path.name)
    return {
        "lines": list(of.lines),
        "command": command,
        "id": of.id,
        "gains": [asdict(gain) for gain in of.gains],
    }


def intervals(results: Results, done: Sequence[Row]) -> dict[str, Any] | None:
    """Paired differences in macro accuracy from the best configuration on the split shown.

    Parameters
    ----------
    results
        The results on a bank.
    done
        Rows of configurations that are done, best first.

    Returns
    -------
    The id of the best, and of the best of each other recipe [id, difference, low, high] in points;
    None where rows cannot be compared, or there is one recipe.
    """
    first: dict[str, Row] = {}
    for row in done:
        first.setdefault(row["name"], row)
    if len(first) < 2:
        return None
    best, *others = list(first.values())[: MOST + 1]
    rows = shown_rows(results)
    if rows is None:
        return None
    differences = []
    for other in others:
        if measure := paired_gain(results, other, best, rows):
            numbers = (measure.difference, measure.low, measure.high)
            differences.append([other["recipe"], *(round(number, 3) for number in numbers)])
    return {"id": best["recipe"], "differences": differences} if differences else None


def environment(configurations: Iterable[Configuration]) -> list[dict[str, Any]]:
    """The devices and versions of libraries that runs took place with, most runs first, and their
    number."""
    places: Counter[tuple[Any, ...]] = Counter()
    for configuration in configurations:
        for run in configuration.runs:
            places[run.device, tuple(sorted(run.versions.items()))] += 1
    return [
        {"device": device, "versions": dict(versions), "runs": runs}
        for (device, versions), runs in places.most_common()
    ]
