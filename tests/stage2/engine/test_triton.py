"""The Triton kernel of the loss family against the eager one and float64 autograd."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import available, binary, measure, update
from stage2.engine.gpu import loss as gpu_loss
from stage2.engine.kernel import LossRows
from stage2.methods.family import EXCLUDED, LossParameters, Moment
from stage2.methods.losses import LOSSES
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.engine.conftest import CUDA, Launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")

Case = tuple[str, dict[str, Any]]

FAMILY = [name for name in LOSS_CASES if LOSSES[name].kernel == "family"]
EVERY: list[Case] = [(name, s) for name in FAMILY for s in LOSS_CASES[name]]


def _in_parts(z: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """`loss_and_gradient` as for rows too long for registers, 64 of them at once to save time."""
    part = 4 if z.shape[2] < 64 else 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_loss, "geometry", lambda num_classes: (64, part, 4))
        return gpu_loss.loss_and_gradient(z, *arguments, **options)


FORMS = {"in registers": gpu_loss.loss_and_gradient, "in parts": _in_parts}


def _counts(num_classes: int) -> np.ndarray:
    """Long-tailed training counts [K] from 200 down to 2."""
    return np.floor(200 * 0.01 ** (np.arange(num_classes) / (num_classes - 1))).astype(np.float64)


def _tables(cases: list[Case], counts: np.ndarray, **more: Any) -> list[LossParameters]:
    return [LOSSES[name](counts, {**s, **more}, Moment(**MOMENT)) for name, s in cases]


def _batch(rows: int, configs: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, C, K], labels [B] and logits of stage 1 [B, 1, K]."""
    generator = torch.Generator().manual_seed(rows + configs + classes)
    z = 2 * torch.randn(rows, configs, classes, generator=generator)
    teacher = 3 * torch.randn(rows, 1, classes, generator=generator)
    return z, torch.randint(classes, (rows,), generator=generator), teacher


def _check_eager(
    launch: Launch, form: str, tables: list[LossParameters], z: Tensor, y: Tensor, teacher: Tensor
) -> Tensor:
    """Losses and every single row's gradient, against the eager kernel in float64."""
    classes = z.shape[2]
    rows, exact = (LossRows.stack(tables, classes, dtype=t) for t in (torch.float32, torch.float64))
    expected, slope = kernel.loss_and_gradient(z.double(), y, exact, teacher=teacher.double())
    got, gradient = launch(FORMS[form], z.clone(), y, rows, teacher=teacher)
    for c in range(len(tables)):
        what = f"configuration {c} of {len(tables)}, K = {classes}, {form}"
        assert_close(got[c], expected[c], 1e-5 * max(0.1, float(expected[c])), f"loss of {what}")
        size = slope[:, c].abs().amax(1, keepdim=True).clamp_min(0.1 / len(y))
        assert_close(gradient[:, c] / size, slope[:, c] / size, 1e-5, f"gradient of {what}")
    return gradient


def _check_autograd(
    launch: Launch,
    form: str,
    cases: list[Case],
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    kappa: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> None:
    """Losses and gradients of a stack, against float64 autograd of each configuration."""
    z, y, teacher = batch
    counts = _counts(z.shape[2])
    rows = LossRows.stack(_tables(cases, counts), z.shape[2])
    got, gradient = launch(
        FORMS[form], z.clone(), y, rows, kappa=kappa, teacher=teacher, row_weight=row_weight
    )
    for c, (name, settings) in enumerate(cases):
        own = z[:, c].double().requires_grad_()
        value = reference.loss(
            name,
            own,
            y,
            settings,
            torch.from_numpy(counts),
            **MOMENT,
            kappa=None if kappa is None else kappa[:, c].double(),
            teacher=teacher[:, 0].double(),
            row_weight=None if row_weight is None else row_weight.double(),
        )
        (slope,) = torch.autograd.grad(value, own)
        what = f"{name} {settings}, K = {z.shape[2]}, {form}"
        assert_relative(got[c], value.detach(), 1e-5, f"loss of {what}")
        assert_relative(gradient[:, c], slope, 1e-5, f"gradient of {what}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FAMILY)
def test_a_loss_alone(launch: Launch, name: str, form: str) -> None:
    """Reference: float64 autograd; C = 1, 13 rows, 7 classes."""
    for settings in LOSS_CASES[name]:
        _check_autograd(launch, form, [(name, settings)], _batch(13, 1, 7))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "classes"), [(13, 7), (5, 100), (3, 130)])
def test_every_loss_in_one_stack(launch: Launch, rows: int, classes: int, form: str) -> None:
    """Reference: float64 autograd of each configuration by itself."""
    _check_autograd(launch, form, EVERY, _batch(rows, len(EVERY), classes))


