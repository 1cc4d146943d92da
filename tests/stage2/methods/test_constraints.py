"""Rows of bounded length, decay towards W₀ and without biases, in training [LTWB; METHODS §3]."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from featbank import errors
from stage2.methods.heads import HEADS, Context, Parameters, TrainedHead
from stage2.methods.optimisers import STEPPED
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES
from tests.stage2.compare import assert_close, difference
from tests.stage2.synthetic import Problem

WITH_W = [n for n in HEAD_CASES if n not in ("lws", "disalign", "marc", "etf", "samn")]
EPOCHS, STEPS, BATCH = 3, 4, 24


def trained(name: str) -> TrainedHead:
    """The trained head of that name."""
    head = HEADS[name]
    assert isinstance(head, TrainedHead)
    return head


def _settings(name: str, cases: list[dict[str, Any]], **training: Any) -> list[dict[str, Any]]:
    """Complete settings: the head's defaults, its first case, each of `cases`, and training's."""
    defaults = {s.name: s.default for s in HEADS[name].settings}
    common = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "seed": 3}
    common |= {"weight_decay": 0.02, "schedule": "constant", "warmup": 0, "epochs": EPOCHS}
    common |= {"loss": "ce", **defaults, **HEAD_CASES[name][0], **training}
    return [{**common, **case} for case in cases]


def _train(
    name: str, settings: list[dict[str, Any]], context: Context, stream: Tensor
) -> Parameters:
    """Train a stack with PyTorch's own cross-entropy; limits as an engine would apply them."""
    head = trained(name)
    parameters = head.init(settings, context)
    optimiser = STEPPED[settings[0]["optimiser"]](
        parameters,
        settings,
        head.lr_multipliers(settings),
        anchors=head.anchors(settings, context),
        biases=head.biases,
    )
    x, y = next(iter(context.blocks()))
    limits = {when: head.limits(settings, context, when) for when in ("step", "epoch")}
    lr = torch.tensor([s["lr"] for s in settings])
    for batches in stream:
        for step, rows in enumerate(batches):
            batch = context.batch(x[rows])
            z = head.logits(parameters, batch).requires_grad_()
            value = sum(torch.nn.functional.cross_entropy(z[:, c], y[rows]) for c in range(len(lr)))
            assert isinstance(value, Tensor)
            (slope,) = torch.autograd.grad(value, z)
            optimiser.step(head.gradients(parameters, batch, slope), lr)
            for when, limit in limits.items():
                if limit is not None and (when == "step" or step == len(batches) - 1):
                    head.constrain(parameters, limit)
        head.settle(parameters, context)
    return parameters


