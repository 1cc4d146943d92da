"""The Triton kernels of K binary terms against float64 autograd and the eager kernels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import binary
from stage2.engine.gpu import loss as gpu_loss
from stage2.engine.kernel import LossRows
from stage2.methods.family import LossParameters, Moment
from stage2.methods.losses import LOSSES
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.engine.conftest import Launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")

NAMES = {"cb_bce": "softmax_bce", "sigmoid_focal": "sigmoid_focal"}
"""The kernel of each loss."""


def _run(name: str, part: int, z: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """A kernel, with so many classes at a time, or as ever where that is 0."""
    with pytest.MonkeyPatch.context() as patch:
        if part:
            patch.setattr(gpu_loss, "geometry", lambda num_classes: (64, part, 4))
        return binary.KERNELS[name](z, *arguments, **options)


def _batch(rows: int, configs: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits [B, C, K] and labels [B]."""
    generator = torch.Generator().manual_seed(rows + configs + classes)
    z = 2 * torch.randn(rows, configs, classes, generator=generator)
    return z, torch.randint(classes, (rows,), generator=generator)


def _exact(name: str, z: Tensor, y: Tensor, tables: list[LossParameters]) -> tuple[Tensor, Tensor]:
    """The eager kernel in float64."""
    rows = LossRows.stack(tables, z.shape[2], dtype=torch.float64)
    return kernel.KERNELS[name](z.double(), y, rows)


@pytest.mark.parametrize("factors", ["none", "kappa", "row_weight", "both"])
@pytest.mark.parametrize(("rows", "classes"), [(13, 7), (5, 100), (3, 130), (1, 2)])
@pytest.mark.parametrize("loss", NAMES)
def test_every_setting_in_one_stack(
    launch: Launch, loss: str, rows: int, classes: int, factors: str
) -> None:
    """Reference: float64 autograd of each configuration by itself."""
    settings = LOSS_CASES[loss]
    counts = np.floor(200 * 0.01 ** (np.arange(classes) / (classes - 1))).astype(np.float64)
    tables = [LOSSES[loss](counts, s, Moment(**MOMENT)) for s in settings]
    z, y = _batch(rows, len(settings), classes)
    generator = torch.Generator().manual_seed(0)
    kappa = 2 * torch.rand(rows, len(settings), generator=generator)
    share = torch.softmax(torch.randn(rows, generator=generator), 0)
    given = {
        "kappa": kappa if factors in ("kappa", "both") else None,
        "row_weight": share if factors in ("row_weight", "both") else None,
    }
    stack = LossRows.stack(tables, classes)
    got, gradient = launch(_run, NAMES[loss], 0, z.clone(), y, stack, **given)
    for c, own in enumerate(settings):
        exact = z[:, c].double().requires_grad_()
        value = reference.loss(
            loss,
            exact,
            y,
            own,
            torch.from_numpy(counts),
            **MOMENT,
            kappa=None if given["kappa"] is None else kappa[:, c].double(),
            row_weight=None if given["row_weight"] is None else share.double(),
        )
        (slope,) = torch.autograd.grad(value, exact)
        assert_relative(got[c], value.detach(), 1e-5, f"loss with {own}")
        assert_relative(gradient[:, c], slope, 1e-5, f"gradient with {own}")


FOCAL = [LossParameters(gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0)]


@pytest.mark.parametrize("part", [0, 4])
@pytest.mark.parametrize("name", NAMES.values())
def test_confident_and_wrong_logits(launch: Launch, name: str, part: int) -> None:
    """Reference: the eager kernel in float64, row by row, on logits up to ±100: the gradient of
    no row loses its digits. In parts, as rows too long for registers are."""
    if part and name == "softmax_bce":
        pytest.skip("its rows are never in parts")
    z, y = _batch(24, 4, 6)
    z *= torch.linspace(0.1, 20, 24)[:, None, None]
    expected, slope = _exact(name, z, y, FOCAL)
    got, gradient = launch(_run, name, part, z.clone(), y, LossRows.stack(FOCAL, 6))
    for c in range(4):
        assert_relative(got[c], expected[c], 1e-5, f"loss of configuration {c}")
    size = slope.abs().amax(2, keepdim=True)
    # exp(−|z|) of a float32 logit errs by |z| units in the last place.
    error = (gradient - slope).abs() / size.clamp_min(1e-30) / (1 + z.abs().amax(2, keepdim=True))
    assert error.max() < 2e-6, f"gradient is off by {error.max():.2g} of its row's largest"
    assert size.min() < 1e-12, "every row is far from sure"


