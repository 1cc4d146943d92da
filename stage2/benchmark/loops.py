"""The usual ways to train linear heads on features, to measure the engine against.

They are written as people write them, with autograd and one optimiser, and share only the training
of `stage2.benchmark.training` with the engine. Solvers share its objective: the mean cross-entropy
and half the weight decay times ‖W‖².
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from stage2.benchmark.training import Heads, Training
from stage2.benchmark.workloads import MOMENTUM, WEIGHT_DECAY

ITERATIONS = 100
"""Iterations of a solver at most."""


def plain_loop(training: Training) -> Heads:
    """One head, features and labels in memory on their device."""
    (head,) = heads = _modules(training)
    x, y = training.x, training.y
    batches = (((x[rows], y[rows]) for rows in epoch) for epoch in training.epochs())
    _train(heads, lambda x, y: cross_entropy(head(x), y), batches, training)
    return _stacked(heads)


def loader_loop(training: Training) -> Heads:
    """One head, batches from a DataLoader over tensors in main memory, no workers."""
    (head,) = heads = _modules(training)
    device = training.x.device
    data = TensorDataset(training.x.cpu(), training.y.cpu())
    batches = (
        DataLoader(data, training.batch_size, sampler=rows.flatten().tolist())
        for rows in training.draws()
    )
    _train(heads, lambda x, y: cross_entropy(head(x.to(device)), y.to(device)), batches, training)
    return _stacked(heads)


def module_dict(training: Training) -> Heads:
    """Many heads over one batch, the sum of their losses and one optimiser with a parameter group
    per head, as DINOv2 evaluates linear probes."""
    heads = _modules(training)
    probes = nn.ModuleDict({f"head{i}": head for i, head in enumerate(heads)})
    x, y = training.x, training.y

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([cross_entropy(head(x), y) for head in probes.values()]).sum()

    batches = (((x[rows], y[rows]) for rows in epoch) for epoch in training.epochs())
    _train(heads, loss, batches, training)
    return _stacked(heads)


def logistic_regression(training: Training) -> Heads:
    """scikit-learn's LogisticRegression (lbfgs), on PyTorch's number of threads.

    Its C is 1 / (weight decay · N), because it sums losses and SGD averages them.
    """
    from sklearn.exceptions import ConvergenceWarning  # heavy, and used here alone
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    x, y = training.x.cpu().numpy(), training.y.cpu().numpy()
    model = LogisticRegression(C=1 / (WEIGHT_DECAY * len(x)), max_iter=ITERATIONS)
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return _one(model.coef_, model.intercept_, training)


def cuml(training: Training) -> Heads:
    """cuML's LogisticRegression (L-BFGS) on the GPU that holds the features."""
    from cuml.linear_model import LogisticRegression  # only where it is installed

    model = LogisticRegression(C=1 / (WEIGHT_DECAY * len(training.x)), max_iter=ITERATIONS)
    model.fit(training.x, training.y)
    return _one(model.coef_, model.intercept_, training)


def lbfgs(training: Training) -> Heads:
    """torch.optim.LBFGS with its strong Wolfe line search, over all rows at once."""
    (head,) = heads = _modules(training)
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(head(training.x), training.y)
        loss = loss + WEIGHT_DECAY / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return _stacked(heads)


def _modules(training: Training) -> list[nn.Linear]:
    """A module for each configuration, as training starts."""
    _, classes, dim = training.weight.shape
    heads = []
    for weight, bias in zip(training.weight, training.bias, strict=True):
        head = nn.Linear(dim, classes, device=weight.device)
        head.load_state_dict({"weight": weight, "bias": bias})
        heads.append(head)
    return heads


def _stacked(heads: list[nn.Linear]) -> Heads:
    with torch.no_grad():
        return torch.stack([head.weight for head in heads]), torch.stack([h.bias for h in heads])


def _one(weight: object, bias: object, training: Training) -> Heads:
    """The parameters of a library's model, as those of one configuration."""
    w, b = torch.as_tensor(weight), torch.as_tensor(bias)
    return w.to(training.weight)[None], b.to(training.bias)[None]


def _train(
    heads: list[nn.Linear],
    loss: Callable[[Tensor, Tensor], Tensor],
    epochs: Iterable[Iterable[tuple[Tensor, Tensor]]],
    training: Training,
) -> None:
    groups = [
        {"params": head.parameters(), "lr": lr}
        for head, lr in zip(heads, training.rates[0].tolist(), strict=True)
    ]
    optimiser = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(training.rates))
    for batches in epochs:
        for x, y in batches:
            optimiser.zero_grad()
            loss(x, y).backward()
            optimiser.step()
        schedule.step()
