"""The contract of heads and losses, featbank's and your own.

    >>> from stage2.methods.heads import HEADS
    >>> from stage2.testing import check_head
    >>> check_head(HEADS["linear"])

The tests run both checks over the registries, so a new entry is covered at once. They know
no formulas: they compare analytic gradients with differences of the values in double
precision, a stack with each of its configurations alone, and the rest with what the interfaces
promise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featbank.errors import EmptyClass
from featbank.settings import Setting, resolved
from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.family import Loss, LossParameters, Moment
from stage2.methods.heads import Batch, Context, Head, Parameters, TextClassifier, TrainedHead

COUNTS = np.array([40.0, 17.0, 9.0, 4.0, 1.0])
DIM, ROWS = 6, 7
TOKENS = 3
"""Tokens of a row for heads that take them."""
STEP, WITHIN = 1e-6, 1e-6
"""Of a central difference, and its largest error relative to the largest gradient."""
MOST_ENTRIES = 400
"""Entries of a parameter whose gradient is compared with differences."""

OWN_FEATURES = "the head does not take features of each configuration's own, Batch.x [B, C, D]"


def settings_to_check(settings: Iterable[Setting]) -> list[dict[str, Any]]:
    """Settings at which a part is checked: the defaults, and each setting by itself at its other
    choices, or at the ends of its range."""
    cases: list[dict[str, Any]] = [{}]
    for setting in settings:
        values: Iterable[Any] = setting.choices
        if setting.type is bool:
            values = (False, True)
        elif setting.type in (int, float):
            ends = (setting.low, setting.high)
            values = [setting.type(end) for end in ends if end is not None]
        cases += [{setting.name: value} for value in values if value != setting.default]
    return cases


def check_loss(loss: Loss, settings: Mapping[str, Any] | None = None) -> None:
    """Assert that a loss keeps the contract.

    Its parameters are finite with one entry per class, even if all counts are equal; a class
    without samples is refused, or left out with ``empty_classes=ignore``; values are finite and
    gradients right, alone and beside another configuration, at any time of training.

    Parameters
    ----------
    loss
        An entry for `stage2.methods.losses.LOSSES`.
    settings
        Its settings where they are not the defaults; by default all of `settings_to_check`.
    """
    if settings is None:
        for case in settings_to_check(loss.settings):
            check_loss(loss, case)
        return
    given = dict(settings)
    takes = {setting.name for setting in loss.settings}
    for moment in (Moment(0, 8), Moment(3, 8), Moment(7, 8)):
        _check_values(loss, given, moment)
    _check_parameters(loss(np.full(5, 8.0), given), 5)
    holes = np.array([40.0, 0.0, 5.0])
    if "empty_classes" in takes:
        try:
            loss(holes, {**given, "empty_classes": "error"})
        except EmptyClass:
            pass
        else:
            raise AssertionError("a class without samples is not refused")
        given["empty_classes"] = "ignore"
    _check_parameters(loss(holes, given), 3)


def check_head(head: Head, settings: Mapping[str, Any] | None = None) -> None:
    """Assert that a head keeps the contract.

    Its parameters are stacked along the configurations; its logits are finite, new at every call,
    and the same alone as in a stack, in single and double precision. The gradients of a trained
    head are those of its logits, its configurations may see features of their own, and it names
    only parameters that it has.

    Parameters
    ----------
    head
        An entry for `stage2.methods.heads.HEADS`.
    settings
        Its settings where they are not the defaults; by default all of `settings_to_check`.
    """
    if settings is None:
        for case in settings_to_check(head.settings):
            check_head(head, case)
        return
    context, x, y = _problem(TOKENS if head.takes_tokens else None)
    values = resolved(head.settings, settings, f"head {type(head).__name__!r}")
    stack = [{**values, "seed": seed} for seed in (0, 1, 0)]
    parameters = head.init(stack, context)
    for name, value in parameters.items():
        assert len(value) == len(stack), f"{name} is not stacked: {tuple(value.shape)}"
    batch = context.batch(x)
    z = head.logits(parameters, batch)
    shape = (ROWS, len(stack), len(COUNTS))
    assert z.shape == shape, f"logits are {tuple(z.shape)}, not [B, C, K] = {shape}"
    assert bool(z.isfinite().all()), "logits are not finite"
    expected = z.clone()
    z.zero_()
    _close(head.logits(parameters, batch), expected, 1e-6, "logits after the last were changed")
    _close(expected[:, 0], expected[:, 2], 1e-6, "logits of equal seeds")
    for c, alone in enumerate(stack):
        own = head.logits(head.init([alone], context), batch)[:, 0]
        _close(own, expected[:, c], 1e-4, f"logits of configuration {c} alone")
    if isinstance(head, TrainedHead):
        _check_gradients(head, parameters, len(stack), context, x)
        _check_own_features(head, parameters, len(stack), context, y)
        _check_trained(head, parameters, stack, batch, y)


def _check_trained(
    head: TrainedHead,
    parameters: Parameters,
    settings: Sequence[Mapping[str, Any]],
    batch: Batch,
    y: Tensor,
) -> None:
    defaults = resolved(head.settings, {}, f"head {type(head).__name__!r}")
    usual = head.init([{**defaults, "seed": 0}], batch.context)
    cosine = head.cosine(parameters, batch, head.logits(parameters, batch), y)
    assert cosine.shape == (len(y), len(settings)), f"cosines are {tuple(cosine.shape)}"
    assert bool((cosine.abs() <= 1 + 1e-6).all()), "cosines leave [−1, 1]"
    for what, names, known in (
        ("lr_multipliers", head.lr_multipliers(settings), parameters),
        ("anchors", head.anchors(settings, batch.context), parameters),
        ("decay_weights", head.decay_weights(settings, batch.context), parameters),
        ("biases", head.biases, {**usual, **parameters}),  # settings may do without one
    ):
        assert set(names) <= set(known), f"{what} names {set(names) - set(known)}"


def _check_gradients(
    head: TrainedHead,
    parameters: Parameters,
    configs: int,
    context: Context,
    x: Tensor,
) -> None:
    """Gradients of Σ G·z by `gradients` and by central differences, in double precision."""
    double = context.double()
    generator = torch.Generator().manual_seed(1)
    moved = _moved(parameters, generator)
    grad = torch.randn(len(x), configs, len(COUNTS), generator=generator).double()

    def value(changed: Parameters) -> Tensor:
        z = head.logits(changed, double.batch(x.double()))
        return (z * grad).sum((0, 2))

    slopes = head.gradients(moved, double.batch(x.double()), grad.clone())
    assert set(slopes) <= set(moved), f"it has no parameters {set(slopes) - set(moved)}"
    for name, slope in slopes.items():
        assert slope.shape == moved[name].shape, f"the gradient of {name} is {tuple(slope.shape)}"
        entries = _spread(moved[name][0].numel())
        expected = _differences(partial(_with, value, moved, name), moved[name], entries)
        _close(slope.flatten(1)[:, entries], expected, WITHIN, f"gradient of {name}")


def _check_own_features(
    head: TrainedHead, parameters: Parameters, configs: int, context: Context, y: Tensor
) -> None:
    """A stack on features [B, C, D] against each configuration alone on its own of them."""
    generator = torch.Generator().manual_seed(3)
    moved = _moved(parameters, generator)
    x = torch.randn(len(y), configs, DIM, generator=generator)
    grad = torch.randn(len(y), configs, len(COUNTS), generator=generator)
    for dtype, made, within in (
        (torch.float32, context, 1e-5),
        (torch.float64, context.double(), 1e-10),
    ):
        stack = {name: value.to(dtype) for name, value in moved.items()}
        g, rows = grad.to(dtype), x.to(dtype)
        try:
            together = _results(head, stack, made.batch(rows), g, y)
        except (RuntimeError, IndexError, ValueError) as error:
            raise AssertionError(f"{OWN_FEATURES}: {error}") from error
        for c in range(configs):
            alone = {name: value[c : c + 1] for name, value in stack.items()}
            expected = _results(head, alone, made.batch(rows[:, c]), g[:, c : c + 1], y)
            for what, value in together.items():
                shape = (configs, *expected[what].shape[1:])
                assert value.shape == shape, f"{OWN_FEATURES}: {what} are {tuple(value.shape)}"
                _close(value[c], expected[what][0], within, f"{OWN_FEATURES}: {what}")


def _results(
    head: TrainedHead, parameters: Parameters, batch: Batch, grad: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Everything that depends on a batch, by name, each [C, …]."""
    z = head.logits(parameters, batch)
    cosines = head.cosine(parameters, batch, z.clone(), y)
    slopes = head.gradients(parameters, batch, grad.clone())
    named = {f"gradients of {name}": slope for name, slope in slopes.items()}
    return {"logits": z.transpose(0, 1), "cosines": cosines.t(), **named}


