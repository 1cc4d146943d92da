"""Initial parameters: random ones from the recipe's seed, or the classifier W₀ and b₀."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.on_demand import torch
from stage2.methods.seeding import seeded

if TYPE_CHECKING:
    from torch import Tensor


def uniform(seed: int, shape: Sequence[int], bound: float, purpose: str) -> Tensor:
    """Draw values ~ U(−bound, bound) that depend only on the recipe's seed and the purpose."""
    generator = seeded(seed, purpose)
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


def fresh_linear(
    settings: Sequence[Settings], shape: tuple[int, int], device: torch.device, prefix: str = ""
) -> Parameters:
    """Initialise a weight of `shape` [out, in] and a bias ~ U(±1/√in), like `torch.nn.Linear`.

    Equal seeds and prefixes give equal values; `prefix` is prepended to the parameter names.
    """
    bound = 1 / math.sqrt(shape[1])
    parameters = {}
    for name, size in ((f"{prefix}weight", shape), (f"{prefix}bias", shape[:1])):
        seeds = {s["seed"] for s in settings}
        drawn = {seed: uniform(seed, size, bound, name).to(device) for seed in seeds}
        parameters[name] = torch.stack([drawn[s["seed"]] for s in settings])
    return parameters


def linear_start(settings: Sequence[Settings], context: Context) -> Parameters:
    """Initialise W and b as each setting ``init`` says: ``fresh``, or W₀ and b₀."""
    parameters = fresh_linear(settings, (len(context.counts), context.dim), context.device)
    from_stage1 = torch.tensor([s["init"] != "fresh" for s in settings])
    if from_stage1.any():
        stage1 = stage1_linear(int(from_stage1.sum()), context)
        for name, values in parameters.items():
            values[from_stage1.to(values.device)] = stage1[name]
    return parameters


def stage1_linear(configs: int, context: Context) -> Parameters:
    """Copy W₀ and b₀ for each of `configs` configurations."""
    weight, bias = context.classifier
    return {
        "weight": weight.expand(configs, -1, -1).clone(),
        "bias": bias.expand(configs, -1).clone(),
    }
