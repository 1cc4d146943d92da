"""The features of a split, part by part: what they depend on, and how a part is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from stage1.augment import augment, normalise
from stage1.backbones import Backbone
from stage1.batchnorm import BATCH as BALANCED_BATCH
from stage1.evaluate import BATCH
from stage1.images import Preprocessing, Split


@dataclass(frozen=True)
class FeatureOptions:
    """What shapes features beside checkpoint and data: parameters of `stage1.extract.extract`."""

    views: tuple[str, ...]
    dtype: str
    augmentations: int
    balanced_batches: int
    seed: int
    shard_rows: int

    def view(self, name: str) -> dict[str, int]:
        """The settings of a view."""
        if name == "instance":
            return {}
        return {"batches": self.balanced_batches, "batch_size": BALANCED_BATCH, "seed": self.seed}

    def copies(self, split: str) -> int:
        """Copies stored of a split: the train split's augmented ones, or a plain one."""
        return max(1, self.augmentations) if split == "train" else 1


@dataclass(frozen=True)
class Part:
    """Rows `start`…`stop`−1 of one copy of a split."""

    split: str
    copy: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """As its shard is called: ``train-0-4096``."""
        return f"{self.split}-{self.copy}-{self.start}"


def parts_of(splits: Mapping[str, Split], *, copies: Mapping[str, int], rows: int) -> list[Part]:
    """Cut the given number of copies of each split into parts of `rows` rows, in a bank's order."""
    return [
        Part(name, copy, start, min(start + rows, len(split.labels)))
        for name, split in splits.items()
        for copy in range(copies[name])
        for start in range(0, len(split.labels), rows)
    ]


@torch.inference_mode()
def features_of(
    part: Part,
    images: torch.Tensor,
    models: Mapping[str, Backbone],
    *,
    preprocessing: Preprocessing,
    augmentation_seed: int | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, np.ndarray]:
    """Features [rows, D] float32 of a part under each view; all views see the same images.

    Parameters
    ----------
    part
        Where it starts is a multiple of `BATCH`, so that the batches do not depend on the cutting.
    images
        [N, C, H, W] uint8, the whole split.
    models
        The view's models, in eval mode, all on one device.
    augmentation_seed
        If given, images are augmented as in training. Each batch draws from a stream of its own,
        seeded by this, the copy and its first row: a part does not depend on those before it.
    progress
        Takes the number of images of each batch that is done.
    """
    device = next(iter(models.values())).classifier.weight.device
    blocks: dict[str, list[np.ndarray]] = {view: [] for view in models}
    for start in range(part.start, part.stop, BATCH):
        x = images[start : min(start + BATCH, part.stop)].to(device)
        if augmentation_seed is not None:
            entropy = np.random.SeedSequence([augmentation_seed, part.copy, start])
            seed = int(entropy.generate_state(1, np.uint64)[0])
            x = augment(x, preprocessing, generator=torch.Generator(device).manual_seed(seed))
        else:
            x = normalise(x, preprocessing)
        for view, model in models.items():
            blocks[view].append(model.features(x).cpu().numpy())
        progress(len(x))
    return {view: np.concatenate(rows) for view, rows in blocks.items()}
