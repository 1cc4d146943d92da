"""Distribution Calibration [DC] and TailCalibX [TailCalibX]: calibration with equal weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.generators.calibrated import (
    STATISTICS,
    SUPPORT,
    TAIL,
    TUKEY,
    Calibrated,
    Spaces,
    output_space,
    seen_space,
    tail_classes,
)
from stage2.methods.generators.filling import Origins
from stage2.methods.generators.interface import Features, Generation, Generator, Settings
from stage2.methods.generators.tukey import FeatureSpace, tukey
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class EquallyCalibrated(Calibrated):
    """mean (x̂ + Σ_j μ_j)/(|S| + 1), covariance Σ_j Σ_j/|S| + full·11ᵀ + diagonal·I."""

    def weights(self, distance: Tensor, counts: Tensor, eligible: Tensor) -> Tensor:
        return eligible.double() / eligible.sum(1, keepdim=True).clamp_min(1)

    def center(self, rows: Tensor) -> Tensor:
        lenders = self.lenders[self.place(rows), None]
        return self.lent_mean(rows).mul_(lenders).add_(self.sample(rows)).div_(lenders + 1)

    def calibrated(
        self, origins: Origins, lent: Tensor, random: torch.Generator
    ) -> tuple[Tensor, ...]:
        return (lent,)


class DC(Generator):
    """Rare samples calibrated by their nearest larger classes [DC eq. 4–6].

    The paper's few-shot classes become the ``tail`` and its base classes those with more samples
    than the sample's own; other classes are filled from their own Gaussians.
    """

    description = "rare classes calibrated by the mean of larger ones nearby"
    source = "dc"
    settings = (
        SUPPORT,
        TUKEY,
        Setting("alpha", 0.21, "α added to every entry of the covariance", low=0),
        STATISTICS,
        output_space("tukey"),
        TAIL,
    )

    def space(self, settings: Settings) -> FeatureSpace:
        return seen_space(settings)

    def prepare(self, settings: Settings, features: Features) -> Generation:
        return EquallyCalibrated(
            "dc",
            features,
            Spaces.of(settings),
            tail_classes("dc", features, settings["tail"]),
            support=settings["support"],
            noise={"full": settings["alpha"]},
        )


class TailCalib(Generator):
    """Every sample of a class below n_max calibrated by its nearest classes, its own included
    [TailCalibX eq. 7–8], drawn anew each epoch (the X of the name).

    As released: features have length 1 before Tukey's transform and, like the draws, after it;
    that is what heads see. The release adds 1e-4·I to the covariance.
    """

    description = "all classes calibrated by their neighbours, on unit-length features"
    source = "tailcalib"
    settings = (
        Setting("support", 1, "number of nearest classes, the sample's own included", low=1),
        Setting("tukey", 0.9, "power λ of Tukey's transform sign(x)|x|^λ; 1 disables it", above=0),
        Setting("alpha", 0.0, "α added to every entry of the covariance", low=0),
    )

    def space(self, settings: Settings) -> FeatureSpace:
        return FeatureSpace(settings["tukey"], unit=True)

    def prepare(self, settings: Settings, features: Features) -> Generation:
        def transformed(x: Tensor) -> Tensor:
            return tukey(torch.nn.functional.normalize(x, dim=1), settings["tukey"])

        seen, unit = self.space(settings), torch.nn.functional.normalize
        return EquallyCalibrated(
            "tailcalib",
            features,
            Spaces(sample=transformed, statistics=unit, real=seen, finish=unit, plain=seen),
            torch.from_numpy(features.counts > 0).to(features.x.device),
            support=settings["support"],
            among="all",
            noise={"full": settings["alpha"], "diagonal": 1e-4},
        )
