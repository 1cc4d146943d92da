"""The fused pass against PyTorch in float64, by Triton's interpreter or on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import available, fused, fused_check, scaled_loss
from stage2.engine.gpu.fused import FusedPass
from stage2.engine.kernel import LossRows
from stage2.engine.passes import PassLosses
from stage2.engine.rows import Window
from stage2.methods.family import EXCLUDED, LossParameters
from stage2.methods.heads import Context, Parameters, trained_head
from stage2.methods.optimisers import STEPPED
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.engine.conftest import Launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")

WITHIN = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 5e-2}
"""Allowed error of a parameter as a share of the way it went, by precision."""

Numbers = dict[str, Any]


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Give Triton's interpreter products of bfloat16, whose bits it would take for integers."""
    if not os.environ.get("TRITON_INTERPRET"):
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    product = interpreter.InterpreterBuilder.create_dot

    def wide(value: Any) -> Any:
        if value.dtype.scalar != tl.bfloat16:
            return value
        bits = value.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            interpreter.InterpreterBuilder,
            "create_dot",
            lambda self, a, b, *rest: product(self, wide(a), wide(b), *rest),
        )
        yield


def losses_of(classes: int) -> list[LossParameters]:
    """Losses that reach every term of the family."""
    ramp = np.linspace(0.5, 1.5, classes)
    left_out = np.where(np.arange(classes) == classes - 1, EXCLUDED, 0.0)
    return [
        LossParameters(),
        LossParameters(scale=ramp, shift=np.log(ramp), margin=0.3 * ramp),
        LossParameters(smoothing=0.4 * ramp / 1.5, others=True),
        LossParameters(weight=ramp[::-1].copy(), by_weights=True, gamma=1.5),
        LossParameters(weight=ramp, frozen_gamma=0.5, smoothing=0.1 * ramp, shift=left_out),
    ]


def numbers(
    head: str, rule: str, shape: tuple[int, int, int, int], *, steps: int = 2, **more: Any
) -> Numbers:
    """Parameters, batches and settings of C configurations, for C, K, D and B."""
    configs, classes, dim, batch = shape
    generator = torch.Generator().manual_seed(configs + classes + dim + batch)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    parameters = {"weight": normal(configs, classes, dim) / dim**0.5}
    if head == "cosine":
        parameters["scale"] = 5 + normal(configs, 1)
    else:
        parameters["bias"] = normal(configs, classes)
    if head == "mislas":
        parameters["scale"] = 1 + 0.3 * normal(configs, classes)
    settings = [
        {s.name: s.default for s in STEPPED[rule].settings}
        | {"weight_decay": 0.1 * c, "decay_bias": c != 1}
        | ({"nesterov": c % 2 == 1, "momentum": 0.9 - 0.1 * c} if rule == "sgd" else {"eps": 1e-3})
        for c in range(configs)
    ]
    return {
        "head": head,
        "rule": rule,
        "parameters": parameters,
        "settings": settings,
        "x": 0.1 + normal(batch + 5, dim),
        "rows": torch.randint(batch + 5, (steps, batch), generator=generator),
        "y": torch.randint(max(1, classes - 1), (steps, batch), generator=generator),
        "rates": 0.02 + 0.1 * torch.rand(steps, configs, generator=generator),
        "losses": (losses_of(classes) * configs)[:configs],
        "anchors": {},
        "multipliers": {},
    } | more


def by_torch(given: Numbers) -> Numbers:
    """The parameters after the steps, and the losses' sum, in float64."""
    head = trained_head(given["head"])
    parameters = {name: p.double() for name, p in given["parameters"].items()}
    classes, dim = parameters["weight"].shape[1:]
    rows = LossRows.stack(given["losses"], classes, dtype=torch.float64)
    anchors = {name: p.double() for name, p in given["anchors"].items()}
    optimiser = STEPPED[given["rule"]](
        parameters, given["settings"], given["multipliers"], anchors=anchors, biases=head.biases
    )
    context = Context(np.ones(classes), dim, torch.device("cpu"), list)
    total = torch.zeros(len(given["losses"]), dtype=torch.float64)
    for at, y, rates in zip(given["rows"], given["y"], given["rates"].double(), strict=True):
        batch = context.batch(given["x"].double(), at)
        loss, gradient = kernel.loss_and_gradient(head.logits(parameters, batch), y, rows)
        optimiser.step(head.gradients(parameters, batch, gradient), rates)
        total += loss
    return {**parameters, "total": total}