@pytest.mark.parametrize("form", FORMS)
def test_classes_without_a_sample(launch: Launch, form: str) -> None:
    """Reference: the eager kernel in float64, and 0 for the slopes of classes that are left out.

    The last configuration of the stack leaves none out.
    """
    counts = _counts(9)
    counts[[2, 8]] = 0
    without = [case for case in EVERY if LOSSES[case[0]].uses_counts]
    tables = _tables(without, counts, empty_classes="ignore") + _tables([("ce", {})], counts)
    z, _, teacher = _batch(12, len(tables), 9)
    y = torch.tensor([0, 1, 3, 4, 5, 6, 7, 0, 0, 1, 1, 3])
    gradient = _check_eager(launch, form, tables, z, y, teacher)
    left_out = torch.tensor([t.shift is not None and t.shift[2] == EXCLUDED for t in tables])
    assert left_out.any()
    assert not gradient[:, left_out][:, :, [2, 8]].any()
    assert gradient[:, ~left_out][:, :, [2, 8]].all()


@pytest.mark.parametrize("form", FORMS)
def test_confident_and_wrong_logits(launch: Launch, form: str) -> None:
    """Reference: the eager kernel in float64, row by row, on logits up to ±60."""
    z, y, teacher = _batch(24, len(EVERY), 6)
    z *= torch.linspace(0.1, 10, 24)[:, None, None]
    _check_eager(launch, form, _tables(EVERY, _counts(6)), z, y, teacher)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [-300, 300])
def test_logits_far_from_zero(launch: Launch, offset: int, form: str) -> None:
    """Reference: the eager kernel in float64, where exp of every logit leaves float32."""
    z, y, teacher = _batch(9, 3, 10)
    tables = _tables([("ce", {}), ("focal", {"gamma": 2.0}), ("los", {})], _counts(10))
    _check_eager(launch, form, tables, z + offset, y, teacher)


@pytest.mark.parametrize("form", FORMS)
def test_a_probability_of_exactly_one(launch: Launch, form: str) -> None:
    """Reference: the limits at p_y = 1: no loss and no gradient, whatever γ; ce at γ = 0."""
    tables = [LossParameters(gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0)]
    z = torch.zeros(3, 4, 5)
    z[:, :, 1] = 200
    y = torch.ones(3, dtype=torch.int64)
    loss, gradient = launch(FORMS[form], z, y, LossRows.stack(tables, 5))
    assert_close(loss, torch.zeros(4), 0)
    assert_close(gradient, torch.zeros(3, 4, 5), 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (1, 7), (5, 2), (3, 33)])
def test_the_smallest_shapes(launch: Launch, rows: int, classes: int, form: str) -> None:
    """Reference: the eager kernel in float64; one row, two classes, one above a power of two."""
    _check_eager(launch, form, _tables(EVERY, _counts(classes)), *_batch(rows, len(EVERY), classes))