def _moved(parameters: Parameters, generator: torch.Generator) -> Parameters:
    """Parameters moved off their start, in double precision."""
    return {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator).double()
        for name, value in parameters.items()
    }


def _with(
    value: Callable[[Parameters], Tensor], parameters: Parameters, name: str, at: Tensor
) -> Tensor:
    """The value with one of the parameters replaced."""
    return value({**parameters, name: at})


def _check_values(loss: Loss, settings: dict[str, Any], moment: Moment) -> None:
    row = loss(COUNTS, settings, moment)
    _check_parameters(row, len(COUNTS))
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(ROWS) % len(COUNTS)
    z = 3 * torch.randn(ROWS, 2, len(COUNTS), generator=generator).double()
    teacher = torch.randn(ROWS, 2, len(COUNTS), generator=generator).double()
    # κ carries no gradient; without it differences and gradients agree.
    loose = replace(row, frozen_gamma=0.0, angle=0.0)
    rows = LossRows.stack([loose, LossParameters()], len(COUNTS), dtype=torch.float64)
    kernel = KERNELS[loss.kernel]

    def value(at: Tensor) -> Tensor:
        return kernel(at.transpose(0, 1).contiguous(), y, rows, teacher=teacher)[0]

    values, gradient = kernel(z.clone(), y, rows, teacher=teacher)
    assert bool(values.isfinite().all()), f"the loss is {values[0]}"
    entries = list(range(z[:, 0].numel()))
    expected = _differences(value, z.transpose(0, 1), entries).view(2, ROWS, -1).transpose(0, 1)
    _close(gradient, expected, WITHIN, "gradient of the loss")
    alone = LossRows.stack([loose], len(COUNTS), dtype=torch.float64)
    own, _ = kernel(z[:, :1].clone(), y, alone, teacher=teacher[:, :1])
    _close(own, values[:1], 1e-12, "loss alone")


