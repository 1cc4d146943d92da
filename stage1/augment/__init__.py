"""Augmentation of whole batches where they live: uint8 images in, normalised float32 out."""

from __future__ import annotations

from stage1.augment.geometry import pad_crop_flip
from stage1.augment.mix import mixup
from stage1.augment.named import AUGMENTATIONS, augment, augmented, normalise
from stage1.augment.originals import crops_originals, cuts_of

__all__ = [
    "AUGMENTATIONS",
    "augment",
    "augmented",
    "crops_originals",
    "cuts_of",
    "mixup",
    "normalise",
    "pad_crop_flip",
]
