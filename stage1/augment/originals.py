"""Random crops of original images, taken where these are decoded.

RandomResizedCrop works on the original, of any size; what is held in memory is only its centre. So
the threads that decode an image cut its views, and the batch goes to the device at one size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from stage1.augment.geometry import draw_boxes
from stage1.augment.named import AUGMENTATIONS, names_of
from stage1.data.images import Images
from stage1.data.streaming import Cuts, StreamedImages


def crops_originals(augmentation: str) -> bool:
    """Whether one of the augmentations that ``standard+simclr`` names is a RandomResizedCrop."""
    return any(AUGMENTATIONS[name].area for name in names_of(augmentation))


def cuts_of(
    images: Images,
    augmentation: str,
    draws: Callable[[torch.Tensor], np.random.Generator],
    *,
    copies: int = 1,
) -> Cuts | None:
    """The views to cut from each original for an augmentation, for `batches_of`.

    Parameters
    ----------
    images
        Those of a batch to come.
    augmentation
        As `Preprocessing.augmentation`, of E names.
    draws
        Gives the generator that draws the seeds of the rows [B] of a batch.
    copies
        A, of each view: the batch has A·E views, copy by copy. Those of a copy do not depend on A.

    Returns
    -------
    None where nothing is cut: images in memory, those of one size, and augmentations without crop.
    """
    if not (isinstance(images, StreamedImages) and images.cut and crops_originals(augmentation)):
        return None
    areas = [AUGMENTATIONS[name].area for name in names_of(augmentation)] * copies

    def seeds(rows: torch.Tensor) -> np.ndarray:
        return draws(rows).integers(2**63, size=(len(areas), len(rows)))

    return Cuts([area and partial(_box, area=area) for area in areas], seeds)


def _box(seed: int, size: tuple[int, int], *, area: tuple[float, float]) -> list[int]:
    """One box of `draw_boxes`: top, left, height, width."""
    generator = torch.Generator().manual_seed(seed)
    boxes: list[list[int]] = draw_boxes(size, 1, scale=area, generator=generator).tolist()
    return boxes[0]
