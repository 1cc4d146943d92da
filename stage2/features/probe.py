"""The linear probe, which replaces the stage-1 classifier of features that come without one.

A pretrained model that is frozen and banked has no classifier of the bank's classes. Heads and
losses that start from W₀ and b₀ then start from the optimum of softmax regression on the train
split, cross-entropy under instance-balanced sampling: a stage-1 classifier on features that no
longer change. The problem is convex, so the probe depends on no seed, batch or learning rate.

Lengths of features differ between models, 1 for CLIP, 10 and more for ResNets. Weight decay is
therefore `DECAY` times their variance v, the mean of ‖x − μ‖²:

    min_{W,b}  (1/N) Σᵢ CE(W xᵢ + b, yᵢ) + (DECAY·v/2) ‖W‖²

As b is free, this is the same problem in x̂ = (x − μ)/√v with decay `DECAY`, W = Ŵ/√v and
b = b̂ − Wμ, which L-BFGS solves in fewer steps and in as many whatever the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from featbank.bank import Bank
from stage2.engine.model import ViewData
from stage2.engine.optimum import optimum
from stage2.engine.rows import READ_BYTES
from stage2.methods.heads import Context
from stage2.methods.recipe import Recipe

DECAY = 1e-5
"""Weight decay as a share of the features' variance: that of stage 1 with weight decay 5e-4 and
features of variance 50, as those of a ResNet-32."""

PROBE = Recipe("ce", optimiser="lbfgs", weight_decay=DECAY, decay_bias=False, gradient_norm=1e-6)
"""The probe's recipe, on features of mean 0 and variance 1."""


def probed_views(bank: Bank, recipes: Iterable[Recipe]) -> list[str]:
    """The views that need a probe: recipes start from a classifier that the bank lacks."""
    wanted = {view: None for recipe in recipes if recipe.needs_classifier for view in recipe.views}
    return [view for view in wanted if bank.classifier(view) is None]


def linear_probe(data: ViewData) -> tuple[Tensor, Tensor]:
    """The linear probe of a view: weight [K, D] and bias [K], float32, on its device.

    It takes about a hundred passes over the features, each two products N × D × K in float64.
    """
    context = data.context
    mean = context.mean
    squares = sum(float((x - mean).square().sum(dtype=torch.float64)) for x, _ in _parts(context))
    scale = max(math.sqrt(squares / len(data.train.labels)), torch.finfo(torch.float32).tiny)
    scaled = replace(context, blocks=lambda: (((x - mean) / scale, y) for x, y in _parts(context)))
    start = {
        "weight": torch.zeros(1, len(data.counts), context.dim, device=context.device),
        "bias": torch.zeros(1, len(data.counts), device=context.device),
    }
    parameters, _ = optimum([PROBE], start, scaled, data.train.copies)
    weight = parameters["weight"][0] / scale
    return weight, parameters["bias"][0] - weight @ mean


def _parts(context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """The training rows and their labels, `READ_BYTES` of features at a time."""
    size = max(1, READ_BYTES // (4 * context.dim))
    for x, y in context.blocks():
        yield from zip(x.split(size), y.split(size), strict=True)
