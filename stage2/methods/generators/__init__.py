"""Every feature generator by name. To add one, write its file and its line here."""

from stage2.methods.generators.afg import AFG
from stage2.methods.generators.batchnorm import BatchNorm
from stage2.methods.generators.gaussians import Gaussian
from stage2.methods.generators.h2t import H2T
from stage2.methods.generators.interface import (
    Blend,
    Features,
    Generation,
    Generator,
    Made,
    NeedsVal,
    Second,
)
from stage2.methods.generators.mixing import Mixup, Remix
from stage2.methods.generators.relatives import DC, TailCalib
from stage2.methods.generators.smote import Smote

GENERATORS: dict[str, Generator] = {
    "afg": AFG(),
    "dc": DC(),
    "tailcalib": TailCalib(),
    "gaussian": Gaussian(),
    "smote": Smote(),
    "mixup": Mixup(),
    "remix": Remix(),
    "batchnorm": BatchNorm(),
    "h2t": H2T(),
}

__all__ = [
    "GENERATORS",
    "Blend",
    "Features",
    "Generation",
    "Generator",
    "Made",
    "NeedsVal",
    "Second",
]
