"""docs/recipes.md as it stands: its head and its generator can be swept."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from featbank.settings import Setting
from stage2.methods import recipe as recipes
from stage2.methods import recipe_settings
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from tests.conftest import ROOT
from tests.stage2.synthetic import Problem, problem, run

TEXT = (ROOT / "docs/recipes.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def _module(name: str, text: str) -> ModuleType:
    """A block of the page as a module."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(text, vars(module))
    return module


@contextmanager
def _registered(
    registry: dict[str, Any], setting: Setting, name: str, entry: object
) -> Iterator[None]:
    """An entry in a registry, and so among the choices of recipes."""
    before = setting.choices
    registry[name] = entry
    object.__setattr__(setting, "choices", (*before, name))
    try:
        yield
    finally:
        del registry[name]
        object.__setattr__(setting, "choices", before)


def test_the_head_of_the_page() -> None:
    """Reference: the contract; and every loss trains it beside the other heads."""
    file, check, _ = PYTHON
    module = _module("shift", file)
    exec(check, vars(module))
    made: Problem = problem()
    with _registered(HEADS, recipe_settings.HEAD, "shift", module.Shift()):
        steps = {"epochs": 3, "batch_size": 32}
        found = [
            recipes.Recipe("ce", head="shift", **steps),
            recipes.Recipe("balanced_softmax", head="shift", **steps),
            recipes.Recipe("ce", head="shift", optimiser="lbfgs"),
        ]
        for recipe, outcome in run(found, made).items():
            assert outcome.status == "done", f"{recipe}"
            assert outcome.parameters["bias"].abs().max() > 0, f"{recipe} learned nothing"


def test_the_generator_of_the_page() -> None:
    """Reference: the interface; heads train on it, and a class ends with as many rows as any."""
    module = _module("noisy", PYTHON[2])
    (setting,) = (s for s in recipe_settings.TRAINING if s.name == "generator")
    with _registered(GENERATORS, setting, "noisy", module.Noisy()):
        found = [
            recipes.Recipe("ce", head=head, generator="noisy", spread=0.2, epochs=3)
            for head in ("linear", "cosine")
        ]
        for recipe, outcome in run(found, problem()).items():
            assert outcome.status == "done", f"{recipe}"