def by_kernels(given: Numbers, precision: str, cut: tuple[int, ...] = ()) -> Numbers:
    """The same by the fused pass, in windows that end before the steps `cut`."""
    head, parameters = trained_head(given["head"]), given["parameters"]
    device = parameters["weight"].device
    parameters = {name: p.clone() for name, p in parameters.items()}
    rows = LossRows.stack(given["losses"], parameters["weight"].shape[1], device=device)
    optimiser = STEPPED[given["rule"]](
        parameters,
        given["settings"],
        given["multipliers"],
        anchors=given["anchors"],
        biases=head.biases,
    )
    steps = len(given["rows"])
    made = FusedPass(
        head, optimiser, precision=precision, rates=given["rates"], limits=None, steps=steps
    )
    total, first = torch.zeros(len(given["losses"]), dtype=torch.float64, device=device), 0
    with interpreted():
        for last in (*cut, steps):
            window = Window(given["x"], given["rows"][first:last], given["y"][first:last])
            losses, taken = made.train(window, first, PassLosses(rows, None, None), Event())
            total += losses
            first += taken
    return {**parameters, "total": total}


def check(launch: Launch, given: Numbers, precision: str) -> None:
    """Every parameter, as a share of the way that it went; and the losses."""
    expected, got = by_torch(given), launch(by_kernels, given, precision)
    for name, start in given["parameters"].items():
        way = (expected[name] - start).norm()
        error = (got[name] - expected[name]).norm()
        rounding = 1e-6 * start.norm()
        assert error <= WITHIN[precision] * way + rounding, f"{name}: {error / way:.1e} of the way"
    within = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 2e-2}[precision]
    assert_close(got["total"] / expected["total"], torch.ones(len(got["total"])), within)


@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize("rule", STEPPED)
@pytest.mark.parametrize("head", ["linear", "cosine", "mislas"])
def test_steps(launch: Launch, head: str, rule: str, precision: str) -> None:
    """Reference: the head, the losses and the optimiser in float64."""
    check(launch, numbers(head, rule, (5, 7, 5, 11)), precision)


@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize("shape", [(2, 70, 130, 9), (1, 2, 2, 1), (1, 16, 8, 35)])
def test_sizes(launch: Launch, shape: tuple[int, int, int, int], precision: str) -> None:
    """Reference: the same; several tiles of columns, one row of a batch, more than a tile of it."""
    check(launch, numbers("cosine", "sgd", shape), precision)


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("rule", STEPPED)
def test_anchors_and_multipliers(launch: Launch, rule: str, one: bool) -> None:
    """Reference: the same; anchors of all or of each, and a configuration whose s is frozen."""
    given = numbers("mislas", rule, (3, 20, 40, 9))
    anchors = {
        name: (p[:1] if one else p).clone() for name, p in given["parameters"].items() if p.dim()
    }
    del anchors["scale"]
    multipliers = {"weight": [0.2, 1.0, 0.0], "bias": [0.2, 1.0, 0.0], "scale": [1.0, 0.0, 0.5]}
    given |= {"anchors": anchors, "multipliers": multipliers}
    check(launch, given, "fp32")
    check(launch, given, "tf32")


