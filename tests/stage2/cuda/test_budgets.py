"""Bytes, FLOPs, launches and memory of a step at full size stay within a committed table."""

from __future__ import annotations

import json

import pytest

from tests.stage2.cuda.budgets import CASES, TABLE, row
from tests.stage2.cuda.running import TRITON

pytestmark = pytest.mark.skipif(not TRITON, reason="no Triton")

SLACK = 1.03
"""Growth of a number that is let pass."""

BUDGETS = json.loads(TABLE.read_text())
ANEW = "run python -m tests.stage2.cuda.budgets if that is meant"


@pytest.mark.parametrize("case", CASES)
def test_a_step_keeps_to_its_budget(case: str) -> None:
    """Reference: the table."""
    allowed, got = BUDGETS.get(case), row(CASES[case])
    assert allowed is not None, f"{case}: {ANEW}"
    assert got["gflop"].keys() <= allowed["gflop"].keys(), f"{case}: {got['gflop']}, {ANEW}"
    for name in ("moved_mb", "launches", "peak_mb"):
        message = f"{case}: {name} {got[name]}, {allowed[name]} before: {ANEW}"
        assert got[name] <= SLACK * allowed[name], message
    for precision, number in got["gflop"].items():
        before = allowed["gflop"][precision]
        assert number <= SLACK * before, f"{case}: {number} GFLOP, {before} before: {ANEW}"


def test_the_table_has_no_row_too_many() -> None:
    """Reference: the cases."""
    assert BUDGETS.keys() == CASES.keys()
