"""Random numbers that depend on the recipe's seed and on nothing else."""

from __future__ import annotations

import numpy as np

from stage2.methods.on_demand import torch


def seeded(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of a recipe, the same on every machine."""
    words = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
