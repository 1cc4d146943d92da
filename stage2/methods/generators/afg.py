"""The Adaptive Feature Generator [GLAG §4.2]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.generators.calibrated import (
    STATISTICS,
    SUPPORT,
    TAIL,
    TUKEY,
    Calibrated,
    Spaces,
    add_noise,
    classes_of,
    output_space,
    seen_space,
    tail_classes,
)
from stage2.methods.generators.drawing import draw_each
from stage2.methods.generators.filling import Origins
from stage2.methods.generators.interface import Features, Generation, Generator, NeedsVal, Settings
from stage2.methods.generators.tukey import FeatureSpace
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class AFG(Generator):
    """Each sample of a rare class, x̂ = T(x), becomes a Gaussian to which near classes lend.

    With S the support classes nearest to x̂ among those with more samples, ω_j ∝ n_j/d_j and d_j the
    distance of x̂ to μ_j [GLAG eq. 8–9]::

        mean        (1−β)x̂ + β Σ_j ω_j μ_j
        covariance  (1−β)²Σ_y + β² Σ_j ω_j Σ_j + γI

    so that a draw is (1−β)·own + β·lent + noise = base + β·direction with
    own = x̂ + N(0, Σ_y), lent = Σ_j ω_j μ_j + N(0, Σ_j ω_j Σ_j), base = own + noise and
    direction = lent − own.

    β starts at ``beta`` for every class; with ``beta_step`` δ > 0 it rises by δ when the accuracy
    of its class on val rose over an epoch, falls by δ when it fell, and stays within [0, 1].
    """

    description = "rare classes calibrated by larger ones nearby, with β per class adapted on val"
    source = "glag"
    settings = (
        SUPPORT,
        TUKEY,
        Setting("beta", 0.6, "initial β, the share taken from neighbouring classes", low=0, high=1),
        Setting("beta_step", 0.05, "change in β after each epoch; 0 keeps it fixed", low=0, high=1),
        Setting("gamma", 0.1, "γ added to the covariance of calibrated draws", low=0),
        Setting(
            "gamma_form",
            "diagonal",
            "add γ to the diagonal, or to every entry as the release of DC does",
            choices=("diagonal", "full"),
        ),
        STATISTICS,
        output_space("raw"),
        TAIL,
    )
    own = ("beta", "beta_step")

    def space(self, settings: Settings) -> FeatureSpace:
        return seen_space(settings)

    def needs_val(
        self, settings: Settings, counts: np.ndarray, facts: ClassFacts = ROWS_ALONE
    ) -> NeedsVal | None:
        if not settings["beta_step"]:
            return None
        tail = classes_of(settings["tail"], counts, facts)
        return NeedsVal("moves β by the accuracy on val", tail, "beta_step=0", "Fix β")

    def prepare(self, settings: Settings, features: Features) -> Generation:
        tail = tail_classes("afg", features, settings["tail"])
        return _AFG(settings, features, tail)


class _AFG(Calibrated):
    def __init__(self, settings: Settings, features: Features, tail: Tensor) -> None:
        spaces = Spaces.of(settings)
        super().__init__("afg", features, spaces, tail, support=settings["support"])
        self.blended = tail
        self._gamma = {settings["gamma_form"]: settings["gamma"]}

    def weights(self, distance: Tensor, counts: Tensor, eligible: Tensor) -> Tensor:
        # A class at distance 0 takes all the weight; the bounds keep ω finite.
        lent = torch.where(eligible, counts / distance.clamp_min(1e-30), 0.0)
        return lent / lent.sum(1, keepdim=True).clamp_min(1e-300)

    def center(self, rows: Tensor) -> Tensor:
        return self.lent_mean(rows)

    def calibrated(
        self, origins: Origins, lent: Tensor, random: torch.Generator
    ) -> tuple[Tensor, ...]:
        # base = x̂ + N(0, Σ_y) + noise; direction = lent − (x̂ + N(0, Σ_y)), without the noise.
        base = origins.each(self.sample(origins.row))
        if base.is_cuda:
            self.gaussians.add_grouped(*origins.by_class(), random, to=base)
            lent.sub_(base)
            return add_noise(base, random, **self._gamma), lent

        def draw(k: int, rows: slice, random: torch.Generator) -> None:
            own = base[rows]
            self.gaussians.add_draws(k, random, to=own)
            lent[rows].sub_(own)
            add_noise(own, random, **self._gamma)

        draw_each(draw, list(origins.classes()), random, numbers=base.numel())
        return base, lent
