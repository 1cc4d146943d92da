"""Metrics on the simulated GPU, with Triton's kernel of statistics and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stage2.engine.tally import Tally, label_rank
from tests.stage2.cuda.running import TRITON, gpu
from tests.stage2.engine.test_metrics import assert_same, evaluate

COUNTS = np.array([150, 101, 100, 60, 20, 19, 3])
KERNELS = [
    pytest.param(True, marks=pytest.mark.skipif(not TRITON, reason="no Triton"), id="triton"),
    pytest.param(False, id="pytorch"),
]


@pytest.mark.parametrize("triton", KERNELS)
def test_metrics(triton: bool) -> None:
    """Reference: the CPU, with every detail and beside a configuration whose logits are NaN. Sums
    of fractions have one order, and the host waits for nothing."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, 203)
    z = (rng.normal(0, 2, (203, 4, 7)) + 2 * np.eye(7)[y][:, None]).astype(np.float32)
    z[5, 2, 3] = np.nan
    prior = rng.normal(size=(4, 7)).astype(np.float32)
    with gpu(triton=triton) as device:
        place = torch.from_numpy(prior).to("cuda")
        labels = torch.from_numpy(y).to("cuda")
        tally = Tally(labels, 7, 4, COUNTS, closer=True, log_prior=place)
        tally.add(torch.from_numpy(z[:100]).to("cuda"))  # checks the kernels
        device.waits.clear()
        device.launches.clear()
        tally.add(torch.from_numpy(z[100:]).to("cuda"))
        assert not device.waits, f"got {dict(device.waits)}"
        assert device.launches["measure_kernel"] == triton
        launches = device.launches.total()
        assert launches <= (18 if triton else 53), f"a block launches {launches} kernels"
        got = tally.evaluations()
    assert not device.unordered, f"got {dict(device.unordered)}"
    expected = evaluate(z, y, COUNTS, closer=True, log_prior=prior)
    for c in (0, 1, 3):
        assert_same(got[c], expected[c], f"of configuration {c}", within=1e-5)
    assert got[2].metrics["nll"] is None
    assert got[2].metrics["ece"] is None


@pytest.mark.skipif(not TRITON, reason="no Triton")
def test_ranks_take_one_launch() -> None:
    """Reference: one kernel instead of six."""
    z, y = torch.randn(9, 2, 5), torch.arange(9) % 5
    with gpu() as device:
        there = z.to("cuda"), y.to("cuda")
        label_rank(*there)  # checks the kernels
        device.launches.clear()
        rank, own = label_rank(*there)
        assert device.launches.total() == 1, f"got {dict(device.launches)}"
        found = rank.cpu(), own.cpu()
    assert all(map(torch.equal, found, label_rank(z, y)))
