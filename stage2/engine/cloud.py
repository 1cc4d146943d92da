"""Noise on the logits in training, larger for rarer classes [GCL].

All configurations of a group share the draws, which depend on the seed, the epoch and the step
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stage2.methods.family import NOISE


class Cloud:
    """The draws of a training.

    Parameters
    ----------
    seed
        Of the recipes.
    device
        Of the logits.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generator = seed, torch.Generator(device)

    def begin_epoch(self, epoch: int) -> None:
        """Start the draws of an epoch, whatever was drawn before."""
        self._generator.manual_seed((self._seed << 24) + epoch)

    def lower(self, z: Tensor, cloud: Tensor) -> Tensor:
        """Lower logits z [B, C, K] in place by c·|ε|, c = `cloud` [C, K], ε a number for each row
        and class."""
        shape, device = (len(z), 1, z.shape[2]), z.device
        noise = torch.randn(shape, generator=self._generator, device=device)
        return z.sub_(noise.abs_().mul_(NOISE).clamp_max_(1) * cloud)