def _check_parameters(row: LossParameters, classes: int) -> None:
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, np.ndarray):
            assert value.shape == (classes,), f"{field.name} is {value.shape}"
            assert np.isfinite(value).all(), f"{field.name} is {value}"


def _differences(value: Callable[[Tensor], Tensor], at: Tensor, entries: Sequence[int]) -> Tensor:
    """Central differences of `value` [C] along `entries` of a point [C, …], one for each
    configuration; no configuration depends on another."""
    slopes = []
    for i in entries:
        offset = torch.zeros(len(at), at[0].numel(), dtype=at.dtype)
        offset[:, i] = STEP
        offset = offset.view(at.shape)
        slopes.append((value(at + offset) - value(at - offset)) / (2 * STEP))
    return torch.stack(slopes, 1)


def _spread(size: int) -> list[int]:
    """The entries of a parameter that are compared: all, or `MOST_ENTRIES` at equal distances."""
    return torch.linspace(0, size - 1, min(size, MOST_ENTRIES)).long().tolist()


def _close(got: Tensor, expected: Tensor, within: float, what: str) -> None:
    gap = float((got - expected).abs().max())
    size = max(float(expected.abs().max()), 1.0)
    assert gap <= within * size, f"{what} differs by {gap:.3g}: got {got}, expected {expected}"


def _problem(tokens: int | None) -> tuple[Context, Tensor, Tensor]:
    """A small problem: its context, rows [B, D], of so many tokens, and labels [B]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS).long())
    means = torch.randn(len(COUNTS), DIM, generator=generator)
    x = means[labels] + torch.randn(len(labels), DIM, generator=generator)
    some = torch.randperm(len(x), generator=generator)[:ROWS]
    context = Context(
        COUNTS,
        DIM,
        x.device,
        lambda: itertools.repeat((x, labels), 1),
        torch.randn(len(COUNTS), DIM, generator=generator),
        torch.randn(len(COUNTS), generator=generator),
        tokens=tokens,
        text=TextClassifier(torch.randn(len(COUNTS), DIM, generator=generator), 10.0),
    )
    return context, x[some], labels[some]
