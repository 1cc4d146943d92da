"""Training features for tests of generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage2.methods.generators.interface import Features, Made


def features(x: Any, labels: Any, *, classes: int | None = None, copies: int = 1) -> Features:
    """Features of rows `x` [A·N, D] of items with labels [N]; `classes` may be more."""
    y = torch.as_tensor(labels, dtype=torch.int64)
    counts = np.bincount(y.numpy(), minlength=classes or 0).astype(np.float64)
    return Features(torch.as_tensor(x, dtype=torch.float32), y.repeat(copies), copies, counts)


def labels_of(counts: Sequence[int], seed: int = 0) -> Tensor:
    """Labels [N] of classes of these sizes, shuffled."""
    return torch.from_numpy(
        np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    )


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers on the CPU."""
    return torch.Generator().manual_seed(seed)


def in_order(made: Made) -> Tensor:
    """The features of drawn rows that do not depend on β, in the order they were drawn, [R, D]."""
    assert made.blend is None
    return made.x[made.rows]
