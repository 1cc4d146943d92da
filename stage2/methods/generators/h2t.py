"""Head-to-tail fusion: channels of common classes in rows of rare ones [H2T]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.generators.interface import (
    Features,
    Generation,
    Generator,
    Made,
    Settings,
)
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class H2T(Generator):
    """⌊ρD⌋ channels of each drawn row replaced by those of a row drawn from all; the label stays.

    The sampler draws the rows, by class in the paper, and the partners are drawn item by item, so
    that most are of common classes. As released, a batch has one set of channels. The paper fuses
    feature maps before their average pooling, of which pooled features show the same channels.
    """

    description = "rows of rare classes with some channels of common ones"
    source = "h2t"
    settings = (Setting("rho", 0.25, "share ρ of the channels that are replaced", low=0, high=1),)
    fills = False

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return Fusion(features, settings["rho"])


class Fusion(Generation):
    """Batches of items, fused with items drawn alike from all."""

    def __init__(self, features: Features, rho: float) -> None:
        self.features = features
        self.labels = features.items
        self._replaced = int(rho * features.x.shape[1])

    def make(self, draws: Tensor, epoch: int, random: torch.Generator) -> Made:
        x, device = self.features.x, self.features.x.device
        partners = torch.randint(len(x), draws.shape, generator=random, device=device)
        keys = torch.rand(len(draws), x.shape[1], generator=random, device=device)
        replaced = keys.argsort(1) < self._replaced  # a permutation: ⌊ρD⌋ of each row
        fused = torch.where(replaced[:, None], x[partners], x[draws])
        rows = torch.arange(draws.numel(), device=device)
        return Made(fused.flatten(0, 1), rows, self.features.labels[draws.flatten()])
