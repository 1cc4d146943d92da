"""Every trained head × every loss against float64 autograd: values and gradients.

The reference is `reference.py`: one configuration, METHODS §3–4 written out, torch.autograd.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.methods.heads import HEADS, Batch, Context
from stage2.methods.losses import LOSSES, Moment
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES, LOSS_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import problem

COUNTS = (60, 31, 17, 9, 5, 3, 1)
ROWS = 40
Case = tuple[str, dict[str, Any]]

EVERY: list[Case] = [(loss, s) for loss, cases in LOSS_CASES.items() for s in cases]


def test_the_cases_name_every_loss_and_every_trained_head() -> None:
    """Reference: the registries. A new loss or head without a case here fails."""
    trained = {name for name, head in HEADS.items() if head.trained}
    assert set(LOSS_CASES) == set(LOSSES), f"got {set(LOSS_CASES)}, expected {set(LOSSES)}"
    assert set(HEAD_CASES) == trained, f"got {set(HEAD_CASES)}, expected {trained}"


def _context(dtype: torch.dtype) -> Context:
    made = problem(COUNTS, dim=6, seed=3)
    context = made.view().context
    assert context.weight0 is not None
    assert context.bias0 is not None
    return replace(context, weight0=context.weight0.to(dtype), bias0=context.bias0.to(dtype))


def _rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features and labels of the first training rows."""
    x, y = next(iter(problem(COUNTS, dim=6, seed=3).view().train.blocks()))
    return x[:ROWS].to(dtype), y[:ROWS]


def _stack(head: str, configs: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters of `configs` configurations, the head's cases in turn, moved off their start."""
    cases = HEAD_CASES[head]
    settings = [{**cases[c % len(cases)], "seed": c} for c in range(configs)]
    generator = torch.Generator().manual_seed(5)
    moved = {}
    for name, value in HEADS[head].init(settings, _context(torch.float32)).items():
        noise = torch.randn(value.shape, generator=generator).to(value.dtype)
        moved[name] = (value + 0.3 * noise).to(dtype)
    return moved


def _engine(
    head: str,
    parameters: dict[str, Tensor],
    cases: list[Case],
    context: Context,
    batch: Batch,
    y: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses [C] and gradients of the stack, by the implementation."""
    moment = Moment(**MOMENT)
    rows = LossRows.stack(
        [LOSSES[loss](context.counts, s, moment) for loss, s in cases],
        len(context.counts),
        dtype=batch.x.dtype,
    )
    z = HEADS[head].logits(parameters, batch)
    value, slope = loss_and_gradient(z, y, rows)
    return value, HEADS[head].gradients(parameters, batch, slope)


def _expected(
    head: str, own: dict[str, Tensor], case: Case, context: Context, batch: Batch, y: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one configuration, by autograd in float64."""
    assert context.weight0 is not None
    assert context.bias0 is not None
    p = {name: value.double().requires_grad_() for name, value in own.items()}
    w0, b0 = context.weight0.double(), context.bias0.double()
    z = reference.logits(head, p, batch.x.double(), w0, b0)
    loss, settings = case
    counts = torch.from_numpy(np.asarray(context.counts))
    value = reference.loss(loss, z, y, settings, counts, **MOMENT)
    names = reference.TRAINED[head]
    slopes = torch.autograd.grad(value, [p[name] for name in names])
    return value.detach(), dict(zip(names, slopes, strict=True))


def _check(head: str, cases: list[Case], dtype: torch.dtype, within: float) -> None:
    context = _context(dtype)
    x, y = _rows(dtype)
    batch = context.batch(x)
    parameters = _stack(head, len(cases), dtype)
    values, gradients = _engine(head, parameters, cases, context, batch, y)
    names = reference.TRAINED[head]
    assert set(gradients) == set(names), f"got {set(gradients)}, expected {set(names)}"
    for c, case in enumerate(cases):
        own = {name: value[c] for name, value in parameters.items()}
        value, slopes = _expected(head, own, case, context, batch, y)
        what = f"{head} × {case[0]} {case[1]}, {c + 1} of {len(cases)}, {dtype}"
        assert_relative(values[c], value, within, f"loss of {what}")
        for name in names:
            # c is the bias that goes with v: one number, of which cancellation may leave little.
            size = max(slopes[k].abs().max() for k in (name, "v" if name == "c" else name))
            allowed = within * float(size)
            assert_close(gradients[name][c], slopes[name], allowed, f"∂L/∂{name} of {what}")


@pytest.mark.parametrize("loss", LOSS_CASES)
@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_head_and_loss_alone(head: str, loss: str) -> None:
    """Reference: float64 autograd; float32 to 1e-5 of the largest entry, float64 to 1e-10."""
    for settings in LOSS_CASES[loss]:
        _check(head, [(loss, settings)], torch.float32, 1e-5)
        _check(head, [(loss, settings)], torch.float64, 1e-10)


@pytest.mark.parametrize("loss", LOSS_CASES)
@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_head_with_all_settings_of_a_loss_in_one_stack(head: str, loss: str) -> None:
    """Reference: float64 autograd of each configuration by itself."""
    cases = [(loss, settings) for settings in LOSS_CASES[loss] for _ in range(2)]
    _check(head, cases, torch.float32, 1e-5)


@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_head_with_every_loss_in_one_stack(head: str) -> None:
    """Reference: float64 autograd of each configuration; neutral rows beside all others."""
    _check(head, EVERY, torch.float32, 1e-5)
    _check(head, EVERY, torch.float64, 1e-10)


@pytest.mark.parametrize(("loss", "settings"), EVERY)
def test_a_loss_on_confident_and_on_wrong_logits(loss: str, settings: dict[str, Any]) -> None:
    """Reference: float64 autograd on logits up to ±40, in float64 to 1e-9 and float32 to 1e-5.

    Every row by itself, so that a row whose loss is nearly nothing counts like any other; what lies
    below float32's rounding of the logits themselves is let pass.
    """
    counts = np.array(COUNTS, np.float64)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(30, len(COUNTS), generator=generator, dtype=torch.float64)
    z *= torch.linspace(0.1, 16, 30, dtype=torch.float64)[:, None]
    y = torch.arange(30) % len(COUNTS)
    for dtype, within, floor in ((torch.float64, 1e-9, 1e-14), (torch.float32, 1e-5, 5e-6)):
        table = LOSSES[loss](counts, settings, Moment(**MOMENT))
        rows = LossRows.stack([table], len(COUNTS), dtype=dtype)
        for i in range(30):
            exact = z[i : i + 1].to(dtype).double().requires_grad_()
            n = torch.from_numpy(counts)
            value = reference.loss(loss, exact, y[i : i + 1], settings, n, **MOMENT)
            (slope,) = torch.autograd.grad(value, exact)
            given = z[i : i + 1].to(dtype)[:, None].clone()
            got, gradient = loss_and_gradient(given, y[i : i + 1], rows)
            for name, a, b in (("loss", got[0], value), ("gradient", gradient[0, 0], slope[0])):
                size = b.detach().abs().max()
                gap = (a.double() - b.detach()).abs().max()
                assert gap <= max(within * size, floor), (
                    f"{name} of {loss} {settings}, row {i}, {dtype}: got {a}, expected {b.detach()}"
                )