def _stream(made: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(len(made.y["train"]), (EPOCHS, STEPS, BATCH), generator=generator)


def _check(name: str, settings: list[dict[str, Any]], made: Problem) -> Parameters:
    """Train the stack, and each configuration by the float64 reference."""
    context, stream, data = made.view().context, _stream(made), made.double()
    got = _train(name, settings, context, stream)
    for c, s in enumerate(settings):
        start = {k: v[0] for k, v in HEADS[name].init([s], context).items()}
        expected = reference.train(name, s, start, stream, **data)
        for key, value in expected.items():
            assert_close(got[key][c], value, 2e-5, f"{key} of {name} {s}")
        moved = difference(expected["weight"], start["weight"])
        assert moved > 0.01, f"{name} hardly trains: {moved:.2g}"
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constrain_shortens_the_rows_that_are_too_long(dtype: torch.dtype) -> None:
    """Reference: a loop over rows in float64. Rows of 0 and of NaN stay as they are."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 7, 3, generator=generator).to(dtype)
    weight[:, 2] = 0
    weight[5] = torch.nan
    limits = torch.tensor([0.5, 1.5, math.inf, 1e-3, 0.0, 1.0])
    got = {"weight": weight.clone(), "bias": torch.full((6, 7), 9.0)}
    trained("linear").constrain(got, limits)
    shortened = 0
    for c in range(5):
        for k in range(7):
            row = weight[c, k].double()
            length = math.sqrt(sum(v * v for v in row.tolist()))
            longer = length > float(limits[c])
            shortened += longer
            expected = row * (float(limits[c]) / length) if longer else row
            assert_close(got["weight"][c, k], expected, 1e-6 if longer else 0.0, f"row {c}, {k}")
    assert 14 < shortened < 30, f"{shortened} rows are too long: this test compares too little"
    assert bool(got["weight"][5].isnan().all()), f"got {got['weight'][5]}"
    assert_close(got["bias"], torch.full((6, 7), 9.0), 0.0, "the bias has no limit")


def test_limits_are_absolute_or_between_the_rows_of_stage_1(small: Problem) -> None:
    """Reference: min+f·(max−min) of the lengths of W₀, row by row in float64."""
    context, w0 = small.view().context, small.double()["w0"]
    cases: list[dict[str, Any]] = [
        {"max_norm": 0.7},
        {"max_norm_fraction": 0.0},
        {"max_norm_fraction": 0.1, "max_norm_when": "epoch"},
        {"max_norm_fraction": 1.0},
        {},
    ]
    settings = _settings("linear", cases)
    expected = [reference.row_limit(s, w0) for s in settings]
    assert expected[4] == math.inf
    for when, seen in (
        (None, [0, 1, 2, 3]),
        ("step", [0, 1, 3]),
        ("epoch", [2]),
    ):
        got = trained("linear").limits(settings, context, when)
        assert got is not None
        assert got.dtype == torch.float32
        for c, limit in enumerate(got.tolist()):
            own = expected[c] if c in seen else math.inf
            assert limit == pytest.approx(own, rel=1e-6), f"{when}, {settings[c]}: got {limit}"
    for name in HEAD_CASES:
        assert trained(name).limits(_settings(name, [{}, {}]), context) is None, name


@pytest.mark.parametrize("name", WITH_W)
def test_a_limit_given_twice_is_refused_and_a_fraction_needs_the_classifier(
    name: str, small: Problem
) -> None:
    """Reference: METHODS §3; every head with a W takes the same settings."""
    twice = _settings(name, [{"max_norm": 0.5, "max_norm_fraction": 0.1}])
    with pytest.raises(errors.ConfigError, match=r"max_norm=0.5 and .*=0\.1\. Give one"):
        trained(name).limits(twice, small.view().context)
    fraction, absolute = _settings(name, [{"max_norm_fraction": 0.1}, {"max_norm": 0.5}])
    assert trained(name).needs_classifier(fraction)
    assert trained(name).needs_classifier(absolute) == (name == "mislas")


@pytest.mark.parametrize("name", WITH_W)
@pytest.mark.parametrize("optimiser", STEPPED)
def test_a_stack_with_limits_trains_as_the_reference(
    name: str, optimiser: str, small: Problem
) -> None:
    """Reference: float64 loop that shortens row by row, after every step or once an epoch."""
    cases: list[dict[str, Any]] = [
        {"max_norm": 0.4},
        {"max_norm": 0.4, "max_norm_when": "epoch"},
        {"max_norm_fraction": 0.1},
        {"max_norm_fraction": 0.3, "max_norm_when": "epoch"},
        {},
    ]
    training = {"optimiser": optimiser, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    settings = _settings(name, cases, lr=0.02, **training)
    got = _check(name, settings, small)["weight"]
    lengths = got.norm(dim=2).amax(1).tolist()
    assert lengths[0] <= 0.4 * (1 + 1e-6), f"got {lengths}"
    assert lengths[1] <= 0.4 * (1 + 1e-6), f"got {lengths}"
    assert lengths[4] > 0.4, f"without a limit rows are no longer: {lengths}"
    assert difference(got[0], got[1]) > 1e-4, "step and epoch are the same"


@pytest.mark.parametrize("optimiser", STEPPED)
def test_mislas_can_decay_its_distance_from_stage_1(optimiser: str, small: Problem) -> None:
    """Reference: ΔW and Δb trained in float64, W₀ and b₀ added; s decays to 0 either way."""
    head, context = trained("mislas"), small.view().context
    training = {"optimiser": optimiser, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "lr": 0.05}
    cases: list[dict[str, Any]] = [
        {"delta_lr": 0.5, "weight_decay": 0.3},
        {"delta_lr": 1.0, "weight_decay": 1.0},
        {"delta_lr": 1.0, "weight_decay": 0.5, "decay_bias": False},
        {"delta_lr": 1.0, "weight_decay": 0.3, "max_norm": 0.5},
    ]
    ends = [
        _check("mislas", _settings("mislas", cases, decay=decay, **training), small)
        for decay in ("weight", "delta")
    ]
    assert difference(ends[0]["weight"], ends[1]["weight"]) > 1e-3, "both decays are the same"
    assert head.anchors(_settings("mislas", [{}], decay="weight"), context) == {}
    anchors = head.anchors(_settings("mislas", [{}, {}], decay="delta"), context)
    assert set(anchors) == {"weight", "bias"}
    assert "decay" in head.shared, "a stack has one anchor for all its configurations"


@pytest.mark.parametrize("name", reference.BIASES)
def test_biases_go_without_decay_where_asked(name: str, small: Problem) -> None:
    """Reference: float64 loop with parameter groups; both kinds in one stack."""
    cases = [{"decay_bias": True}, {"decay_bias": False}]
    settings = _settings(name, cases, weight_decay=0.5, lr=0.05)
    context, stream = small.view().context, _stream(small)
    got = _train(name, settings, context, stream)
    for c, s in enumerate(settings):
        start = {k: v[0] for k, v in HEADS[name].init([s], context).items()}
        expected = reference.train(name, s, start, stream, **small.double())
        for key, value in expected.items():
            assert_close(got[key][c], value, 2e-5, f"{key} of {name} {s}")
    for key in reference.BIASES[name]:
        assert difference(got[key][0], got[key][1]) > 1e-3, f"decay of {key} changes nothing"
    assert trained(name).biases == reference.BIASES[name]


def test_a_limit_needs_no_stage_1_where_it_is_absolute(small: Problem) -> None:
    """Reference: the limit itself."""
    bare = replace(small.view().context, weight0=None, bias0=None)
    limits = trained("mlp").limits(_settings("mlp", [{"max_norm": 2.0}]), bare)
    assert limits is not None
    assert limits.tolist() == [2.0]
