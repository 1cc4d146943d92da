"""A step of an attentive head on T = 50 tokens against the bare products that it consists of.

Claim: with B = 128 rows of 50 tokens, D = 384 or 768, K = 100, and 1 to 16 configurations, a step
of `attentive` takes less than 3 times as long as its products.

    .venv/bin/python scripts/benchmark_tokens.py [--repeats 9] [--steps 4] [--set queries=1]

The step is the trainer's: gather the batch, logits, loss, gradients, update. The products are those
of scores, pooled tokens, logits and their gradients, on a batch in place, each in the layout that
the head uses. Both run in turns, with a product of fixed size whose spread shows the load of the
machine. Seconds of the processor, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from threading import Event

import numpy as np
import torch
from measuring import alternate, ratios, spread
from torch import Tensor

from stage2 import Recipe
from stage2.engine.model import Model, ViewData
from stage2.engine.plan import BatchStream, Shape
from stage2.engine.rows import MemoryRows
from stage2.engine.trainer import Trainer

ROWS, TOKENS, CLASSES, BATCH = 512, 50, 100, 128
"""N, T, K and B."""


def main() -> None:
    """Print the times of a step and of its products, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps per repeat")
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--configurations", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = dict(pair.split("=", 1) for pair in options.set)
    settings = {name: int(v) if v.isdigit() else v for name, v in settings.items()}
    probe = torch.randn(512, 512)
    for dim in options.dims:
        data = _view(dim)
        for configs in options.configurations:
            recipes = [
                Recipe("attentive", lr=0.01 * (c + 1), batch_size=BATCH, **settings)
                for c in range(configs)
            ]
            step, parameters = _steps(data, recipes, options.steps)
            bare = _products(parameters, dim)
            runs = {
                "step": step,
                "products": lambda bare=bare: [bare() for _ in range(options.steps)],
                "probe": lambda: probe @ probe,
            }
            seconds = alternate(runs, options.repeats, time.process_time)
            milliseconds = {
                name: [1000 * s / options.steps for s in seconds[name]] for name in runs
            }
            print(f"D = {dim}, {configs} configurations, ms")
            print(f"  step      {spread(milliseconds['step'], 2)}")
            print(f"  products  {spread(milliseconds['products'], 2)}")
            print(f"  ratio     {spread(ratios(seconds['step'], seconds['products']), 2)}")
            print(f"  probe     {spread([1000 * s for s in seconds['probe']], 2)}")


def _view(dim: int) -> ViewData:
    """Random tokens of K classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, TOKENS * dim, generator=generator)
    labels = torch.arange(ROWS) % CLASSES
    counts = np.bincount(labels.numpy(), minlength=CLASSES)
    rows = MemoryRows(x, labels)
    return ViewData(rows, {}, counts.astype(float), counts, tokens=TOKENS)


def _steps(
    data: ViewData, recipes: list[Recipe], steps: int
) -> tuple[Callable[[], object], dict[str, Tensor]]:
    """Training on the first steps of an epoch, and the parameters."""
    shape = Shape.of(data.counts, data.train.dim)
    model = Model(recipes, data)
    trainer = Trainer(model, BatchStream.of(recipes[0], shape))
    draws = torch.randint(ROWS, (steps, BATCH), generator=torch.Generator().manual_seed(1))

    def run() -> None:
        trainer.begin_epoch(0)
        for window in data.train.windows(draws, torch.Generator()):
            trainer.train(window, Event())

    return run, model.state["parameters"]


def _products(parameters: dict[str, Tensor], dim: int) -> Callable[[], object]:
    """The products of a step: four with the tokens of a batch, three or six with W and V."""
    configs, queries, _ = parameters["query"].shape
    each = configs * queries
    tokens = torch.randn(BATCH, TOKENS, dim)
    flat, turned = tokens.view(-1, dim), tokens.transpose(1, 2)
    query = torch.randn(each, dim)
    share = torch.randn(BATCH, each, TOKENS)
    slope = torch.randn(each, BATCH * TOKENS)
    weight, value = parameters["weight"], parameters.get("value")
    y = torch.randn(configs, BATCH, weight.shape[2])
    grad = torch.randn(configs, BATCH, CLASSES)
    pooled = torch.randn(BATCH, each, dim)

    def run() -> None:
        torch.matmul(query.expand(BATCH, -1, -1), turned)
        torch.bmm(share, tokens)
        torch.bmm(y, weight.transpose(1, 2))
        torch.bmm(grad.transpose(1, 2), y)
        torch.bmm(grad, weight)
        torch.bmm(pooled, turned)
        torch.mm(slope, flat)
        if value is not None:
            by_query = pooled.transpose(0, 1)
            own, back = value.flatten(0, 1), y.view(each, BATCH, -1)
            torch.bmm(by_query, own.transpose(1, 2))
            torch.bmm(back.transpose(1, 2), by_query)
            torch.bmm(back, own)

    return run


if __name__ == "__main__":
    main()
