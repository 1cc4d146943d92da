"""Features of a split, computed by ranges of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from stage1.augment import augmented, cuts_of, normalise
from stage1.backbones import Backbone
from stage1.backbones.layers import Layers
from stage1.data.images import Images, Preprocessing, Split
from stage1.data.streaming import Cuts
from stage1.inference.options import BATCH, FeatureOptions

SHARD_BYTES = 32 << 20
"""Most bytes of float32 features of a range, unless one batch of images has more."""

BATCH_BYTES = 256 << 20
"""Most bytes of float32 features of a batch, all copies, unless one image has more."""


@dataclass(frozen=True)
class RowRange:
    """Rows `start`…`stop`−1 of a split, all copies: the content of a shard; of `batch` images at a
    time."""

    split: str
    copies: int
    start: int
    stop: int
    batch: int = BATCH

    @property
    def name(self) -> str:
        """Name of the shard: ``train-4096``."""
        return f"{self.split}-{self.start}"

    @property
    def images(self) -> int:
        """Number of images to compute, each copy counted."""
        return self.copies * (self.stop - self.start)

    @property
    def batches(self) -> tuple[torch.Tensor, ...]:
        """Rows of each batch: batches do not depend on the cutting into ranges."""
        return torch.arange(self.start, self.stop).split(self.batch)


def row_ranges(
    splits: Mapping[str, Split], options: FeatureOptions, *, width: int
) -> list[RowRange]:
    """Cut splits into ranges, in order.

    A range has at most `FeatureOptions.shard_rows` feature rows, copies counted, and `SHARD_BYTES`,
    but at least one batch of images. Batches of less than `BATCH` keep within `BATCH_BYTES`: all
    patches of all layers of a large vision transformer are 25 MB per image.

    Parameters
    ----------
    width
        Features of an image, over all views.
    """
    ranges = []
    for name, split in splits.items():
        copies, N = options.copies(name), len(split.labels)
        rows = min(options.shard_rows, SHARD_BYTES // (4 * width)) // copies
        batch = max(1, min(BATCH, BATCH_BYTES // (4 * width * copies)))
        rows = max(1, rows // batch) * batch
        ranges += [
            RowRange(name, copies, start, min(start + rows, N), batch)
            for start in range(0, N, rows)
        ]
    return ranges


def view_names(model: Backbone, statistics: str) -> list[str]:
    """Views of a model by branch: ``instance``, or ``expert0/instance``, …"""
    return [f"{branch}/{statistics}" if branch else statistics for branch in model.branch_names]


def row_shapes(
    statistics: Iterable[str], model: Backbone, layers: Layers | None
) -> dict[str, tuple[int, ...]]:
    """Shapes (D,) of a row, (T, D) of tokens, by view, in the order of a bank."""
    views = [view for name in statistics for view in view_names(model, name)]
    return dict.fromkeys(views, (model.dim,)) | dict(layers.shapes if layers else {})


def features_by_view(
    model: Backbone, statistics: str, x: Sequence[torch.Tensor], layers: Layers | None
) -> dict[str, torch.Tensor]:
    """Views [B, D] or [B, T, D] of normalised images, layers with those of ``instance``.

    Parameters
    ----------
    x
        One batch [B, C, H, W], or one for each branch.
    """
    with contextlib.ExitStack() as stack:
        inner = {}
        if layers and statistics == "instance":
            inner = stack.enter_context(layers.recorded(model))
        outer = zip(view_names(model, statistics), model.branch_features(*x), strict=True)
        return dict(outer) | inner


@torch.inference_mode()
def features_of(
    rows_of: RowRange,
    batches: Iterator[torch.Tensor],
    models: Mapping[str, Backbone],
    *,
    preprocessing: Preprocessing,
    layers: Layers | None = None,
    augmentation_seed: int | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Callable[[], dict[str, np.ndarray]]:
    """Start computing the features [A, rows, D] float32 of a range by view, from the same images;
    [A, rows, T, D] of tokens.

    Parameters
    ----------
    batches
        Yields the images [B, C, H, W] uint8 of `RowRange.batches` next, on the models' device; or
        the views [B, A·E, C, H, W] cut from their originals, by `crops_of`.
    models
        By name of their BatchNorm statistics, in eval mode.
    layers
        Inner layers of ``instance`` to record as further views.
    augmentation_seed
        If given, images are augmented as in training. Each batch has its generator, seeded by this,
        the copy and its first row: a range does not depend on those before it.
    progress
        Takes the number of images of each finished batch, copies counted.

    Returns
    -------
    A function that returns the features. On a GPU it waits for work that is still in progress.
    """
    model = next(iter(models.values()))
    device = model.device
    shape = rows_of.copies, rows_of.stop - rows_of.start
    blocks = {
        view: torch.empty(*shape, *of_row, device=device)
        for view, of_row in row_shapes(models, model, layers).items()
    }
    for rows, images in zip(rows_of.batches, islice(batches, len(rows_of.batches)), strict=True):
        first = int(rows[0])
        place = slice(first - rows_of.start, first - rows_of.start + len(rows))
        for copy in range(rows_of.copies):
            if augmentation_seed is None:
                x: tuple[torch.Tensor, ...] = (normalise(images, preprocessing),)
            else:
                entropy = np.random.SeedSequence([augmentation_seed, copy, first])
                seed = int(entropy.generate_state(1, np.uint64)[0])
                generator = torch.Generator(device).manual_seed(seed)
                x = augmented(
                    _copy_of(images, copy, rows_of.copies), preprocessing, generator=generator
                )
            for name, model in models.items():
                for view, features in features_by_view(model, name, x, layers).items():
                    blocks[view][copy, place] = features
        progress(rows_of.copies * len(rows))
    return _on_host(blocks)


def crops_of(
    images: Images, preprocessing: Preprocessing, augmentation_seed: int | None, copies: int
) -> Cuts | None:
    """Cuts of the originals for `features_of`, drawn by the seed and the first row of a batch."""
    if augmentation_seed is None:
        return None
    seed = augmentation_seed
    return cuts_of(
        images,
        preprocessing.augmentation,
        lambda rows: np.random.default_rng([seed, int(rows[0])]),
        copies=copies,
    )


def _copy_of(images: torch.Tensor, copy: int, copies: int) -> torch.Tensor:
    """Images [B, C, H, W], the same for all copies, or the views of one copy [B, E, C, H, W]."""
    return images if images.ndim == 4 else images.chunk(copies, 1)[copy]


def _on_host(blocks: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Start copying tensors to the host; the function waits until they have arrived."""
    device = next(iter(blocks.values())).device
    if device.type == "cpu":
        return lambda: {name: block.numpy() for name, block in blocks.items()}
    hosts = {
        name: torch.empty(block.shape, pin_memory=True).copy_(block, non_blocking=True)
        for name, block in blocks.items()
    }
    copied = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(device))  # by default that of another GPU

    def arrays() -> dict[str, np.ndarray]:
        copied.synchronize()
        return {name: host.numpy() for name, host in hosts.items()}

    return arrays
