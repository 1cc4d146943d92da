"""The compiled pass against PyTorch, its oracle, on every instruction set of the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stage2.engine.native import build
from stage2.engine.native.compiled import HEADS as COMPILED
from stage2.engine.native.compiled import KERNELS
from stage2.engine.native.library import SWITCH, Library, Missing, description, library
from stage2.engine.native.measuring import measured
from stage2.engine.outcome import Outcome
from stage2.engine.shifting import ShiftTally
from stage2.engine.tally import _softmax_sums, label_rank
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from tests.stage2.cases import HEAD_CASES, LOSS_CASES
from tests.stage2.compare import assert_close, difference
from tests.stage2.synthetic import Problem, problem, run

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")

SETS = build.sets_of_this_processor() if build.compiler() else []
WITHIN = 2e-5
"""Allowed difference of parameters and losses, relative to the largest entry, or to 0.01."""

ODD = problem((140, 47, 31, 23, 12, 9, 5, 3, 2), dim=18, seed=2)
"""No size of it is a multiple of a vector's."""

OPTIMISERS: list[dict[str, Any]] = [
    {"optimiser": "sgd", "momentum": 0.9},
    {"optimiser": "sgd", "nesterov": True, "decay_bias": False},
    {"optimiser": "adamw", "lr": 0.01},
]
MORE_HEADS: list[dict[str, Any]] = [
    {"head": "linear", "max_norm": 0.7},
    {"head": "linear", "max_norm": 0.7, "max_norm_when": "epoch"},
    {"head": "cosine", "learn_scale": True, "max_norm": 0.5},
    {"head": "mislas", "decay": "delta", "retention": 0.5},
    {"head": "disalign", "form": "eq5"},
    {"head": "disalign", "confidence": "off"},
    {"head": "disalign", "learn": "margin"},
    {"head": "tde", "heads": 1},
    {"head": "tde", "heads": 6, "max_norm": 0.6},
    {"head": "mlp", "hidden": 37, "max_norm": 0.7},
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


@contextmanager
def trained_by(which: str) -> Iterator[None]:
    """Take the pass of an instruction set, or ``off`` for PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, which)
        library.cache_clear()
        yield
    library.cache_clear()


def outcomes(recipes: list[Recipe], which: str, made: Problem = ODD, **options: Any) -> Any:
    """Outcomes by recipe; the pass is used wherever it can be."""
    with trained_by(which):
        assert isinstance(library(), Missing if which == "off" else Library)
        return run(recipes, made, **options)


def assert_alike(got: Outcome, expected: Outcome, within: float = WITHIN) -> None:
    """Parameters and the losses of epochs; Adam divides by what may be little but rounding."""
    within *= 5 if expected.recipe.settings["optimiser"] == "adamw" else 1
    for name, value in expected.parameters.items():
        size = max(0.01, float(value.abs().max()))  # the rounding of a step counts for small ones
        assert_close(got.parameters[name], value, within * size, f"{name} of {expected.recipe}")
    losses = got.curves["loss"], expected.curves["loss"]
    assert_close(*losses, within * max(1.0, *losses[1]), f"{expected.recipe}")


def _recipes() -> list[Recipe]:
    """Every head × every case of every loss, under an optimiser in turn."""
    common = {"epochs": 5, "batch_size": 37, "lr": 0.05, "weight_decay": 1e-3}
    compiled = [h for h in HEAD_CASES if type(HEADS[h]) in COMPILED]
    heads = [{"head": h, **case} for h in compiled for case in HEAD_CASES[h]]
    native = [loss for loss in LOSS_CASES if LOSSES[loss].kernel in KERNELS]
    losses = [(loss, case) for loss in native for case in LOSS_CASES[loss]]
    made = []
    for head in [*heads, *MORE_HEADS]:
        for i, (loss, case) in enumerate(losses):
            own_scale = head["head"] in ("cosine", "tde")  # that a margin follows
            at_loss = {f"loss.{k}": v for k, v in case.items() if k != "scale" or own_scale}
            at_head = {f"head.{k}": v for k, v in head.items() if k != "head"}
            settings = {**common, **OPTIMISERS[i % 3], **at_head, **at_loss}
            made.append(Recipe("crt", head=head["head"], loss=loss, **settings))
    return made


BY_PYTORCH = {"marc", "vmf", "etf", "samn"}


def test_it_has_every_trained_head_and_kernel() -> None:
    """Reference: the registries; PyTorch trains heads of tokens and on text, and `BY_PYTORCH`."""
    trained = {
        name
        for name, head in HEADS.items()
        if head.trained and not (head.takes_tokens or head.needs_text)
    }
    assert {type(HEADS[name]) for name in trained - BY_PYTORCH} == set(COMPILED)
    kernels = {loss.kernel for loss in LOSSES.values()} - set(KERNELS)
    assert kernels == {"dot_regression", "lade", "clouded"}


@cache
def _by_pytorch() -> dict[Recipe, Outcome]:
    """Every head × every case of every loss."""
    return outcomes(_recipes(), "off")


@pytest.mark.parametrize("which", SETS)
def test_every_head_loss_and_optimiser(which: str) -> None:
    """Reference: the same recipes by PyTorch; all of them on the best instruction set, a quarter
    on the others, in which each part occurs."""
    recipes = _recipes()
    if which != SETS[0]:
        drawn = np.random.default_rng(0).permutation(len(recipes))[: len(recipes) // 4]
        recipes = [recipes[i] for i in drawn]
    for parts in ("head", "loss", "optimiser"):
        assert {r.settings[parts] for r in recipes} == {r.settings[parts] for r in _recipes()}
    got = outcomes(recipes, which)
    for recipe in recipes:
        assert_alike(got[recipe], _by_pytorch()[recipe])


def test_rows_with_two_labels() -> None:
    """Reference: PyTorch, on rows mixed by the generator."""
    recipes = [
        Recipe(name, generator="mixup", epochs=3, batch_size=30, lr=0.05)
        for name in ("crt", "balanced_softmax", "los", "mislas", "lws", "cb_bce")
    ]
    recipes.append(Recipe("crt", generator="mixup", loss="weighted", epochs=3, batch_size=30))
    expected, got = outcomes(recipes, "off"), outcomes(recipes, SETS[0])
    for recipe in recipes:
        assert_alike(got[recipe], expected[recipe])


@pytest.mark.filterwarnings("ignore:Generator 'afg'")
def test_features_of_each_configuration() -> None:
    """Reference: PyTorch, on rows made with a β of each one's own; and each recipe alone."""
    made = problem((60, 25, 9, 4, 2), dim=18, seed=3)
    settings = {"epochs": 4, "batch_size": 37, "beta_step": 0.1}
    betas = [{"generator.beta": beta} for beta in (0.2, 0.4, 0.6)]
    recipes = [
        Recipe("glag", **settings, **beta, **optimiser)
        for optimiser in ({}, {"optimiser": "adamw", "lr": 0.01}, {"head": "lws"})
        for beta in betas
    ]
    expected, got = outcomes(recipes, "off", made), outcomes(recipes, SETS[0], made)
    for recipe in recipes:
        assert_alike(got[recipe], expected[recipe])
        (alone,) = outcomes([recipe], SETS[0], made).values()
        for name, value in alone.parameters.items():
            assert torch.equal(got[recipe].parameters[name], value), f"{name} of {recipe}"


def test_classes_that_are_packed_in_parts() -> None:
    """Reference: PyTorch, at a size of which only some classes fit at once."""
    wide = problem((30, 12) + (3,) * 70, dim=1030, val=0, test=1)
    recipes = [
        Recipe("crt", head=head, epochs=2, batch_size=40, lr=0.01)
        for head in ("linear", "cosine", "mislas")
    ]
    recipes.append(Recipe("crt", head="mlp", hidden=1500, epochs=1, batch_size=40, lr=0.01))
    expected, got = outcomes(recipes, "off", wide), outcomes(recipes, SETS[0], wide)
    for recipe in recipes:
        assert_alike(got[recipe], expected[recipe])


@pytest.mark.skipif("avx512_bf16" not in SETS, reason="needs avx512_bf16")
def test_bf16_factors() -> None:
    """Reference: PyTorch on rounded factors; they round elsewhere where a head scales its rows."""
    common = {"epochs": 4, "batch_size": 37, "lr": 0.05, "precision": "bf16"}
    recipes = [Recipe("crt", head=head, **common) for head in HEAD_CASES]
    expected, got = outcomes(recipes, "off"), outcomes(recipes, "avx512_bf16")
    exact = outcomes([Recipe("crt", epochs=4, batch_size=37, lr=0.05)], "avx512_bf16")
    for recipe in recipes:
        assert_alike(got[recipe], expected[recipe], 5e-3)
    (linear,) = exact.values()
    assert difference(got[recipes[0]].parameters["weight"], linear.parameters["weight"]) > 0


def test_alone_and_in_company_bit_for_bit() -> None:
    """Reference: each recipe's own run; plans that cut tiles otherwise, and two threads."""
    recipes = [Recipe(name, epochs=3, batch_size=32) for name in ("crt", "los", "mislas", "lws")]
    recipes += [Recipe("crt", epochs=3, batch_size=32, lr=lr) for lr in (0.01, 0.03, 0.3)]
    together = outcomes(recipes, SETS[0])
    others = [outcomes(recipes, SETS[0], workers=2), outcomes(recipes, SETS[0], memory=60_000)]
    for recipe in recipes:
        (alone,) = outcomes([recipe], SETS[0]).values()
        for got in (together, *others):
            for name, value in alone.parameters.items():
                assert torch.equal(got[recipe].parameters[name], value), f"{name} of {recipe}"


@pytest.mark.parametrize("which", SETS)
def test_threads_within_a_step_bit_for_bit(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one thread; three share the classes and the rows of a lone configuration."""
    mixed = {"generator": "mixup", "epochs": 2, "batch_size": 40}
    wide = problem((30, 12) + (3,) * 70, dim=1030, val=0, test=1)
    trained = [(recipe, ODD) for recipe in _recipes()[::29]]
    trained += [(Recipe(name, **mixed), ODD) for name in ("los", "mislas", "lws")]
    trained += [
        (Recipe("crt", head=head, epochs=1, batch_size=70, lr=0.01), wide)
        for head in ("linear", "cosine", "tde", "mlp")
    ]
    expected = [outcomes([recipe], which, made)[recipe] for recipe, made in trained]
    monkeypatch.setattr("stage2.engine.loop.THREADED_FLOPS", 0)
    for (recipe, made), one in zip(trained, expected, strict=True):
        got = outcomes([recipe], which, made, workers=3)[recipe]
        for name, value in one.parameters.items():
            assert torch.equal(got.parameters[name], value), f"{name} of {recipe}"
        assert got.curves == one.curves, f"{recipe}"


def test_what_it_leaves_to_pytorch() -> None:
    """Precision tf32 has no compiled pass, and trains all the same."""
    recipes = [Recipe("crt", precision="tf32", epochs=2)]
    expected, got = outcomes(recipes, "off"), outcomes(recipes, SETS[0])
    for recipe in recipes:
        weight = expected[recipe].parameters["weight"]
        assert torch.equal(got[recipe].parameters["weight"], weight), f"{recipe}"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch trains, and one line says why; a compiler that fails is told by its own words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert description() == "PyTorch (no C++ compiler)"
    assert len(run([Recipe("crt", epochs=1)], ODD)) == 1
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'error: no such option' >&2\nexit 1\n")
    broken.chmod(0o755)
    library.cache_clear()
    assert description() == f"PyTorch ({broken}: error: no such option)"


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """``off``, an instruction set, and one that the processor has not."""
    monkeypatch.setenv(SWITCH, "off")
    assert description() == f"PyTorch ({SWITCH}=off)"
    monkeypatch.setenv(SWITCH, SETS[-1])
    library.cache_clear()
    assert description() == f"compiled for {SETS[-1]}"
    monkeypatch.setenv(SWITCH, "sse9")
    library.cache_clear()
    assert description().startswith(f"PyTorch ({SWITCH}=sse9, and this processor has ")


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize(("rows", "configs", "classes"), [(70, 5, 100), (9, 3, 13), (33, 1, 2)])
def test_statistics_of_logits(which: str, rows: int, configs: int, classes: int) -> None:
    """Reference: PyTorch's passes; ranks, classes and bounds are the same, sums to 1e-6."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, configs, classes, generator=generator).mul_(4).round_(decimals=1)  # ties
    y = torch.randint(classes, (rows,), generator=generator)
    counts = np.arange(classes)[::-1] + 3
    for prior in (
        torch.randn(configs, classes, generator=generator),
        torch.zeros(configs, classes),
    ):
        shift = ShiftTally(counts, prior)
        with trained_by(which):
            got = measured(z, y, shift.places)
        assert got is not None
        assert got.bounds is not None
        assert all(map(torch.equal, got.bounds, shift.bounds(z, y)))
        assert all(map(torch.equal, (got.rank, got.own), label_rank(z, y)))
        assert torch.equal(got.predicted.long(), z.argmax(2))
        assert_close(got.total, z.sum(0), 1e-4)
        top, partition, norm = _softmax_sums(z.clone())
        assert torch.equal(got.top, top)
        assert_close(got.partition / partition, torch.ones_like(top), 1e-6)
        assert_close(got.norm / norm, torch.ones_like(top), 1e-6)


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite(which: str, value: float) -> None:
    """Reference: PyTorch, which has the last word on what a NaN does; other rows do not change."""
    z, y = torch.randn(40, 2, 7), torch.arange(40) % 7
    with trained_by(which):
        whole = measured(z, y, None)
        z[:7, 1, 3] = value  # of labels before, at and after it
        shift = ShiftTally(np.arange(7)[::-1] + 1, torch.zeros(2, 7))
        got = measured(z, y, shift.places)
    assert whole
    assert got
    assert got.bounds
    expected = (*label_rank(z, y), *_softmax_sums(z.clone()), z.argmax(2), *shift.bounds(z, y))
    pairs = zip((*got[:5], got.predicted, *got.bounds), expected, strict=True)
    assert all(torch.allclose(a.float(), b.float(), rtol=1e-6, equal_nan=True) for a, b in pairs)
    assert torch.allclose(got.total, z.sum(0), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(got.partition[7:], whole.partition[7:])
    assert torch.equal(got.partition[:, 0], whole.partition[:, 0])
