"""Optimisers against torch.optim, schedules against torch.optim.lr_scheduler [METHODS §5]."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.methods.optimisers import SCHEDULES, STEPPED, learning_rates
from tests.stage2.compare import assert_close, difference

_SGD: list[dict[str, Any]] = [
    {"momentum": m, "weight_decay": d, "nesterov": n}
    for m, d, n in (
        (0.9, 5e-4, False),
        (0.0, 0.0, False),
        (0.9, 0.0, True),
        (0.5, 0.3, True),
        (0.99, 0.05, False),
    )
]
_CASES: dict[str, list[dict[str, Any]]] = {
    "sgd": _SGD,
    "adamw": [
        {"weight_decay": d, "beta1": b1, "beta2": b2, "eps": e}
        for d, b1, b2, e in (
            (0.0, 0.9, 0.999, 1e-8),
            (1e-2, 0.5, 0.9, 1e-8),
            (1.0, 0.0, 0.0, 1e-3),
            (5e-4, 0.8, 0.99, 1.0),
            (0.1, 0.95, 0.9999, 1e-10),
        )
    ],
}
_RATES = (0.1, 0.01, 0.3, 0.05, 0.02)
_MULTIPLIER = (1.0, 0.0, 0.2, 3.0, 0.5)


def _torch(name: str, p: Tensor, s: dict[str, Any], rate: float) -> torch.optim.Optimizer:
    if name == "adamw":
        betas = (s["beta1"], s["beta2"])
        return torch.optim.AdamW([p], rate, betas, s["eps"], s["weight_decay"])
    return torch.optim.SGD([p], lr=rate, **s)


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("together", [True, False])
def test_steps_are_those_of_torch(name: str, together: bool) -> None:
    """Reference: torch.optim.SGD and AdamW in float64, each configuration by itself.

    Two parameters of different shape, one with learning-rate multipliers; rates that change.
    """
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(5, 3, 4, generator=generator)
    flat = torch.randn(5, 2, generator=generator)
    slopes = [
        {
            "wide": torch.randn(5, 3, 4, generator=generator),
            "flat": torch.randn(5, 2, generator=generator),
        }
        for _ in range(12)
    ]
    factors = [1.0, 0.5, 0.0, 2.0] * 3
    for part in [list(range(5))] if together else [[c] for c in range(5)]:
        parameters = {"wide": wide[part].clone(), "flat": flat[part].clone()}
        settings = [_CASES[name][c] for c in part]
        optimiser = STEPPED[name](parameters, settings, {"flat": [_MULTIPLIER[c] for c in part]})
        for slope, factor in zip(slopes, factors, strict=True):
            lr = torch.tensor([_RATES[c] * factor for c in part])
            optimiser.step({k: v[part].clone() for k, v in slope.items()}, lr)
        for place, c in enumerate(part):
            for key, start in (("wide", wide), ("flat", flat)):
                expected = start[c].double().clone().requires_grad_()
                plain = _torch(name, expected, _CASES[name][c], _RATES[c])
                for slope, factor in zip(slopes, factors, strict=True):
                    multiplier = _MULTIPLIER[c] if key == "flat" else 1.0
                    plain.param_groups[0]["lr"] = _RATES[c] * factor * multiplier
                    expected.grad = slope[key][c].double()
                    plain.step()
                got = parameters[key][place]
                assert_close(got, expected, 2e-6, f"{key} after {name} {_CASES[name][c]}")


def _run(
    name: str, settings: list[dict[str, Any]], *, origin: bool, biases: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Parameters [C, …] after 12 steps; with `origin`, decay pulls towards a point that is not 0.

    The gradients are those of ½‖p − 1‖², which is the same problem wherever the origin lies.
    """
    generator = torch.Generator().manual_seed(1)
    start = {
        "weight": torch.randn(len(settings), 3, 4, generator=generator),
        "bias": torch.randn(len(settings), 3, generator=generator),
    }
    anchors = {"weight": torch.randn(1, 3, 4, generator=generator)} if origin else None
    parameters = {key: value.clone() for key, value in start.items()}
    optimiser = STEPPED[name](parameters, settings, {}, anchors=anchors, biases=biases)
    for _ in range(12):
        slopes = {key: value - 1 for key, value in parameters.items()}
        optimiser.step(slopes, torch.full((len(settings),), 0.05))
    return {
        **parameters,
        "start": start["weight"],
        **({"origin": anchors["weight"]} if anchors else {}),
    }


@pytest.mark.parametrize("name", STEPPED)
def test_decay_towards_an_anchor_is_decay_of_the_difference(name: str) -> None:
    """Reference: torch.optim in float64 on Δ = p − anchor, whose decay pulls to 0."""
    got = _run(name, _CASES[name], origin=True)
    for c, case in enumerate(_CASES[name]):
        origin = got["origin"][0].double()
        free = (got["start"][c].double() - origin).requires_grad_()
        plain = _torch(name, free, case, 0.05)
        for _ in range(12):
            free.grad = (free + origin - 1).detach()
            plain.step()
        assert_close(got["weight"][c], free + origin, 2e-6, f"weight after {name} {case}")
    unanchored = _run(name, _CASES[name], origin=False)["weight"]
    assert difference(got["weight"], unanchored) > 1e-3, "the anchor changed nothing"


