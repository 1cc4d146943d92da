"""Ensemble selection: against plain loops in float64, and its figures on val from other rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor

from stage2.engine.calibration import val_folds
from stage2.ensemble.selection import GAIN, Bag, balanced, cross_fitted, select

HEADS, CLASSES, ROWS = 7, 5, (12, 9, 6, 4, 2)


@pytest.fixture
def val() -> tuple[Tensor, Tensor]:
    """Centred logits [N, M, K] of heads that are right about different rows, and labels [N]."""
    random = torch.Generator().manual_seed(0)
    y = torch.arange(CLASSES).repeat_interleave(torch.tensor(ROWS))
    y = y[torch.randperm(len(y), generator=random)]
    z = 1.5 * torch.randn(len(y), HEADS, CLASSES, generator=random)
    right = torch.nn.functional.one_hot(y, CLASSES)[:, None]
    z += torch.linspace(1, 2.5, HEADS)[:, None] * right
    z *= torch.linspace(0.5, 4, HEADS)[:, None]
    return z - z.mean(2, keepdim=True), y


def loss(z: np.ndarray, y: np.ndarray) -> float:
    """Class-balanced negative log-likelihood of logits [N, K]."""
    rows = scipy.special.logsumexp(z, axis=1) - z[np.arange(len(y)), y]
    return float(np.mean([rows[y == k].mean() for k in np.unique(y)]))


def reference(z: np.ndarray, y: np.ndarray) -> tuple[list[int], list[float]]:
    """Counts and temperatures of Caruana's selection, every bag from scratch, T by SciPy."""
    temperatures = [
        float(
            scipy.optimize.minimize_scalar(
                lambda t, m=m: loss(z[:, m] / t, y),
                bounds=(0.01, 100),
                method="bounded",
                options={"xatol": 1e-8},
            ).x
        )
        for m in range(z.shape[1])
    ]
    bag: list[int] = []
    least = np.inf
    while True:
        losses = [
            loss(np.mean([z[:, m] / temperatures[m] for m in [*bag, added]], axis=0), y)
            for added in range(z.shape[1])
        ]
        if min(losses) > least - GAIN:
            return np.bincount(bag, minlength=z.shape[1]).tolist(), temperatures
        bag, least = [*bag, int(np.argmin(losses))], min(losses)


def test_selection_is_that_of_plain_loops(val: tuple[Tensor, Tensor]) -> None:
    """Reference: `reference`; more than one head is chosen, and one of them more than once."""
    z, y = val
    bag = select(z, y, balanced(y, torch.ones_like(y, dtype=torch.bool)))
    counts, temperatures = reference(z.double().numpy(), y.numpy())
    assert bag.counts.tolist() == counts
    assert np.count_nonzero(counts) > 1 < max(counts)
    assert bag.temperatures.numpy() == pytest.approx(np.array(temperatures), rel=1e-3)
    assert bag.nll == pytest.approx(loss(bag(z).double().numpy(), y.numpy()), rel=1e-5)


def test_selection_improves_on_every_head(val: tuple[Tensor, Tensor]) -> None:
    """On the rows that choose: a bag is no worse than the best head at its own temperature."""
    z, y = val
    bag = select(z, y, balanced(y, torch.ones_like(y, dtype=torch.bool)))
    single = [loss((z[:, m] / bag.temperatures[m]).double().numpy(), y.numpy()) for m in range(7)]
    assert bag.nll < min(single)


def same(a: Bag, b: Bag) -> bool:
    """Whether two bags are the same to the last bit."""
    return torch.equal(a.counts, b.counts) and torch.equal(a.temperatures, b.temperatures)


def test_no_row_chooses_for_itself(val: tuple[Tensor, Tensor]) -> None:
    """The bag that classifies the rows of a fold stays the same whatever these rows are; the others
    change."""
    z, y = val
    folds, usable = val_folds(y), torch.ones_like(y, dtype=torch.bool)
    logits, bags = cross_fitted(z, y, usable, folds)
    assert len(bags) == 5
    for fold, other in itertools.product(range(5), range(5)):
        changed, rows = z.clone(), folds == fold
        changed[rows] = 3 * z[rows].flip(1, 2)
        again, others = cross_fitted(changed, y, usable, folds)
        assert same(bags[other], others[other]) == (other == fold)
        assert torch.equal(logits[rows], bags[fold](z[rows]))
        assert torch.equal(again[rows], bags[fold](changed[rows]))


def test_rows_that_no_head_can_know_choose_nothing(val: tuple[Tensor, Tensor]) -> None:
    """Rows of a class without training rows: choosing is as without them, and they are classified
    all the same."""
    z, y = val
    usable = y != 4
    with_them = select(z, y, balanced(y, usable))
    without = select(z[usable], y[usable], balanced(y[usable], usable[usable]))
    assert with_them.counts.tolist() == without.counts.tolist()
    assert with_them.temperatures.tolist() == pytest.approx(without.temperatures.tolist())
    logits, _ = cross_fitted(z, y, usable, val_folds(y))
    assert logits.isfinite().all()


def test_classes_weigh_alike() -> None:
    """Reference: by hand; without usable rows a class has no share."""
    y = torch.tensor([0, 0, 1, 2])
    assert balanced(y, torch.ones(4, dtype=torch.bool)).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 1 / 3, 1 / 3]
    )
    usable = torch.tensor([True, False, True, False])
    assert balanced(y, usable).tolist() == [0.5, 0, 0.5, 0]
