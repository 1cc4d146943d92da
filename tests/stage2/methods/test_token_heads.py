"""Heads that pool tokens, against `reference.py` and float64 autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from stage2.engine.plan import Shape
from stage2.methods.heads import HEADS, Context, Parameters, TokenHead, tokens
from stage2.methods.precision import precision
from stage2.methods.precisions import PRECISIONS
from stage2.methods.recipe import Recipe
from stage2.testing import check_head
from tests.stage2 import reference
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import Problem, problem, run

TOKENS, DIM, ROWS = 5, 4, 23
ATTENTIVE: list[dict[str, Any]] = [
    {"queries": 1, "values": 0, "token_norm": "none"},
    {"queries": 3, "values": 0, "token_norm": "none"},
    {"queries": 0, "values": 2, "token_norm": "layer"},
    {"queries": 2, "values": 1, "token_norm": "none"},
    {"queries": 1, "values": 0, "token_norm": "layer"},
]
POOLED: list[dict[str, Any]] = [
    {"pool": "mean"},
    {"pool": "max"},
    {"pool": "gem", "gem_power": 3.0, "learn_power": True},
    {"pool": "gem", "gem_power": 1.5, "learn_power": False},
]
CASES = [("attentive", case) for case in ATTENTIVE] + [("pooled", case) for case in POOLED]
FORMULAS = {"attentive": reference.attentive, "pooled": reference.pooled}
CONSTANT = ("layer", "largest")
EACH = pytest.mark.parametrize(("name", "case"), CASES)


def _made(tokens: int | None = TOKENS, **options: Any) -> Problem:
    made = problem(**{"dim": (tokens or 1) * DIM, "seed": 2, **options})
    return replace(made, tokens=tokens)


def _head(name: str) -> TokenHead:
    head = HEADS[name]
    assert isinstance(head, TokenHead)
    return head


def _settings(name: str, case: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    return {**{s.name: s.default for s in HEADS[name].settings}, **case, "seed": seed}


def _moved(name: str, case: dict[str, Any], context: Context, configs: int = 3) -> Parameters:
    """A stack of starts, moved at random but for constants."""
    generator = torch.Generator().manual_seed(7)
    start = _head(name).init([_settings(name, case, c) for c in range(configs)], context)
    return {
        key: value
        if key in CONSTANT
        else value + 0.3 * torch.rand(value.shape, generator=generator)
        for key, value in start.items()
    }


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _rows(made: Problem) -> Tensor:
    return torch.from_numpy(made.x["train", "instance"])[:ROWS]


@EACH
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_and_gradients(
    name: str, case: dict[str, Any], own: bool, dtype: torch.dtype
) -> None:
    """Reference: the formulas under float64 autograd, one configuration after the other, on shared
    features and on each configuration's own."""
    made = _made()
    context, head = made.view().context, _head(name)
    parameters = {k: v.to(dtype) for k, v in _moved(name, case, context).items()}
    configs, classes = len(parameters["bias"]), len(made.counts)
    x = _random(ROWS, configs, context.dim) if own else _rows(made)
    grad = _random(ROWS, configs, classes, seed=3)
    batch = context.batch(x.to(dtype))
    z = head.logits(parameters, batch)
    found = head.gradients(parameters, batch, grad.to(dtype))
    within = 1e-5 if dtype == torch.float32 else 1e-11
    for c in range(configs):
        p = {k: v[c].double().requires_grad_(k not in CONSTANT) for k, v in parameters.items()}
        of = x[:, c] if own else x
        expected = FORMULAS[name](p, of.double().view(ROWS, TOKENS, DIM))
        assert_relative(z[:, c], expected, within, f"logits of {name} {case}")
        (expected * grad[:, c]).sum().backward()
        for key, value in found.items():
            near = 100 if key == "power" else 1  # a sum whose terms nearly cancel
            assert_relative(value[c], p[key].grad, near * within, f"∂L/∂{key} of {name} {case}")
    assert found.keys() == parameters.keys() - set(CONSTANT)