@pytest.mark.parametrize("name", STEPPED)
def test_decay_spares_biases_where_asked(name: str) -> None:
    """Reference: the same steps without weight decay; neighbours and weights are as they were."""
    cases = [{**case, "weight_decay": 0.3} for case in _CASES[name]]
    spared = [{**case, "decay_bias": c % 2 == 0} for c, case in enumerate(cases)]
    decayed = _run(name, cases, origin=False, biases=("bias",))
    bare = _run(name, [{**case, "weight_decay": 0.0} for case in cases], origin=False)
    got = _run(name, spared, origin=False, biases=("bias",))
    assert_close(got["weight"], decayed["weight"], 0.0, "weights")
    assert_close(got["bias"][::2], decayed["bias"][::2], 0.0, "biases that decay")
    assert_close(got["bias"][1::2], bare["bias"][1::2], 0.0, "biases that do not")
    assert difference(decayed["bias"], bare["bias"]) > 1e-3, "decay of biases changes nothing"


@pytest.mark.parametrize("name", STEPPED)
def test_a_multiplier_of_0_leaves_a_parameter_as_it_is(name: str) -> None:
    """Reference: the start, bit by bit, whatever the decay and the anchor."""
    settings = [{**case, "weight_decay": 0.5} for case in _CASES[name]]
    start = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(2))
    p = start.clone()
    frozen = [0.0, 1.0, 0.0, 1.0, 0.0]
    anchors = {"p": torch.ones(1, 3, 4)}
    optimiser = STEPPED[name]({"p": p}, settings, {"p": frozen}, anchors=anchors)
    for _ in range(5):
        optimiser.step({"p": torch.randn(5, 3, 4)}, torch.full((5,), 0.1))
    assert_close(p[::2], start[::2], 0.0, "frozen")
    assert difference(p[1::2], start[1::2]) > 0.01, "nothing moved"


@pytest.mark.parametrize("name", STEPPED)
def test_a_diverged_configuration_leaves_its_neighbours_alone(name: str) -> None:
    """Reference: the same steps without the NaN."""
    settings = _CASES[name]
    start = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(3))
    ends = []
    for broken in (False, True):
        p = start.clone()
        if broken:
            p[2] = torch.nan
        optimiser = STEPPED[name]({"p": p}, settings, {})
        for _ in range(5):
            optimiser.step({"p": p.clone()}, torch.full((5,), 0.1))
        ends.append(p[[0, 1, 3, 4]])
    assert_close(ends[1], ends[0], 0.0, "neighbours of a NaN")


def _rates(**settings: Any) -> np.ndarray:
    steps = settings.pop("steps", 1)
    return learning_rates({"lr": 0.1, "epochs": 10, "warmup": 0, **settings}, steps)


def _torch_rates(make: Callable[[torch.optim.Optimizer], Any], times: int) -> list[float]:
    """The rate before each of `times` scheduler steps, from lr 0.1."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimiser)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimiser step is taken here
        for _ in range(times):
            seen.append(optimiser.param_groups[0]["lr"])
            scheduler.step()
    return seen


@pytest.mark.parametrize("epochs", [1, 2, 5, 10, 40])
def test_cosine_schedules_are_those_of_torch(epochs: int) -> None:
    """Reference: CosineAnnealingLR(T_max=T), stepped after each epoch, before it, or each step."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    after = _torch_rates(lambda o: cosine(o, T_max=epochs), epochs + 1)
    for schedule, expected in (("cosine", after[:-1]), ("cosine_prestep", after[1:])):
        got = _rates(schedule=schedule, epochs=epochs, steps=3)
        assert_close(got, np.repeat(expected, 3), 1e-9, f"{schedule} over {epochs} epochs")
    stepped = _torch_rates(lambda o: cosine(o, T_max=3 * epochs), 3 * epochs)
    got = _rates(schedule="cosine_step", epochs=epochs, steps=3)
    assert_close(got, stepped, 1e-9, f"cosine_step over {epochs} epochs")
    assert _rates(schedule="cosine_prestep", epochs=epochs)[-1] == 0, "the last epoch runs at 0"


@pytest.mark.parametrize("epochs", [10, 20, 30, 70, 200])
def test_multistep_is_that_of_torch(epochs: int) -> None:
    """Reference: MultiStepLR at four fifths and nine tenths, as 160 and 180 of 200."""
    milestones = [epochs * 8 // 10, epochs * 9 // 10]
    multistep = torch.optim.lr_scheduler.MultiStepLR
    expected = _torch_rates(lambda o: multistep(o, milestones), epochs)
    got = _rates(schedule="multistep", epochs=epochs, steps=2)
    assert_close(got, np.repeat(expected, 2), 1e-12, f"multistep over {epochs} epochs")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_is_linear_and_then_the_schedule(schedule: str) -> None:
    """Reference: lr·(t+1)/warmup in epochs t < warmup, the schedule without warm-up after."""
    got = _rates(schedule=schedule, warmup=4, steps=2)
    plain = _rates(schedule=schedule, steps=2)
    assert_close(got[:8], np.repeat([0.025, 0.05, 0.075, 0.1], 2), 1e-12, "warm-up")
    assert_close(got[8:], plain[8:], 0.0, "after warm-up")
    assert got.shape == (20,), f"got {got.shape}, expected [T·steps] = 20"


def test_constant_is_constant() -> None:
    """Reference: lr."""
    assert_close(_rates(schedule="constant"), np.full(10, 0.1), 0.0, "constant")
