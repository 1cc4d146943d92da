"""Optima of convex recipes, and the linear probe of a large bank, beside scikit-learn.

Question: how long do 100 optima take, and how near the optimum does a probe of bounded passes come?

Claim: optima of one grid take a fifth of scikit-learn's time at the same gradient; 30 iterations in
the metric of the features end nearer the optimum than 30 without it, in less time.
docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_convex.py [--features FILE.npz] [--optima 12] [--rows 0.1]
        [--dim 512] [--iterations 30]

Optima: softmax regression over weight decays 1e-4 … 1e-2, biases free, to a gradient of 1e-5, on
the arrays ``x`` [N, D] and ``y`` [N] of a file or on random features of CIFAR-100-LT's size. Probe:
K = 1,000 classes with a part of ImageNet-LT's rows and random features whose variance falls as
1/dimension; the whole is --rows 1 --dim 2048. Seconds are those of the processor, one thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stage2 import Recipe
from stage2.benchmark import find_workload
from stage2.engine.optimum import optimum
from stage2.features.descent import descend
from stage2.features.probe import DECAY
from stage2.methods.heads import HEADS, Context

NORM = 1e-5
BLOCK = 2048


def main() -> None:
    """Print a line on each way to the optima, and on each way to the probe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features")
    parser.add_argument("--optima", type=int, default=12)
    parser.add_argument("--rows", type=float, default=0.1)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.optima:
        _optima(*_features(options.features), np.geomspace(1e-4, 1e-2, options.optima))
    if options.iterations:
        _probe(*_large(options.rows, options.dim), options.iterations)


def _optima(x: Tensor, y: Tensor, decays: np.ndarray) -> None:
    """Optima together, alone, and by scikit-learn."""
    context = _context(x, y)
    recipes = [
        Recipe("ce", optimiser="lbfgs", weight_decay=d, decay_bias=False, gradient_norm=NORM)
        for d in decays.tolist()
    ]

    def fused(recipes: list[Recipe]) -> list[tuple[Tensor, Tensor]]:
        start = HEADS["linear"].init([r.part("head") for r in recipes], context)
        parameters, _ = optimum(recipes, start, context)
        return list(zip(parameters["weight"], parameters["bias"], strict=True))

    ways: dict[str, Callable[[], list[tuple[Tensor, Tensor]]]] = {
        "together": lambda: fused(recipes),
        "one by one": lambda: [fused([recipe])[0] for recipe in recipes],
        "scikit-learn": lambda: [_logistic_regression(x, y, d) for d in decays.tolist()],
    }
    for name, way in ways.items():
        seconds, ends = _timed(way)
        slopes = [_end(x, y, *end, d)[1] for end, d in zip(ends, decays.tolist(), strict=True)]
        print(
            f"{name:<13}{100 * seconds / len(decays):7.1f} s for 100 optima, "
            f"largest gradient entry {max(slopes):.1g}"
        )


def _probe(x: Tensor, y: Tensor, iterations: int) -> None:
    """The probe with and without the metric, and by scikit-learn, after as many iterations."""
    counts = torch.bincount(y).double()
    context = _context(x, y)
    print(f"N = {len(x):,}, D = {x.shape[1]:,}, K = {len(counts):,}, {iterations} iterations")

    def in_metric() -> tuple[Tensor, Tensor]:
        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            return zip(x.split(BLOCK), y.split(BLOCK), strict=True)

        end = descend(parts, counts, x.shape[1], decay=DECAY, tolerance=1e-6, iterations=iterations)
        print(f"{'':<21}in at most {end.excess:.3g} above the optimum, {end.passes} passes")
        return end.weight, end.bias

    def plain() -> tuple[Tensor, Tensor]:
        settings = {"weight_decay": DECAY, "decay_bias": False, "max_iterations": iterations}
        recipe = Recipe("ce", optimiser="lbfgs", **settings)
        start = {
            "weight": torch.zeros(1, len(counts), x.shape[1]),
            "bias": torch.zeros(1, len(counts)),
        }
        parameters, _ = optimum([recipe], start, context, in_metric=False)
        return parameters["weight"][0], parameters["bias"][0]

    for name, way in {
        "in the metric": in_metric,
        "float64, without": plain,
        "scikit-learn": lambda: _logistic_regression(x, y, DECAY, iterations),
    }.items():
        seconds, end = _timed(way)
        value, slope = _end(x, y, *end, DECAY)
        print(f"{name:<17}{seconds:8.1f} s, objective {value:.5f}, largest gradient {slope:.1g}")


def _logistic_regression(
    x: Tensor, y: Tensor, decay: float, iterations: int = 1000
) -> tuple[Tensor, Tensor]:
    """scikit-learn's own L-BFGS at the same penalty."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1 / (decay * len(x)), tol=NORM, max_iter=iterations)
    with threadpool_limits(1):
        model.fit(x.double().numpy(), y.numpy())
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def _end(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, decay: float) -> tuple[float, float]:
    """Objective and largest gradient entry in float64, by autograd."""
    w, b = weight.double().requires_grad_(), bias.double().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    for rows, labels in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
        part = cross_entropy(rows.double() @ w.t() + b, labels, reduction="sum") / len(x)
        part.backward()
        value += part.detach()
    (decay / 2 * w.square().sum()).backward()
    assert w.grad is not None
    assert b.grad is not None
    penalty = decay / 2 * float(w.detach().square().sum())
    return float(value) + penalty, max(float(w.grad.abs().max()), float(b.grad.abs().max()))


def _timed(way: Callable[[], object]) -> tuple[float, object]:
    started = time.process_time()
    with warnings.catch_warnings():  # stopping short is meant
        warnings.simplefilter("ignore")
        end = way()
    return time.process_time() - started, end


def _context(x: Tensor, y: Tensor) -> Context:
    counts = torch.bincount(y).double().numpy()
    return Context(counts, x.shape[1], x.device, lambda: [(x, y)])


def _features(file: str | None) -> tuple[Tensor, Tensor]:
    if file:
        arrays = np.load(file)
        return torch.from_numpy(arrays["x"]).float(), torch.from_numpy(arrays["y"]).long()
    workload = find_workload("cifar100-lt")
    return _random(np.asarray(workload.counts), workload.dim, np.ones(workload.dim))


def _large(share: float, dim: int) -> tuple[Tensor, Tensor]:
    counts = np.asarray(find_workload("imagenet-lt").counts)
    counts = np.maximum(1, np.round(share * counts)).astype(int)
    x, y = _random(counts, dim, np.arange(1, dim + 1) ** -0.5)
    x -= x.mean(0)
    return x.div_(x.square().sum(1).mean().sqrt()), y


def _random(counts: np.ndarray, dim: int, scale: np.ndarray) -> tuple[Tensor, Tensor]:
    """Gaussian classes."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(len(counts), dim)).astype(np.float32)
    y = np.repeat(np.arange(len(counts)), counts)
    x = means[y] + 2.5 * rng.normal(size=(len(y), dim)).astype(np.float32)
    return torch.from_numpy(x * scale.astype(np.float32)), torch.from_numpy(y)


if __name__ == "__main__":
    main()