@EACH
def test_the_contract(name: str, case: dict[str, Any]) -> None:
    """Reference: `check_head`."""
    check_head(HEADS[name], case)


@EACH
def test_a_view_of_rows_is_one_token(name: str, case: dict[str, Any]) -> None:
    """Reference: the formulas on T = 1."""
    made = _made(None)
    context = made.view().context
    parameters = _moved(name, case, context)
    z = _head(name).logits(parameters, context.batch(_rows(made)))
    for c in range(z.shape[1]):
        p = {k: v[c].double() for k, v in parameters.items()}
        expected = FORMULAS[name](p, _rows(made).double()[:, None])
        assert_relative(z[:, c], expected, 1e-5, f"{name} {case}")


@EACH
def test_pieces_are_the_whole(
    name: str, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the batch at once; of rows by index and of features as they are."""
    made = _made()
    context, head = made.view().context, _head(name)
    parameters = _moved(name, case, context)
    x, y = torch.from_numpy(made.x["train", "instance"]), torch.from_numpy(made.y["train"])
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:50]
    grad = _random(50, 3, len(made.counts))
    results = []
    for room in (tokens.PIECE_BYTES, 4 * 7 * 400, 1):
        monkeypatch.setattr(tokens, "PIECE_BYTES", room)
        for batch in (context.batch(x, index), context.batch(x[index])):
            z = head.logits(parameters, batch)
            cosines = head.cosine(parameters, batch, z, y[index])
            results.append((z, cosines, head.gradients(parameters, batch, grad)))
    (z0, cosines0, found0), *others = results
    for z, cosines, found in others:
        assert_relative(z, z0, 1e-5, "logits")
        assert_close(cosines, cosines0, 1e-5, "cosines")
        for key, value in found.items():
            assert_relative(value, found0[key], 1e-5, key)


@EACH
def test_gradients_follow_parameters_that_moved(name: str, case: dict[str, Any]) -> None:
    """Reference: another batch object; what is kept between logits and gradients is of the
    parameters as they are, also after a step in place."""
    made = _made()
    context, head = made.view().context, _head(name)
    parameters = _moved(name, case, context)
    batch, grad = context.batch(_rows(made)), _random(ROWS, 3, len(made.counts))
    head.logits(parameters, batch)
    for key, value in parameters.items():
        if key not in CONSTANT:
            value.mul_(1.5)
    expected = head.gradients(parameters, context.batch(_rows(made)), grad)
    for key, value in head.gradients(parameters, batch, grad).items():
        assert torch.equal(value, expected[key]), key
    assert torch.equal(batch.x, _rows(made)), "features were changed"


@EACH
def test_alone_is_in_company(name: str, case: dict[str, Any]) -> None:
    """Reference: each recipe's own run; learning rates, seeds, and a bound on ‖w_k‖."""
    made = _made(val=4)
    short = {"epochs": 3, "batch_size": 32, "head": name, **case}
    recipes = [
        Recipe("ce", **short, lr=lr, seed=seed, max_norm=bound)
        for lr, seed, bound in ((0.1, 0, None), (0.1, 1, None), (0.5, 0, 0.4), (0.02, 0, 0.6))
    ]
    together = run(recipes, made)
    for recipe in recipes:
        (alone,) = run([recipe], made).values()
        for key, value in alone.parameters.items():
            assert_close(together[recipe].parameters[key], value, 1e-4, f"{key} of {recipe}")
        bound = recipe.settings["max_norm"]
        if bound:
            assert float(alone.parameters["weight"].norm(dim=1).max()) <= bound * (1 + 1e-5)


def test_attention_finds_the_token_that_tells() -> None:
    """Reference: the accuracy of the mean of all tokens, on rows whose class is in one of them,
    which a mark tells from the others."""
    rng = np.random.default_rng(0)
    made = _made(val=0, counts=(60, 60, 60), test=60)
    for split in ("train", "test"):
        y = made.y[split]
        x = rng.normal(0, 1, (len(y), TOKENS, DIM))
        x[:, :, 3] = -2
        at = rng.integers(0, TOKENS, len(y))
        x[np.arange(len(y)), at, :3] = 1.2 * np.eye(3)[y] + 0.3 * rng.normal(0, 1, (len(y), 3))
        x[np.arange(len(y)), at, 3] = 2
        made.x[split, "instance"] = x.reshape(len(y), -1).astype(np.float32)
    common = {"epochs": 60, "batch_size": 36, "lr": 0.5}
    top1 = {
        name: run([Recipe("ce", head=name, **common)], made) for name in ("attentive", "pooled")
    }
    found = {
        name: next(iter(outcomes.values())).evaluations["test", "last"].metrics["top1"]
        for name, outcomes in top1.items()
    }
    assert found["attentive"] is not None
    assert found["pooled"] is not None
    assert found["attentive"] > found["pooled"] + 15, f"got {found}"


@pytest.mark.parametrize("which", PRECISIONS)
def test_precision_of_the_products(which: str) -> None:
    """Reference: float64, within the bits of the format."""
    made = _made()
    context, head = made.view().context, _head("attentive")
    parameters = _moved("attentive", ATTENTIVE[3], context)
    with precision(which):
        z = head.logits(parameters, context.batch(_rows(made)))
    double = {k: v.double() for k, v in parameters.items()}
    expected = head.logits(double, context.batch(_rows(made).double()))
    within = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 6e-2}[which]
    assert_relative(z, expected, within, which)
    if which != "fp32":
        assert float((z - expected).abs().max()) > 1e-5, "nothing was rounded"


