"""SMOTE: rows between a sample and a near one of its class [Chawla et al. 2002]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods import neighbors
from stage2.methods.generators.filling import Filling, Origins
from stage2.methods.generators.interface import Features, Generation, Generator, Settings
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class Smote(Generator):
    """x + u(x' − x), with x' one of the k samples of its class nearest to x, u uniform on [0, 1)
    [Chawla et al. 2002 §4.2]. u is one number per row, as in imbalanced-learn; the paper's
    pseudo-code draws one per feature.

    Augmentation copies are samples of their own. A class with fewer than k other samples takes all
    of them, a single sample is repeated.
    """

    description = "interpolation between a sample and a near neighbour of its class"
    source = "smote"
    settings = (Setting("k", 5, "neighbours within the class; at most all others", low=1),)

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return Segments(features, settings["k"])


class Segments(Filling):
    """Rows on the segments between samples and their neighbours."""

    def __init__(self, features: Features, k: int) -> None:
        super().__init__(features)
        neighbours = {}
        for y in self.missing.nonzero().view(-1).tolist():
            rows = self.rows(y)
            neighbours[y] = rows, rows[nearest_others(features.x[rows], k)]
        widest = max((near.shape[1] for _, near in neighbours.values()), default=1)
        self._near = features.labels.new_empty(len(features.labels), widest)
        """Neighbours of each training row, nearest first; of a class k the first `_width[k]`."""
        self._width = torch.ones_like(self.missing)
        for y, (rows, near) in neighbours.items():
            self._width[y] = near.shape[1]
            self._near[rows, : near.shape[1]] = near

    def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> None:
        y, row = origins.each(origins.y), origins.each(origins.row)
        choice, along = torch.rand(2, len(row), generator=random, device=x.device)
        near = self._near[row, (choice * self._width[y]).long()]
        samples = self.features.x
        torch.index_select(samples, 0, row, out=x)
        x.lerp_(samples.index_select(0, near), along[:, None])


def nearest_others(x: Tensor, k: int) -> Tensor:
    """Indices [n, min(k, n−1)] of the rows nearest to each row of `x` [n, D], the row itself left
    out by its index; the row itself if there is only one, [1, 1].
    """
    _, nearest = neighbors.search(x, x, k + 1, "l2")
    itself = nearest == torch.arange(len(x), device=nearest.device)[:, None]
    # A stable sort moves the row itself to the end. It may be missing, behind k + 1 duplicates.
    order = itself.byte().argsort(dim=1, stable=True)
    return nearest.gather(1, order)[:, : max(1, min(k, len(x) - 1))]
