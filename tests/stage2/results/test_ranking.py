"""Ties within rounding stand by name, whatever the last digits are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.engine.metrics import METRICS
from stage2.results.ranking import in_order


def order(values: dict[str, float | None], **options: object) -> list[str]:
    """The names of `values` in order."""
    return in_order(values, values.__getitem__, str, **options)  # type: ignore[arg-type]


def test_best_first_and_missing_last() -> None:
    """Reference: by hand."""
    values = {"a": 40.0, "c": None, "d": 41.0, "b": None, "e": 39.0}
    assert order(values) == ["d", "a", "e", "b", "c"]
    assert order(values, ascending=True) == ["e", "a", "d", "b", "c"]


def test_ties_within_rounding_stand_by_name() -> None:
    """Reference: by hand: b and a are one figure, c is another; a chain of small steps is no tie,
    or the first of a fine grid could be far from the best."""
    assert order({"b": 46.70003, "a": 46.7, "c": 46.705}) == ["c", "a", "b"]
    assert order({"c": 3.0, "b": 2.9992, "a": 2.9984, "d": 2.99}) == ["b", "c", "a", "d"]
    fine = {f"{i:03}": 2.2576 + 5e-5 * (i - 60) ** 2 / 60 for i in range(120)}
    assert fine[order(fine, ascending=True, tie=1e-4)[0]] <= 2.2576 + 1e-4
    assert order({"c": 3.0, "b": 3.002, "a": 3.004}) == ["a", "b", "c"]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_another_machine_makes_the_same_table(steps: list[int], noise: random.Random) -> None:
    """Figures a row's weight apart, each with noise of 3e-5 from another thread number: same order,
    from whatever order they come in."""
    values = {f"recipe-{i}": 50 + 0.01 * step for i, step in enumerate(steps)}
    moved = {name: value + noise.uniform(-3e-5, 3e-5) for name, value in values.items()}
    shuffled = list(moved.items())
    noise.shuffle(shuffled)
    assert order(values) == order(dict(shuffled))


@pytest.mark.parametrize(
    ("metric", "tie"),
    [("ece", 1e-3), ("macro", 1e-3), ("nll", 1e-4), ("brier", 1e-4)],
)
def test_what_is_in_percent_has_the_wider_tie(metric: str, tie: float) -> None:
    """0.001 points of a percentage, 0.0001 of what is not one."""
    assert METRICS[metric].tie == tie