def test_starts() -> None:
    """Reference: N(0, 0.02²) and U(±1/√in) by SciPy's Kolmogorov–Smirnov test; seeds."""
    made = _made(4, dim=400)
    context = made.view().context
    case = {"queries": 20, "values": 2, "token_norm": "none"}
    start = _head("attentive").init([_settings("attentive", case, s) for s in (0, 1, 0)], context)
    assert start["query"].shape == (3, 20, 100)
    assert start["value"].shape == (3, 20, 10, 100)
    assert start["weight"].shape == (3, 6, 200)
    for key, scale in (("value", 1 / 10), ("weight", 1 / np.sqrt(200))):
        uniform = stats.uniform(-scale, 2 * scale).cdf
        assert stats.kstest(start[key][:2].flatten().numpy(), uniform).pvalue > 1e-3, key
    normal = stats.norm(0, 0.02).cdf
    assert stats.kstest(start["query"][:2].flatten().numpy(), normal).pvalue > 1e-3
    for value in start.values():
        assert torch.equal(value[0], value[2])
        assert not torch.equal(value[0], value[1])


@EACH
def test_the_size_is_that_of_the_parameters(name: str, case: dict[str, Any]) -> None:
    """Reference: what `init` makes, without biases and constants; T changes what a row takes."""
    made = _made()
    head, settings = _head(name), _settings(name, case)
    start = head.init([settings], made.view().context)
    numbers = sum(start[key].numel() for key in ("query", "value", "weight") if key in start)
    size = head.size(settings, TOKENS * DIM, len(made.counts), TOKENS)
    assert size.parameters == numbers
    recipe = Recipe("ce", head=name, **case)
    assert Shape.of(made.counts, TOKENS * DIM, TOKENS).size(recipe) == size


def test_hostile_features() -> None:
    """Reference: float64; tokens of one value, huge ones, an offset, zeros."""
    made = _made()
    context, head = made.view().context, _head("attentive")
    for case in (ATTENTIVE[0], ATTENTIVE[4]):
        parameters = _moved("attentive", case, context)
        for x in (
            torch.zeros(3, context.dim),
            torch.full((3, context.dim), 7.0),
            _random(3, context.dim) * 1e4,
            _random(3, context.dim) + 1e3,
        ):
            z = head.logits(parameters, context.batch(x))
            slopes = head.gradients(parameters, context.batch(x), torch.ones_like(z))
            double = {k: v.double() for k, v in parameters.items()}
            expected = head.logits(double, context.batch(x.double()))
            assert all(bool(value.isfinite().all()) for value in slopes.values())
            assert_relative(z, expected, 2e-3, f"{case}")