def by_parts(given: Numbers, precision: str) -> Numbers:
    """The fused pass as for rows too long for registers, 8 classes at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaled_loss, "geometry", lambda classes, configs: (1, 8, 4))
        return by_kernels(given, precision)


@pytest.mark.parametrize(("head", "precision"), [("mislas", "fp32"), ("cosine", "bf16")])
def test_long_rows(launch: Launch, head: str, precision: str) -> None:
    """Reference: rows in registers."""
    given = numbers(head, "sgd", (5, 11, 6, 5))
    expected = launch(by_kernels, given, precision)
    got = launch(by_parts, given, precision)
    for name, value in expected.items():
        # What bfloat16 rounds apart is a factor of the next step.
        assert_relative(got[name], value, 1e-6 if precision == "fp32" else 1e-3, name)


@pytest.mark.parametrize("head", ["linear", "cosine", "mislas"])
def test_windows_change_no_bit(launch: Launch, head: str) -> None:
    """Reference: all steps in one window."""
    given = numbers(head, "adamw", (2, 9, 12, 20), steps=4)
    one, three = (launch(by_kernels, given, "bf16", cut) for cut in ((), (1, 3)))
    for name in given["parameters"]:
        assert torch.equal(one[name], three[name]), name


def _moved_between(given: Numbers, fresh: bool) -> Parameters:
    """Step 0; another W from others; and step 2, by the same pass or by a fresh one."""
    head = trained_head(given["head"])
    parameters = {name: p.clone() for name, p in given["parameters"].items()}
    rows = LossRows.stack(
        given["losses"], parameters["weight"].shape[1], device=parameters["weight"].device
    )
    optimiser = STEPPED["sgd"](parameters, given["settings"], {})

    def made() -> FusedPass:
        return FusedPass(
            head, optimiser, precision="bf16", rates=given["rates"], limits=None, steps=3
        )

    used = made()
    with interpreted():
        for step in (0, 2):
            window = Window(given["x"], given["rows"][step, None], given["y"][step, None])
            used.train(window, step, PassLosses(rows, None, None), Event())
            if step == 0:
                parameters["weight"].mul_(1.5)
                used = made() if fresh else used
    return parameters


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_weights_that_others_change(launch: Launch, head: str) -> None:
    """Reference: a pass that is made after the change; the bfloat16 weights and norms follow."""
    given = numbers(head, "sgd", (2, 9, 12, 20), steps=3)
    kept, fresh = (launch(_moved_between, given, fresh) for fresh in (False, True))
    for name, value in fresh.items():
        assert torch.equal(kept[name], value), name


def test_a_diverged_configuration_leaves_its_neighbours_alone(launch: Launch) -> None:
    """Reference: the same configurations without it, bit by bit."""
    given = numbers("cosine", "sgd", (3, 9, 12, 20))
    expected = launch(by_kernels, given, "tf32")
    given["parameters"]["weight"][1, 2, 3] = torch.nan
    got = launch(by_kernels, given, "tf32")
    assert got["total"][1].isnan()
    for name, value in expected.items():
        assert torch.equal(got[name][[0, 2]], value[[0, 2]]), name


def test_sums_of_weights(launch: Launch) -> None:
    """Reference: Σω of each batch, of more steps than are counted at a time."""
    y = torch.randint(5, (fused.SUM_STEPS + 3, 7), generator=torch.Generator().manual_seed(0))
    weight = torch.rand(5, 2, generator=torch.Generator().manual_seed(1))
    assert_close(launch(fused._weight_sums, y, weight), weight[y].sum(1), 1e-5)


def test_which_windows_it_takes() -> None:
    """Reference: neither κ nor distillation nor rows with two labels."""
    given = numbers("linear", "sgd", (1, 4, 3, 2))
    parameters = given["parameters"]
    optimiser = STEPPED["sgd"](parameters, given["settings"], {})
    made = FusedPass(
        trained_head("linear"),
        optimiser,
        precision="fp32",
        rates=given["rates"],
        limits=None,
        steps=3,
    )
    window = Window(given["x"], given["rows"], given["y"])
    for loss, taken in (
        (LossParameters(gamma=1.0), True),
        (LossParameters(angle=1.0), False),
        (LossParameters(distil=1.0), False),
    ):
        assert made.takes(window, PassLosses(LossRows.stack([loss], 4), None, None)) == taken


def _self_check(zero: Tensor, broken: str) -> Tensor:
    """Whether the self check passes, with a kernel that does nothing."""
    with interpreted(), pytest.MonkeyPatch.context() as patch:
        if broken:
            patch.setattr(fused, broken, lambda *a, **k: None)
        return zero + fused_check.agrees(zero.device)


@pytest.mark.parametrize("broken", ["", "small_step", "weight_step", "lengths"])
def test_the_self_check_notices_wrong_results(launch: Launch, broken: str) -> None:
    """Reference: the kernels as they are, and with one of them broken."""
    assert bool(launch(_self_check, torch.zeros(1), broken)) == (not broken)


def test_only_a_cuda_device_fuses() -> None:
    """Reference: Triton compiles for GPUs; the interpreter is for tests."""
    assert not available.fuses(torch.device("cpu"))


def test_programs_and_their_rows() -> None:
    """Reference: powers of 2, 1,024 logits or more where C has them, and no more than `SPAN`."""
    for classes in (2, 3, 64, 100, 365, 1000, 4096, 4097, 8142, 10**5):
        for configs in (1, 3, 256):
            rows, block, warps = scaled_loss.geometry(classes, configs)
            assert all(n & (n - 1) == 0 for n in (rows, block, warps)), (rows, block, warps)
            assert 4 <= warps <= 16
            assert rows * block <= scaled_loss.IN_REGISTERS
            assert block >= classes or rows == 1
            for batch in (1, 16, 512, 10**5):
                assert 8 <= scaled_loss.span_of(batch, -(-configs // rows)) <= scaled_loss.SPAN


def test_rows_of_a_batch(launch: Launch) -> None:
    """Reference: indexing and PyTorch's normalize; a row of zeros stays."""
    x = torch.randn(9, 300, generator=torch.Generator().manual_seed(0))
    x[3] = 0
    rows = torch.tensor([3, 8, 0, 8])
    for unit in (False, True):
        expected = torch.nn.functional.normalize(x, dim=1)[rows] if unit else x[rows]
        got = launch(fused.factor_rows, x, rows, unit=unit, dtype=torch.float32)
        assert_close(got, expected, 1e-6)
        half = launch(fused.factor_rows, x, rows, unit=unit, dtype=torch.bfloat16)
        assert_close(half.float(), expected.bfloat16().float(), 1e-2 * float(expected.abs().max()))
