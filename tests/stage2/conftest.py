"""What the stage-2 tests share: a small long-tailed problem and its bank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featbank import Bank
from tests.stage2.results.several import write
from tests.stage2.synthetic import Problem, problem


@pytest.fixture(scope="session")
def small() -> Problem:
    """Six classes with 70…4 rows, D = 8, val and test, both views, a stage-1 classifier."""
    return problem()


@pytest.fixture(scope="session")
def without_val() -> Problem:
    """The same without a val split."""
    return problem(val=0)


@pytest.fixture
def bank(small: Problem, tmp_path: Path) -> Iterator[Bank]:
    """The small problem as a bank."""
    with small.bank(tmp_path / "bank.h5") as opened:
        yield opened


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file of four banks; do not write to it."""
    return write(tmp_path_factory.mktemp("several"))
