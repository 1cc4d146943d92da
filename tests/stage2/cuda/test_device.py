"""Every part of every registry on a simulated GPU, against the same on the CPU."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from stage2.engine.halving import Halving
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.launches import PLAIN, SMALL, STEPS, TABLE
from tests.stage2.cuda.running import (
    LENGTHS,
    TRITON,
    assert_same,
    gpu,
    pair,
    step_cost,
    trained,
    with_steps,
)

ANEW = "run python -m tests.stage2.cuda.launches if that is meant"
LAUNCHES = json.loads(TABLE.read_text())
KERNELS = [
    *(
        pytest.param("triton", case, marks=pytest.mark.skipif(not TRITON, reason="no Triton"))
        for case in STEPS
    ),
    *(("pytorch", case) for case in PLAIN),
]


@pytest.mark.parametrize(("kernels", "case"), KERNELS)
def test_steps(kernels: str, case: str) -> None:
    """Reference: the CPU, and the table of launches; a step waits for nothing and copies nothing.

    Generated rows are drawn from other random numbers on a GPU.
    """
    recipes = STEPS[case]
    with gpu(triton=kernels == "triton") as device:
        cost, outcomes = step_cost(device, recipes, SMALL)
    assert not cost.trained["waits"], f"{case} waits: {dict(cost.waits)}"
    assert not cost.trained["copies"], f"{case} copies: {dict(device.copies)}"
    allowed = LAUNCHES[kernels].get(case)
    got = cost.trained["launches"]
    assert allowed is not None, f"{case}: {ANEW}"
    assert got <= allowed, f"{case} launches {got} kernels a step, {allowed} before: {ANEW}"
    if recipes[0].generator is None:
        assert_same(outcomes, trained(with_steps(recipes, max(LENGTHS)), SMALL, "cpu"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    """Reference: the CPU; of those with generated rows, that they train."""
    recipes = pair(preset, **({"epochs": 2} if Recipe(preset).stepped else {}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Generator .* finds fewer")
        with gpu():
            outcomes = trained(recipes, SMALL, "cuda")
        if recipes[0].generator is None:
            assert_same(outcomes, trained(recipes, SMALL, "cpu"))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}


def test_every_head_and_generator_is_reached() -> None:
    """Reference: the registries."""
    recipes = [Recipe(name) for name in PRESETS] + [each[0] for each in STEPS.values()]
    assert {recipe.head for recipe in recipes} == set(HEADS)
    assert {r.settings["generator"] for r in recipes if r.generator} == set(GENERATORS)


@pytest.mark.parametrize("name", ["crt", "lws", "knn", "ncm", "ridge"])
def test_features_of_float16(name: str) -> None:
    """Reference: the CPU."""
    recipes, half = pair(name), torch.float16
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda", dtype=half)
    assert_same(outcomes, trained(recipes, SMALL, "cpu", dtype=half))


@pytest.mark.parametrize("name", ["ce", "lws", "mislas"])
def test_an_epoch_waits_for_nothing(name: str) -> None:
    """Reference: the waits and blocking copies of a run of fewer epochs, which are as many.

    Draws come from pinned memory, and the best epoch is kept without asking which one it is. The
    temperatures that are fitted at the end take as many steps as they need.
    """
    counts = []
    for epochs in (2, 5):
        with gpu() as device:
            trained(pair(name, epochs=epochs), SMALL, "cuda")
        counts.append(device.waits + device.copies)
    more = {place for place, _ in (counts[1] - counts[0]).items()}
    assert not {place for place in more if "temperature.py" not in place}


@pytest.mark.parametrize(("head", "precision"), [("linear", "bf16"), ("cosine", "tf32")])
def test_limits_of_epochs(head: str, precision: str) -> None:
    """Reference: the CPU; what a fused pass keeps of W follows a change between epochs."""
    recipes = pair(head=head, precision=precision, max_norm=0.5, max_norm_when="epoch", epochs=3)
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda")
    for outcome in outcomes.values():
        norms = outcome.parameters["weight"].norm(dim=-1)
        assert (norms <= 0.5001).all(), f"got {norms}"
    assert_same(outcomes, trained(recipes, SMALL, "cpu"))


def test_averages_of_views() -> None:
    """Reference: the CPU; two models in a tile."""
    recipes = pair(view="instance+balanced")
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda")
    assert_same(outcomes, trained(recipes, SMALL, "cpu"))


@pytest.mark.parametrize("calibration", ["temperature", "vector"])
def test_calibrations(calibration: str) -> None:
    """Reference: the CPU."""
    recipes = pair(calibration=calibration)
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda")
    assert_same(outcomes, trained(recipes, SMALL, "cpu"))


def test_optima() -> None:
    """Reference: the CPU, by L-BFGS."""
    recipes = pair(optimiser="lbfgs", max_iterations=20)
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda")
    assert_same(outcomes, trained(recipes, SMALL, "cpu"))


def test_halving() -> None:
    """Reference: the CPU; configurations stop and the others train on."""
    recipes = [Recipe("ce", lr=0.01 * 4**i, epochs=4, batch_size=32) for i in range(4)]
    with gpu():
        outcomes = trained(recipes, SMALL, "cuda", halving=Halving(eta=2))
    assert {outcome.status for outcome in outcomes.values()} == {"done", "stopped"}
    assert_same(outcomes, trained(recipes, SMALL, "cpu", halving=Halving(eta=2)))
