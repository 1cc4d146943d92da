"""The Triton kernels of optimiser steps against those of `stage2.methods.optimisers`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from stage2.engine.gpu import update
from stage2.methods.optimisers import SGD, AdamW
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.engine.conftest import Launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")


def _sgd(p: Tensor, v: Tensor, g: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    update.sgd_step(p, v, g, **options)
    return p, v


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 29, 37), (1, 1025)])
@pytest.mark.parametrize("left_out", ["decay", "nesterov", "nothing"])
def test_sgd(launch: Launch, shape: tuple[int, ...], left_out: str) -> None:
    """Reference: three steps of `optimisers.SGD`, every hyper-parameter per configuration."""
    configs = torch.arange(shape[0])
    options = {"momentum": 0.9 - 0.3 * configs, "decay": 0.1 * (configs + 1.0)}
    options["nesterov"] = (configs % 2 == 0).float()
    if left_out != "nothing":
        options[left_out] = torch.zeros(shape[0])
    settings = [
        {"momentum": mu, "weight_decay": decay, "nesterov": bool(ahead)}
        for mu, decay, ahead in zip(*(t.tolist() for t in options.values()), strict=True)
    ]
    options.pop(left_out, None)
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(shape, generator=generator)
    v = torch.zeros_like(p)
    expected = {"p": p.clone()}
    optimiser = SGD(expected, settings, {})
    for step in range(3):
        g = torch.randn(shape, generator=generator)
        lr = 0.1 * torch.rand(shape[0], generator=generator)
        optimiser.step({"p": g.clone()}, lr)
        p, v = launch(_sgd, p, v, g, lr=lr, **options)
        assert_relative(p, expected["p"], 1e-6, f"parameter after step {step}")


@pytest.mark.parametrize("anchors", [1, 3])
def test_sgd_that_decays_towards_an_anchor(launch: Launch, anchors: int) -> None:
    """Reference: SGD on p − anchor, whose steps are the same; one anchor for all, or one each."""
    generator = torch.Generator().manual_seed(2)
    p, g = (torch.randn(3, 5, 7, generator=generator) for _ in range(2))
    anchor = torch.randn(anchors, 5, 7, generator=generator)
    options = {name: torch.tensor([0.1, 0.2, 0.3]) for name in ("lr", "momentum", "decay")}
    apart, _ = launch(_sgd, p - anchor, torch.zeros_like(p), g, **options)
    p, _ = launch(_sgd, p.clone(), torch.zeros_like(p), g, anchor=anchor, **options)
    assert_close(p, apart + anchor, 1e-6)


def _fused(settings: list[dict[str, Any]], anchor: Tensor, gradients: Tensor) -> Tensor:
    parameters = {"weight": anchor.expand(len(settings), -1, -1).clone()}
    optimiser = update.FusedSGD(
        parameters, settings, {"weight": [1.0, 0.5, 0.0]}, anchors={"weight": anchor}
    )
    for gradient in gradients:
        optimiser.step({"weight": gradient}, torch.full((3,), 0.1, device=anchor.device))
    return parameters["weight"]


def test_the_fused_optimiser_is_sgd(launch: Launch) -> None:
    """Reference: `optimisers.SGD`, with learning-rate multipliers, decay and an anchor."""
    generator = torch.Generator().manual_seed(3)
    anchor = torch.randn(1, 4, 5, generator=generator)
    gradients = torch.randn(3, 3, 4, 5, generator=generator)
    settings = [
        {"momentum": 0.9, "weight_decay": decay, "nesterov": decay > 0.2}
        for decay in (0.0, 0.1, 0.3)
    ]
    expected = {"weight": anchor.expand(3, -1, -1).clone()}
    multipliers = {"weight": [1.0, 0.5, 0.0]}
    optimiser = SGD(expected, settings, multipliers, anchors={"weight": anchor})
    for gradient in gradients:
        optimiser.step({"weight": gradient.clone()}, torch.full((3,), 0.1))
    assert_relative(launch(_fused, settings, anchor, gradients), expected["weight"], 1e-6)


ADAMW = [
    {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    {"beta1": 0.3, "beta2": 0.9999999, "eps": 1e-3, "weight_decay": 0.1},
    {"beta1": 0.0, "beta2": 0.0, "eps": 1e-8, "weight_decay": 0.3},
]
"""Of three configurations: means that follow slowly, at once, and not at all."""


def _adamw(
    settings: list[dict[str, Any]], start: Tensor, gradients: Tensor, anchor: Tensor | None
) -> tuple[Tensor, ...]:
    """Parameters and state after steps of the fused optimiser."""
    parameters = {"weight": start.clone()}
    anchors = {} if anchor is None else {"weight": anchor}
    optimiser = update.FusedAdamW(
        parameters, settings, {"weight": [1.0, 0.5, 0.0]}, anchors=anchors
    )
    for gradient in gradients:
        optimiser.step({"weight": gradient.clone()}, torch.full((3,), 0.1, device=start.device))
    return parameters["weight"], *optimiser.state_of("weight"), optimiser.state["steps"]


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 29, 37)])
@pytest.mark.parametrize("anchors", [0, 1, 3])
@pytest.mark.parametrize("decays", [False, True])
def test_adamw(launch: Launch, shape: tuple[int, ...], anchors: int, decays: bool) -> None:
    """Reference: `optimisers.AdamW` in float64, with learning-rate multipliers, decay and an
    anchor; gradients fall over eight orders of magnitude."""
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(shape, generator=generator)
    anchor = torch.randn(anchors, *shape[1:], generator=generator) if anchors else None
    falling = torch.logspace(3, -5, 5).view(-1, *[1] * len(shape))
    gradients = torch.randn(5, *shape, generator=generator) * falling
    settings = ADAMW if decays else [{**s, "weight_decay": 0.0} for s in ADAMW]
    parameters = {"weight": start.double()}
    optimiser = AdamW(
        parameters,
        settings,
        {"weight": [1.0, 0.5, 0.0]},
        anchors={} if anchor is None else {"weight": anchor.double()},
    )
    for gradient in gradients:
        optimiser.step({"weight": gradient.double()}, torch.full((3,), 0.1, dtype=torch.float64))
    p, mean, square, steps = launch(_adamw, settings, start, gradients, anchor)
    expected_mean, expected_square = optimiser.state_of("weight")
    assert_close(steps, optimiser.state["steps"], 0)
    for c in range(3):
        assert_relative(mean[c], expected_mean[c], 1e-6, f"mean of configuration {c}")
        assert_relative(square[c], expected_square[c], 1e-6, f"square of configuration {c}")
    assert_close(p, parameters["weight"], 2e-6)


def _counts(steps: Tensor, betas: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
    return *update.adamw_count(steps, betas.log(), eps), steps


@pytest.mark.parametrize("before", [0, 999, 10**6])
def test_the_count_of_steps(launch: Launch, before: int) -> None:
    """Reference: the formula in float64 by powers, for 200 configurations and betas up to 1."""
    beta = 1 - torch.logspace(0, -9, 200, dtype=torch.float64)
    betas = torch.stack([beta, beta.flip(0)])
    steps = torch.full((200,), before, dtype=torch.float64)
    eps = torch.full((200,), 1e-3)
    ratio, floor, after = launch(_counts, steps.clone(), betas, eps)
    root = (1 - betas[1] ** (before + 1)).sqrt()
    expected = root / (1 - betas[0] ** (before + 1))
    assert_close(after, steps + 1, 0)
    assert_close(ratio / expected, torch.ones(200), 1e-6)
    assert_close(floor / root, torch.full((200,), 1e-3), 1e-9)
