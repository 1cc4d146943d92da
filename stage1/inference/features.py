"""The features of a split, part by part: what they depend on, and how a part is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from stage1.augment import augmented, normalise
from stage1.backbones import Backbone
from stage1.data.images import Preprocessing, Split
from stage1.inference.options import BATCH, FeatureOptions

SHARD_BYTES = 32 << 20
"""Most bytes of float32 features a part may have, unless one batch of images has more."""


@dataclass(frozen=True)
class Part:
    """Rows `start`…`stop`−1 of a split, all copies."""

    split: str
    copies: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """As its shard is called: ``train-4096``."""
        return f"{self.split}-{self.start}"

    @property
    def images(self) -> int:
        """Images that go through the network, each copy counted."""
        return self.copies * (self.stop - self.start)

    @property
    def batches(self) -> tuple[torch.Tensor, ...]:
        """The rows of each batch: batches do not depend on the cutting into parts."""
        return torch.arange(self.start, self.stop).split(BATCH)


def parts_of(splits: Mapping[str, Split], options: FeatureOptions, *, width: int) -> list[Part]:
    """Cut splits into parts, in their order.

    A part has at most `FeatureOptions.shard_rows` feature rows, copies counted, and `SHARD_BYTES`,
    but at least one batch of images.

    Parameters
    ----------
    width
        Features of an image, over all views.
    """
    parts = []
    for name, split in splits.items():
        copies, N = options.copies(name), len(split.labels)
        rows = min(options.shard_rows, SHARD_BYTES // (4 * width)) // copies
        rows = max(1, rows // BATCH) * BATCH
        parts += [Part(name, copies, start, min(start + rows, N)) for start in range(0, N, rows)]
    return parts


def view_names(model: Backbone, statistics: str) -> list[str]:
    """Names of a model's views, by branch: ``instance``, or ``expert0/instance``, …"""
    return [f"{branch}/{statistics}" if branch else statistics for branch in model.branch_names]


@torch.inference_mode()
def features_of(
    part: Part,
    batches: Iterator[torch.Tensor],
    models: Mapping[str, Backbone],
    *,
    preprocessing: Preprocessing,
    augmentation_seed: int | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Callable[[], dict[str, np.ndarray]]:
    """Features [A, rows, D] float32 of a part by view; all views see the same images.

    Parameters
    ----------
    batches
        Gives the images [B, C, H, W] uint8 of `Part.batches` next, on the models' device.
    models
        By name of their BatchNorm statistics, in eval mode.
    augmentation_seed
        If given, images are augmented as in training. Each batch draws from a stream of its own,
        seeded by this, the copy and its first row: a part does not depend on those before it.
    progress
        Takes the number of images of each batch that is done, copies counted.

    Returns
    -------
    A function that gives them. On a GPU the work may be under way still, and it waits.
    """
    device = next(iter(models.values())).device
    shape = part.copies, part.stop - part.start
    blocks = {
        view: torch.empty(*shape, model.dim, device=device)
        for name, model in models.items()
        for view in view_names(model, name)
    }
    for rows, images in zip(part.batches, islice(batches, len(part.batches)), strict=True):
        first = int(rows[0])
        place = slice(first - part.start, first - part.start + len(rows))
        for copy in range(part.copies):
            if augmentation_seed is None:
                x: tuple[torch.Tensor, ...] = (normalise(images, preprocessing),)
            else:
                entropy = np.random.SeedSequence([augmentation_seed, copy, first])
                seed = int(entropy.generate_state(1, np.uint64)[0])
                generator = torch.Generator(device).manual_seed(seed)
                x = augmented(images, preprocessing, generator=generator)
            for name, model in models.items():
                found = zip(view_names(model, name), model.branch_features(*x), strict=True)
                for view, features in found:
                    blocks[view][copy, place] = features
        progress(part.copies * len(rows))
    return _on_host(blocks)


def _on_host(blocks: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start the way of tensors to the host; the function waits until they are there."""
    if next(iter(blocks.values())).device.type == "cpu":
        return lambda: {name: block.numpy() for name, block in blocks.items()}
    hosts = {
        name: torch.empty(block.shape, pin_memory=True).copy_(block, non_blocking=True)
        for name, block in blocks.items()
    }
    there = torch.cuda.Event(blocking=True)
    there.record()

    def arrived() -> dict[str, np.ndarray]:
        there.synchronize()
        return {name: host.numpy() for name, host in hosts.items()}

    return arrived