@pytest.mark.parametrize("form", FORMS)
def test_factors_of_rows(launch: Launch, form: str) -> None:
    """Reference: float64 autograd, with κ, with row weights and with both."""
    generator = torch.Generator().manual_seed(0)
    kappa = 2 * torch.rand(11, len(EVERY), generator=generator)
    share = torch.softmax(torch.randn(11, generator=generator), 0)
    batch = _batch(11, len(EVERY), 7)
    _check_autograd(launch, form, EVERY, batch, kappa=kappa)
    _check_autograd(launch, form, EVERY, batch, row_weight=share)
    _check_autograd(launch, form, EVERY, batch, kappa=kappa, row_weight=share)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_weight(launch: Launch, form: str) -> None:
    """Reference: 0, where every label of the batch has weight 0 and the loss divides by Σω."""
    table = LossParameters(weight=np.array([0.0, 1, 1]), by_weights=True)
    z, _, _ = _batch(4, 1, 3)
    y = torch.zeros(4, dtype=torch.int64)
    loss, gradient = launch(FORMS[form], z, y, LossRows.stack([table], 3))
    assert_close(loss, torch.zeros(1), 0)
    assert_close(gradient, torch.zeros(4, 1, 3), 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_diverged_configuration_leaves_its_neighbours_alone(
    launch: Launch, bad: float, form: str
) -> None:
    """Reference: the same stack without it, bit by bit; its own loss and gradient are NaN."""
    z, y, _ = _batch(5, 3, 7)
    rows = LossRows.stack(_tables([("focal", {"gamma": 1.0})] * 3, _counts(7)), 7)
    expected, slope = launch(FORMS[form], z.clone(), y, rows)
    z[2, 1, 3] = bad
    loss, gradient = launch(FORMS[form], z.clone(), y, rows)
    assert loss[1].isnan()
    assert gradient[2, 1].isnan().all()
    assert torch.equal(loss[[0, 2]], expected[[0, 2]])
    assert torch.equal(gradient[:, [0, 2]], slope[:, [0, 2]])


def test_logits_in_bfloat16(launch: Launch) -> None:
    """Reference: the same numbers in float32, whose gradient is rounded to 8 bits."""
    cases = [case for case in EVERY if case[0] != "distil"]
    z, y, _ = _batch(6, len(cases), 20)
    rows = LossRows.stack(_tables(cases, _counts(20)), 20)
    short = z.bfloat16()
    expected, slope = launch(gpu_loss.loss_and_gradient, short.float(), y, rows)
    loss, gradient = launch(gpu_loss.loss_and_gradient, short.clone(), y, rows)
    assert_relative(loss, expected, 1e-6)
    assert gradient.dtype == torch.bfloat16
    assert_close(gradient / slope, torch.ones(slope.shape), 2**-7)


def _self_check(zero: Tensor, broken: str) -> Tensor:
    """Whether the self check passes, with a kernel that errs by a hundredth or does nothing."""
    with pytest.MonkeyPatch.context() as patch:
        if broken in binary.KERNELS:
            right = binary.KERNELS[broken]

            def wrong(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
                loss, gradient = right(*arguments, **options)
                return loss * 1.01, gradient

            patch.setitem(binary.KERNELS, broken, wrong)
        elif broken == "measured":
            found = measure.measured

            def shifted(*arguments: Any) -> Any:
                statistics = found(*arguments)
                assert statistics is not None
                return statistics._replace(rank=statistics.rank + 1)

            patch.setattr(measure, broken, shifted)
        elif broken:
            patch.setattr(update, broken, lambda *a, **k: None)
        return zero + available._agrees(zero.device)


@pytest.mark.parametrize("broken", ["", *binary.KERNELS, "sgd_step", "adamw_step", "measured"])
def test_the_self_check_notices_wrong_results(launch: Launch, broken: str) -> None:
    """Reference: the kernels as they are, and with one of them broken."""
    assert bool(launch(_self_check, torch.zeros(1), broken)) == (not broken)


def test_a_program_takes_whole_rows_or_parts_of_one() -> None:
    """Reference: what Triton allows: powers of two, and 1,024 threads with 16 logits or more."""
    for classes in (2, 3, 64, 65, 100, 365, 1000, 1024, 1025, 8142, 16384, 16385, 10**6):
        rows, block, warps = gpu_loss.geometry(classes)
        assert all(n & (n - 1) == 0 for n in (rows, block, warps)), (classes, rows, block, warps)
        assert 4 <= warps <= 16
        assert 1024 <= rows * block <= gpu_loss.IN_REGISTERS
        assert block >= classes or rows == 1


def test_only_a_cuda_device_is_available() -> None:
    """Reference: Triton compiles for GPUs; the interpreter is for tests."""
    assert not available.available(torch.device("cpu"))


def test_a_device_that_does_not_start_is_not_available() -> None:
    """Reference: a device that no machine has; the warning names it and what it leads to."""
    with pytest.warns(UserWarning, match="Triton cannot be used on cuda:99 .* slower kernels"):
        assert not available.available(torch.device("cuda", 99))


@pytest.mark.gpu
@CUDA
def test_a_captured_step_repeats() -> None:
    """Reference: the eager kernel; a CUDA graph of loss and SGD step, replayed on new logits."""
    assert available.available(torch.device("cuda"))
    rows = LossRows.stack(_tables(EVERY, _counts(100)), 100, device="cuda")
    z, y, teacher = (t.cuda() for t in _batch(16, len(EVERY), 100))
    p, v, rate = torch.zeros_like(z[0]), torch.zeros_like(z[0]), torch.ones(len(EVERY)).cuda()
    still = torch.zeros_like(rate)
    logits = z.clone()

    def step() -> Tensor:
        loss, gradient = gpu_loss.loss_and_gradient(logits, y, rows, teacher=teacher)
        update.sgd_step(p, v, gradient.sum(0), lr=rate, momentum=still, decay=still)
        return loss

    step()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(2):
        z = z.roll(1, 2).contiguous()
        logits.copy_(z)
        p.zero_()
        graph.replay()
        expected, gradient = kernel.loss_and_gradient(z.clone(), y, rows, teacher=teacher)
        assert_relative(loss, expected, 1e-5, "loss")
        assert_relative(p, -gradient.sum(0), 1e-5, "parameters")
