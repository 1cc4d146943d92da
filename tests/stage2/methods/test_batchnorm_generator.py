"""Batches normalised by their moments, against BatchNorm of PyTorch in train mode."""

from __future__ import annotations

import torch
from torch import nn

from stage2.methods.generators.batchnorm import BatchNorm
from tests.stage2.compare import assert_close
from tests.stage2.methods.features import features, generator, in_order, labels_of

COUNTS = (30, 12, 5, 0, 1)


def test_batches_are_normalised_as_by_batchnorm() -> None:
    """Reference: `BatchNorm1d` in train mode, its output taken back by the averages of the moments
    that its running statistics would have; in eval mode with these, features stay as they are."""
    x = 3 * torch.randn(2 * sum(COUNTS), 7, generator=generator(1)) + torch.arange(7.0)
    data = features(x, labels_of(COUNTS), classes=len(COUNTS), copies=2)
    draws = torch.randint(len(x), (6, 16), generator=generator(2))
    generation = BatchNorm().prepare({}, data)
    made = generation.make(draws, 0, generator())
    batches = x[draws].double()
    mean, variance = batches.mean(1).mean(0), batches.var(1, correction=0).mean(0)
    layer = nn.BatchNorm1d(7).double().train()
    with torch.no_grad():
        normalised = torch.stack([layer(batch) for batch in batches])
    expected = normalised * (variance + layer.eps).sqrt() + mean
    assert_close(in_order(made), expected.flatten(0, 1), 1e-5, "normalised features")
    assert torch.equal(made.y, data.labels[draws.flatten()])
    assert made.second is None
    assert len(generation.labels) == sum(COUNTS)
    assert torch.equal(generation.space(x), x)


def test_a_row_alone_is_the_mean() -> None:
    """Reference: the formula; a batch of one row has no deviation, and nothing is divided by 0."""
    data = features(torch.randn(18, 3, generator=generator(3)), labels_of((12, 6)))
    made = BatchNorm().prepare({}, data).make(torch.arange(4)[:, None], 0, generator())
    assert_close(in_order(made), data.x[:4].mean(0).expand(4, 3), 1e-6, "rows alone")
