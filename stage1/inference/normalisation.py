"""Normalisation by name: the channel moments that images are normalised with.

Importing this is quick: the command line takes the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from featbank import errors

if TYPE_CHECKING:
    from stage1.data.images import Preprocessing

CHANNEL_MOMENTS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Channel means and deviations of pixels in 0…1, red, green, blue, as of pretrained models."""

NORMALISATIONS = ("data", *CHANNEL_MOMENTS)
"""The names; ``data`` is for the moments of the training images."""


def default_normalisation(backbone: str, channels: int) -> str:
    """``imagenet`` for 3 channels and a backbone of torchvision or timm, else ``data``."""
    from stage1.backbones.libraries import RESNETS

    from_library = backbone in RESNETS or ":" in backbone
    return "imagenet" if channels == 3 and from_library else "data"


def normalised_by(preprocessing: Preprocessing, name: str) -> Preprocessing:
    """Replace the moments of `preprocessing`, which are those of the data, by those of `name`.

    Raises
    ------
    ConfigError
        For images with another number of channels.
    """
    if name == "data":
        return preprocessing
    channels = len(preprocessing.mean)
    mean, std = (tuple(255 * value for value in moments) for moments in CHANNEL_MOMENTS[name])
    if channels != len(mean):
        raise errors.ConfigError(
            f"Normalisation {name!r} is for images of {len(mean)} channels, and these have "
            f"{channels}. Take --normalisation data."
        )
    return replace(preprocessing, mean=mean, std=std)