@pytest.mark.parametrize("name", NAMES.values())
def test_equal_logits(launch: Launch, name: str) -> None:
    """Reference: the eager kernel in float64, with ties of the largest logits and of all."""
    z = torch.tensor([[2.0, 2, 1], [2, 1, 2], [1, 1, 1], [0, 3, 3]])[:, None]
    y = torch.tensor([1, 0, 2, 0])
    expected, slope = _exact(name, z, y, [LossParameters()])
    loss, gradient = launch(_run, name, 0, z.clone(), y, LossRows.stack([LossParameters()], 3))
    assert_relative(loss, expected, 1e-6)
    assert_relative(gradient, slope, 1e-6)


@pytest.mark.parametrize("name", NAMES.values())
def test_a_batch_by_its_weights(launch: Launch, name: str) -> None:
    """Reference: the eager kernel in float64, divided by Σω; and 0 where Σω is 0."""
    tables = [
        LossParameters(weight=np.array([0.5, 3, 0]), by_weights=by_weights)
        for by_weights in (True, False)
    ]
    z, y = _batch(8, 2, 3)
    for labels in (y, torch.full_like(y, 2)):
        expected, slope = _exact(name, z, labels, tables)
        loss, gradient = launch(_run, name, 0, z.clone(), labels, LossRows.stack(tables, 3))
        assert_close(loss, expected, 1e-5)
        assert_close(gradient, slope, 1e-6)


@pytest.mark.parametrize("name", NAMES.values())
def test_a_diverged_configuration_leaves_its_neighbours_alone(launch: Launch, name: str) -> None:
    """Reference: the same stack without it, bit by bit; its own loss and gradient are NaN."""
    z, y = _batch(5, 3, 7)
    rows = LossRows.stack([LossParameters(gamma=1.0)] * 3, 7)
    expected, slope = launch(_run, name, 0, z.clone(), y, rows)
    z[2, 1, 3] = torch.nan
    loss, gradient = launch(_run, name, 0, z.clone(), y, rows)
    assert loss[1].isnan()
    assert gradient[2, 1, 3].isnan()
    assert torch.equal(loss[[0, 2]], expected[[0, 2]])
    assert torch.equal(gradient[:, [0, 2]], slope[:, [0, 2]])


@pytest.mark.parametrize("name", NAMES.values())
def test_logits_in_bfloat16(launch: Launch, name: str) -> None:
    """Reference: the same numbers in float32, whose gradient is rounded to 8 bits."""
    z, y = _batch(6, 4, 20)
    rows, short = LossRows.stack(FOCAL, 20), z.bfloat16()
    expected, slope = launch(_run, name, 0, short.float(), y, rows)
    loss, gradient = launch(_run, name, 0, short.clone(), y, rows)
    assert_relative(loss, expected, 1e-6)
    assert gradient.dtype == torch.bfloat16
    assert_close(gradient / slope, torch.ones(slope.shape), 2**-7)


def test_rows_too_long_for_registers(launch: Launch) -> None:
    """Reference: the eager kernel, which takes them."""
    z, y = _batch(2, 1, binary.LONGEST_ROW + 1)
    rows = LossRows.stack([LossParameters()], z.shape[2])
    expected = kernel.KERNELS["softmax_bce"](z.clone(), y, rows)
    got = launch(_run, "softmax_bce", 0, z.clone(), y, rows)
    for value, wanted in zip(got, expected, strict=True):
        assert_relative(value, wanted, 1e-5)
