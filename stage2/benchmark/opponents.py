"""Other ways to train many linear heads, each of them the recipe of `stage2.benchmark.workloads`.

An opponent is one function and one row of `OPPONENTS`. It takes a `Training`: the rows, their
order, the learning rates and the initial parameters of the engine. It returns the parameters, so
that they can be compared with the engine's before it is timed (`stage2.benchmark.contenders`). The
usual loops are in `stage2.benchmark.loops`; those here train C configurations in fused operations.

Axes: B rows of a batch, C configurations, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, linear

from stage2.benchmark import loops
from stage2.benchmark.training import Heads, Training
from stage2.benchmark.workloads import MOMENTUM, SIDE_BY_SIDE, WEIGHT_DECAY, Workload

SOLVER_LIMIT = 10**9
"""N·D·K above which scikit-learn is skipped."""


@dataclass(frozen=True)
class Opponent:
    """A way to train linear heads.

    Attributes
    ----------
    train
        From a training to its parameters.
    description
        For the documentation.
    most
        Configurations that it trains together at most.
    solver
        Whether it minimises the recipe's objective to its end instead of taking the recipe's steps.
    runs
        Whether it runs on a workload and a kind of device, ``cpu`` or ``cuda``.
    """

    train: Callable[[Training], Heads]
    description: str
    most: int | None = None
    solver: bool = False
    runs: Callable[[Workload, str], bool] = lambda workload, device: True


def hand_fused(training: Training) -> Heads:
    """One product for all logits, the gradient by hand, SGD by hand; buffers are used again."""
    configs, classes, dim = training.weight.shape
    batch = training.batch_size
    w, b = training.weight.view(-1, dim).clone(), training.bias.view(-1).clone()
    v, u = torch.zeros_like(w), torch.zeros_like(b)
    z, p = w.new_empty(batch, len(w)), w.new_empty(batch, configs, classes)
    minus, ones = w.new_full((batch, configs, 1), -1), w.new_ones(batch)
    for x, y, lr in training.steps():
        rate = lr.repeat_interleave(classes)
        torch.addmm(b, x, w.t(), out=z)
        torch.softmax(z.view_as(p), 2, out=p)
        p.scatter_add_(2, y.view(-1, 1, 1).expand_as(minus), minus)
        g = p.view_as(z).t()
        v.addmm_(g, x, beta=MOMENTUM, alpha=1 / batch).add_(w, alpha=WEIGHT_DECAY)
        u.addmv_(g, ones, beta=MOMENTUM, alpha=1 / batch).add_(b, alpha=WEIGHT_DECAY)
        w.addcmul_(v, rate[:, None], value=-1)
        b.addcmul_(u, rate, value=-1)
    return w.view(configs, classes, dim), b.view(configs, classes)


def hand_tiles(training: Training) -> Heads:
    """`hand_fused` on tiles of at most `SIDE_BY_SIDE` configurations, one thread each."""
    threads = torch.get_num_threads()
    size = min(SIDE_BY_SIDE, -(-len(training.weight) // threads))
    parts = zip(
        training.weight.split(size),
        training.bias.split(size),
        training.rates.split(size, 1),
        strict=True,
    )
    tiles = [replace(training, weight=w, bias=b, rates=rates) for w, b, rates in parts]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with pool:
        weights, biases = zip(*pool.map(hand_fused, tiles), strict=True)
    return torch.cat(weights), torch.cat(biases)


def one_linear(training: Training) -> Heads:
    """One nn.Linear(D, C·K), the mean loss of every configuration, autograd."""
    configs, classes, dim = training.weight.shape
    layer = nn.Linear(dim, configs * classes, device=training.weight.device)
    with torch.no_grad():
        layer.weight.copy_(training.weight.view_as(layer.weight))
        layer.bias.copy_(training.bias.view_as(layer.bias))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        z = layer(x).view(-1, classes)
        return cross_entropy(z, y.repeat_interleave(configs), reduction="sum") / len(y)

    _autograd([layer.weight, layer.bias], loss, training, repeats=classes)
    with torch.no_grad():
        return layer.weight.view_as(training.weight), layer.bias.view_as(training.bias)


def baddbmm(training: Training) -> Heads:
    """W as [C, D, K] and torch.baddbmm, as HFTA fuses linear layers; autograd."""
    configs, classes, _ = training.weight.shape
    w = training.weight.transpose(1, 2).contiguous().requires_grad_()
    b = training.bias[:, None].clone().requires_grad_()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        z = torch.baddbmm(b, x.expand(configs, -1, -1), w).view(-1, classes)
        return cross_entropy(z, y.repeat(configs), reduction="sum") / len(y)

    _autograd([w, b], loss, training)
    return w.detach().transpose(1, 2), b.detach().squeeze(1)


def vmap_grad(training: Training) -> Heads:
    """torch.func: vmap over the gradient of one head's loss."""
    parameters = [training.weight.clone(), training.bias.clone()]

    def loss(parameters: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(linear(x, *parameters), y)

    gradients = vmap(grad(loss), in_dims=(0, None, None))
    _sgd(parameters, lambda x, y: gradients((parameters[0], parameters[1]), x, y), training)
    return parameters[0], parameters[1]


def _autograd(
    parameters: list[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    training: Training,
    *,
    repeats: int = 1,
) -> None:
    """Steps down the gradient of the loss, by autograd."""
    _sgd(parameters, lambda x, y: torch.autograd.grad(loss(x, y), parameters), training, repeats)


def _sgd(
    parameters: list[Tensor],
    gradients: Callable[[Tensor, Tensor], Iterable[Tensor]],
    training: Training,
    repeats: int = 1,
) -> None:
    """SGD with momentum and a learning rate for each configuration, or of `repeats` rows each."""
    velocities = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    for x, y, lr in training.steps():
        rate = lr.repeat_interleave(repeats)
        for p, v, g in zip(parameters, velocities, gradients(x, y), strict=True):
            with torch.no_grad():
                v.mul_(MOMENTUM).add_(g).add_(p, alpha=WEIGHT_DECAY)
                p.addcmul_(v, rate.view(-1, *[1] * (p.dim() - 1)), value=-1)


def _solver(train: Callable[[Training], Heads], description: str, **options: Any) -> Opponent:
    return Opponent(train, description, most=1, solver=True, **options)


OPPONENTS = {
    "hand_fused": Opponent(hand_fused, "one product, analytic gradient and SGD by hand"),
    "hand_tiles": Opponent(
        hand_tiles,
        f"hand_fused on tiles of {SIDE_BY_SIDE}, one thread each",
        runs=lambda _, device: device == "cpu",
    ),
    "one_linear": Opponent(one_linear, "one nn.Linear(D, C·K), autograd"),
    "baddbmm": Opponent(baddbmm, "torch.baddbmm as in HFTA, autograd"),
    "vmap_grad": Opponent(vmap_grad, "torch.func, vmap(grad)"),
    "module_dict": Opponent(loops.module_dict, "a ModuleDict of heads over one batch", most=64),
    "plain_loop": Opponent(loops.plain_loop, "a plain PyTorch loop, tensors in memory", most=1),
    "data_loader": Opponent(loops.loader_loop, "a DataLoader loop, num_workers=0", most=1),
    "scikit_learn": _solver(
        loops.logistic_regression,
        "scikit-learn's LogisticRegression, to its end",
        runs=lambda workload, _: workload.rows * workload.dim * workload.classes <= SOLVER_LIMIT,
    ),
    "lbfgs": _solver(
        loops.lbfgs,
        "torch.optim.LBFGS on all rows, to its end; on a GPU",
        runs=lambda _, device: device == "cuda",
    ),
    "cuml": _solver(
        loops.cuml,
        "cuML's LogisticRegression, to its end; on a GPU",
        runs=lambda _, device: device == "cuda" and find_spec("cuml") is not None,
    ),
}
"""Opponents by name, in the order of the table."""
