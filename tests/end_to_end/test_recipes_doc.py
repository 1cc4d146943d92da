"""docs/recipes.md as it stands: its commands run, its head keeps the contract and can be swept."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from stage2.methods import recipe as recipes
from stage2.methods.heads import HEADS
from stage2.methods.sources import SOURCES
from tests.conftest import ROOT, Run, Toy
from tests.stage2.synthetic import Problem, problem, run

TEXT = (ROOT / "docs/recipes.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(command: str, featbank: Run, make_toy: Callable[..., Toy]) -> None:
    """Reference: the page; the bank has val, two views and a classifier."""
    make_toy().write(Path("bank.h5"))
    name, *arguments = shlex.split(command)
    assert name == "featbank"
    assert featbank(*arguments).stdout


@contextmanager
def _registered(name: str, head: object) -> Iterator[None]:
    """A head in the registry, and so among the choices of recipes."""
    HEADS[name] = head  # type: ignore[assignment]
    SOURCES["you"] = "you"
    choices = recipes.HEAD
    object.__setattr__(choices, "choices", tuple(HEADS))
    try:
        yield
    finally:
        del HEADS[name], SOURCES["you"]
        object.__setattr__(choices, "choices", tuple(HEADS))


def test_the_head_of_the_page() -> None:
    """Reference: the contract; and every loss trains it beside the other heads."""
    file, check = (text for kind, text in BLOCKS if kind == "python")
    module = ModuleType("shift")
    sys.modules["shift"] = module
    exec(file, vars(module))
    exec(check, vars(module))
    made: Problem = problem()
    with _registered("shift", module.Shift()):
        steps = {"epochs": 3, "batch_size": 32}
        found = [
            recipes.Recipe("ce", head="shift", **steps),
            recipes.Recipe("balanced_softmax", head="shift", **steps),
            recipes.Recipe("ce", head="shift", optimiser="lbfgs"),
        ]
        for recipe, outcome in run(found, made).items():
            assert outcome.status == "done", f"{recipe}"
            assert outcome.parameters["bias"].abs().max() > 0, f"{recipe} learned nothing"
