"""The usual loops that train linear heads on features, to measure the engine against.

They are written as people write them, with autograd and one optimiser, and share only the recipe of
`stage2.benchmark.workloads` with the engine.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stage2.benchmark.workloads import EPOCHS, MOMENTUM, RATES, WEIGHT_DECAY, TimedPart, Workload

Epochs = Iterable[Iterable[tuple[Tensor, Tensor]]]
"""Batches (x [B, D], y [B]) of each epoch."""


def learning_rates(configs: int) -> list[float]:
    """The learning rates of `configs` configurations, [C]."""
    return np.geomspace(*RATES, configs).tolist()


def plain_loop(x: Tensor, y: Tensor, workload: Workload, part: TimedPart) -> nn.Module:
    """One head, features `x` [N, D] and labels `y` [N] in memory on their device."""
    head = nn.Linear(workload.dim, workload.classes).to(x.device)
    batches = _from_memory(x, y, workload.batch_size, part)
    _train(head.parameters(), lambda x, y: cross_entropy(head(x), y), batches)
    return head


def loader_loop(
    x: Tensor, y: Tensor, workload: Workload, device: torch.device, part: TimedPart
) -> nn.Module:
    """One head, batches from a shuffling DataLoader over tensors in main memory, no workers."""
    head = nn.Linear(workload.dim, workload.classes).to(device)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y),
        workload.batch_size,
        shuffle=True,
        drop_last=True,
    )
    batches = (itertools.islice(loader, part.steps) for _ in range(part.epochs))
    _train(
        head.parameters(),
        lambda x, y: cross_entropy(head(x.to(device)), y.to(device)),
        batches,
    )
    return head


def module_dict(x: Tensor, y: Tensor, workload: Workload, heads: int, part: TimedPart) -> nn.Module:
    """Many heads over one batch, the sum of their losses and one optimiser with a parameter group
    per head, as DINOv2 evaluates linear probes."""
    probes = nn.ModuleDict(
        {f"head{i}": nn.Linear(workload.dim, workload.classes) for i in range(heads)}
    )
    probes.to(x.device)
    groups = [
        {"params": head.parameters(), "lr": lr}
        for head, lr in zip(probes.values(), learning_rates(heads), strict=True)
    ]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([cross_entropy(head(x), y) for head in probes.values()]).sum()

    _train(groups, loss, _from_memory(x, y, workload.batch_size, part))
    return probes


def logistic_regression(x: Tensor, y: Tensor, threads: int) -> object:
    """scikit-learn's LogisticRegression (lbfgs, at most 100 iterations) at the same penalty.

    Its C is 1 / (weight decay · N), because it sums losses and SGD averages them.
    """
    from sklearn.exceptions import ConvergenceWarning  # heavy, and used here alone
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1 / (WEIGHT_DECAY * len(x)))
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.numpy(), y.numpy())


def _train(
    parameters: Iterable[nn.Parameter] | list[dict[str, object]],
    loss: Callable[[Tensor, Tensor], Tensor],
    epochs: Epochs,
) -> None:
    optimiser = torch.optim.SGD(
        parameters, lr=RATES[-1], momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for batches in epochs:
        for x, y in batches:
            optimiser.zero_grad()
            loss(x, y).backward()
            optimiser.step()
        schedule.step()


def _from_memory(x: Tensor, y: Tensor, batch_size: int, part: TimedPart) -> Iterator[Iterator]:
    for _ in range(part.epochs):
        order = torch.randperm(len(x), device=x.device)[: part.steps * batch_size]
        yield ((x[rows], y[rows]) for rows in order.split(batch_size))
