"""Generators on the simulated GPU: the moments of what they make, and the kernels this launches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stage2.methods.generators import calibrated, grouping
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.running import costing, gpu, trained
from tests.stage2.methods.test_generators import SHAPES, assert_calibrated, assert_own
from tests.stage2.synthetic import problem

FILLING = ("afg", "dc", "tailcalib", "gaussian", "smote")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("shape", ["usual", "wide", "copies"])
@pytest.mark.parametrize("name", ["afg", "dc", "tailcalib"])
def test_calibrated_moments(
    name: str, shape: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: calibrated mean and covariance of the source, as on the CPU."""
    if not kept:
        monkeypatch.setattr(calibrated, "KEPT_BYTES", 0)
    of, rows = SHAPES[shape]
    with gpu():
        assert_calibrated(name, {}, of, rows, "cuda")


@pytest.mark.parametrize("dim", [5, 50])
def test_moments_of_own_gaussians(dim: int) -> None:
    """Reference: N(μ_k, Σ_k), of classes with fewer samples than features and with more."""
    with gpu():
        assert_own("gaussian", {}, dim, "cuda")


@pytest.mark.parametrize("most", [1, 1 << 12, 1 << 28])
def test_groups_are_multiplied_in_any_pieces(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: a product per group, of numbers that follow from their place."""
    monkeypatch.setattr(grouping, "GROUPED_BYTES", most)
    monkeypatch.setattr(grouping, "SMALL_BYTES", 0)
    rng = np.random.default_rng(0)
    count, rank = torch.tensor([3, 0, 5, 1, 9, 2, 4]), torch.tensor([2, 4, 0, 7, 3, 3, 8])
    factors = torch.from_numpy(rng.normal(size=(7, 8, 6))).float()
    scale = torch.rand(int(count.sum()))
    to = torch.zeros(int(count.sum()), 6)

    def numbers(noise: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        _, t, r = noise.shape
        place = groups[:, None, None] + torch.arange(t)[:, None] / 7 + torch.arange(r) / 3
        return noise.copy_(place.sin() * (torch.arange(r) < rank[groups, None, None]))

    grouping.add_products(
        to,
        count,
        rank,
        lambda groups, largest: factors[groups, :largest],
        torch.Generator(),
        shaped=numbers,
        scale=scale,
    )
    first = 0
    for g, (t, r) in enumerate(zip(count.tolist(), rank.tolist(), strict=True)):
        noise = (g + torch.arange(t)[:, None] / 7 + torch.arange(r) / 3).sin()
        expected = noise @ factors[g, :r] * scale[first : first + t, None]
        torch.testing.assert_close(to[first : first + t], expected, rtol=1e-5, atol=1e-5)
        first += t


@pytest.mark.parametrize("name", FILLING)
def test_launches_do_not_grow_with_the_classes(name: str) -> None:
    """Reference: the launches and waits of an epoch's window for a third as many classes."""
    launches, waits = [], []
    for classes in (8, 24):
        counts = np.geomspace(60, 3, classes).astype(int)
        recipes = [Recipe("ce", generator=name, epochs=1, batch_size=32)]
        with gpu() as device, costing(device) as cost:
            trained(recipes, problem(counts, dim=64), "cuda", measured=False)
        launches.append(cost.made["launches"])
        waits.append(cost.made["waits"])
    assert launches[1] <= 1.2 * launches[0], f"{name} launches {launches}"
    assert max(waits) <= 40, f"{name} waits {waits}"
