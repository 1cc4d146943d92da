"""Exported heads on tokens: modules, files and ONNX, against the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from featbank import errors
from stage2.export.headfile import load_head, save_head
from stage2.export.modules import head_module
from stage2.export.onnxfile import save_onnx
from stage2.features.scale import Scaling
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_relative
from tests.stage2.export.test_export import facts_of
from tests.stage2.synthetic import Problem, problem, run

TOKENS = 5
SHORT = {"epochs": 3, "batch_size": 32, "lr": 0.3}
RECIPES = [
    Recipe("attentive", **SHORT),
    Recipe("attentive", queries=2, **SHORT),
    Recipe("attentive", queries=0, values=2, token_norm="layer", **SHORT),
    Recipe("pooled", **SHORT),
    Recipe("pooled", pool="max", **SHORT),
    Recipe("pooled", pool="gem", learn_power=True, **SHORT),
]


@pytest.fixture(scope="module")
def made() -> Problem:
    """Rows of T = 5 tokens of 4 features."""
    return replace(problem(dim=TOKENS * 4), tokens=TOKENS)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_a_module_has_the_logits_of_the_engine(
    recipe: Recipe, made: Problem, tmp_path: Path
) -> None:
    """Reference: `logits` of the trained parameters, on features as they were before scaling; the
    file gives the module back bit by bit."""
    (outcome,) = run([recipe], made).values()
    context = made.view().context
    x = torch.from_numpy(made.x["test", "instance"])
    stack = {name: value[None] for name, value in outcome.parameters.items()}
    expected = HEADS[recipe.head].logits(stack, context.batch(x))[:, 0]
    scaled = Scaling(torch.tensor([4.0]))
    for scaling, rows in ((None, x), (scaled, x / 4)):
        module = head_module(recipe, outcome.parameters, [context], [scaling])
        assert_relative(module(rows), expected, 1e-5, recipe.head)
        path = tmp_path / "head.safetensors"
        save_head(path, module, facts_of(recipe, made))
        assert torch.equal(load_head(path)(rows), module(rows))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_onnx_has_the_logits_of_the_module(recipe: Recipe, made: Problem, tmp_path: Path) -> None:
    """Reference: the module; ONNX Runtime, on other numbers of rows than it was traced with."""
    runtime = pytest.importorskip("onnxruntime")
    (outcome,) = run([recipe], made).values()
    module = head_module(recipe, outcome.parameters, [made.view().context], [None])
    save_onnx(tmp_path / "head.onnx", module, facts_of(recipe, made))
    session = runtime.InferenceSession(tmp_path / "head.onnx")
    x = made.x["test", "instance"]
    for rows in (x, x[:1]):
        (got,) = session.run(["logits"], {"features": rows})
        assert_relative(got, module(torch.from_numpy(rows)), 1e-5, recipe.head)


def test_a_file_whose_tokens_do_not_fit_is_refused(made: Problem, tmp_path: Path) -> None:
    """Reference: one line, and what it says."""
    recipe = RECIPES[0]
    (outcome,) = run([recipe], made).values()
    module = head_module(recipe, outcome.parameters, [made.view().context], [None])
    path = tmp_path / "head.safetensors"
    save_head(path, module, facts_of(recipe, made))
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["featbank-head"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["query"], tensors["weight"] = torch.zeros(1, 3), torch.zeros(6, 1, 3)
    save_file(tensors, path, {"featbank-head": json.dumps(told)})
    with pytest.raises(errors.ConfigError, match="tokens of 3 features do not divide D = 20"):
        load_head(path)
