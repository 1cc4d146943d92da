"""The Triton kernels of statistics of logits, and of temperatures, against PyTorch's passes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.engine.gpu import measure
from stage2.engine.gpu import temperature as gpu_temperature
from stage2.engine.native.measuring import Measured
from stage2.engine.shifting import ShiftTally
from stage2.engine.tally import _softmax_sums, label_rank
from stage2.engine.temperature import moments
from tests.stage2.compare import assert_close
from tests.stage2.engine.conftest import Launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")


def _measured(
    z: Tensor, y: Tensor, counts: np.ndarray | None, prior: Tensor | None
) -> tuple[Tensor, ...]:
    """The statistics one after the other."""
    shift = None if counts is None else ShiftTally(counts, prior)
    found = measure.measured(z, y, shift.places if shift else None)
    assert isinstance(found, Measured)
    return *found[:7], *(found.bounds or ())


def _rank(z: Tensor, y: Tensor) -> tuple[Tensor, ...] | None:
    return measure.label_rank(z, y)


def _logits(rows: int, configs: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits with ties, and labels."""
    generator = torch.Generator().manual_seed(rows + classes)
    z = torch.randn(rows, configs, classes, generator=generator).mul_(4).round_(decimals=1)
    return z, torch.randint(classes, (rows,), generator=generator)


SHAPES = [(20, 5, 100), (9, 3, 13), (33, 1, 2), (3, 2, 700), (17, 9, 64)]


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("rows", "configs", "classes"), SHAPES)
def test_statistics(launch: Launch, rows: int, configs: int, classes: int, shifted: bool) -> None:
    """Reference: PyTorch's passes; ranks and classes are the same, sums to 1e-6."""
    z, y = _logits(rows, configs, classes)
    counts = np.arange(classes)[::-1] + 3
    prior = torch.zeros(configs, classes)
    if shifted:
        prior = torch.randn(configs, classes, generator=torch.Generator().manual_seed(1))
    rank, own, top, partition, norm, total, predicted, *bounds = launch(
        _measured, z.clone(), y, counts, prior
    )
    assert all(map(torch.equal, (rank, own), label_rank(z, y)))
    for bound, wanted in zip(bounds, ShiftTally(counts, prior).bounds(z, y), strict=True):
        assert_close(bound, wanted, 1e-5)
    assert torch.equal(predicted.long(), z.argmax(2))
    assert_close(total, z.sum(0), 1e-4)
    expected_top, expected_partition, expected_norm = _softmax_sums(z.clone())
    assert torch.equal(top, expected_top)
    assert_close(partition / expected_partition, torch.ones_like(top), 1e-6)
    assert_close(norm / expected_norm, torch.ones_like(top), 1e-6)
    assert all(map(torch.equal, launch(_rank, z, y), label_rank(z, y)))


def test_logits_close_to_each_other_and_to_zero(launch: Launch) -> None:
    """Reference: `label_rank`; differences below the least normal number, and equal logits."""
    z = torch.tensor([[1e-40, 2e-40, 0.0, -0.0], [3.0, 3.0, 3.0, 3.0000002]])[:, None]
    for label in range(4):
        y = torch.full((2,), label)
        assert all(map(torch.equal, launch(_rank, z, y), label_rank(z, y)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite(launch: Launch, value: float) -> None:
    """Reference: PyTorch, which has the last word on what a NaN does; other rows do not change."""
    z, y = torch.randn(40, 2, 7), torch.arange(40) % 7
    whole = launch(_measured, z.clone(), y, None, None)
    z[:7, 1, 3] = value  # of labels before, at and after it
    shift = ShiftTally(np.arange(7)[::-1] + 1, torch.zeros(2, 7))
    got = launch(_measured, z.clone(), y, np.arange(7)[::-1] + 1, torch.zeros(2, 7))
    names = ("rank", "own", "top", "partition", "norm", "total", "predicted", "low", "high")
    each = *label_rank(z, y), *_softmax_sums(z.clone()), z.sum(0), z.argmax(2), *shift.bounds(z, y)
    for name, found, wanted in zip(names, got, each, strict=True):
        close = torch.allclose(found.float(), wanted.float(), 1e-5, 1e-5, equal_nan=True)
        assert close, f"{name}: got {found}, expected {wanted}"
    assert torch.equal(got[3][7:], whole[3][7:])
    assert torch.equal(got[3][:, 0], whole[3][:, 0])


def _moments(z: Tensor, y: Tensor, scale: Tensor, configs: Tensor) -> tuple[Tensor, ...] | None:
    return gpu_temperature.moments(z[::2], y[::2], scale, configs)


@pytest.mark.parametrize(("rows", "configs", "classes"), SHAPES)
def test_moments(launch: Launch, rows: int, configs: int, classes: int) -> None:
    """Reference: PyTorch in float64, for every other row, and classifiers in another order."""
    z, y = _logits(rows, configs, classes)
    chosen = torch.arange(configs).flip(0)[: max(1, configs - 1)]
    scale = torch.logspace(-2, 1, len(chosen))
    got = launch(_moments, z, y, scale, chosen)
    expected = moments(z[::2, chosen].double(), y[::2], scale.double())
    for name, value, wanted in zip(("loss", "L'", "L''"), got, expected, strict=True):
        assert_close(value, wanted, 2e-5 * max(1.0, float(wanted.abs().max())), name)


def test_moments_of_logits_that_are_not_finite(launch: Launch) -> None:
    """Reference: the other rows; those of a NaN are NaN, by themselves."""
    z, y = _logits(8, 2, 5)
    scale, chosen = torch.ones(2), torch.arange(2)
    whole = launch(_moments, z, y, scale, chosen)
    z[4, 1, 2] = torch.nan
    for value, before in zip(launch(_moments, z, y, scale, chosen), whole, strict=True):
        assert value[2, 1].isnan()
        value[2, 1] = before[2, 1]
        assert torch.equal(value, before)


def test_sums_in_one_order(launch: Launch) -> None:
    """Reference: the same again, bit by bit."""
    z, y = _logits(40, 3, 50)
    first, second = (launch(_measured, z.clone(), y, None, None) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_rows_too_long_for_registers() -> None:
    """Reference: none; PyTorch takes them."""
    z, y = torch.zeros(1, 1, measure.LONGEST_ROW + 1), torch.zeros(1, dtype=torch.int64)
    assert measure.measured(z, y, None) is None
    assert measure.label_rank(z, y) is None
    z = torch.zeros(1, 1, gpu_temperature.IN_REGISTERS + 1)
    assert gpu_temperature.moments(z, y, torch.ones(1), y) is None
