"""Images with labels: the form of every data set, whatever its source."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from featbank.bank import class_counts
from featbank.bank.fingerprint import array_digest
from stage1.data.settings import DatasetSettings
from stage1.data.streaming import Cuts, StreamedImages

Images = torch.Tensor | StreamedImages
"""[N, C, H, W] uint8, in memory or streamed."""

SAMPLE = 4096
"""Number of images, evenly spaced, that give the channel moments of a data set of files."""


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8, labels [N] int64, source rows `index` [N] int64, and N paths.

    `source` names what `index` points into; None is a source that no other split has. Splits of
    one source share no row, except that ``train_balanced`` contains ``train``; one of a list has a
    source of its own, and shares paths.
    """

    images: Images
    labels: torch.Tensor
    index: np.ndarray
    paths: tuple[str, ...] | None = None
    source: str | None = None


@dataclass(frozen=True)
class Preprocessing:
    """The way from uint8 images to network input.

    Per-channel `mean` and `std` are in pixel units (0…255); training pads by `pad` pixels, crops
    back at random, and mirrors at random if `flip`. `augmentation` is one of
    `stage1.augment.AUGMENTATIONS`, or one for each expert, joined by ``+``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    augmentation: str = "standard"


@dataclass(frozen=True)
class ImageDataset:
    """A data set.

    `settings` are resolved: every option the data set takes has its value. `splits` has ``train``,
    ``test`` and, where they exist, ``val`` and ``train_balanced``.
    """

    settings: DatasetSettings
    splits: dict[str, Split]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.splits["train"].images.shape
        return channels, height, width

    @property
    def train_counts(self) -> np.ndarray:
        """Training counts [K] int64; a class may have none."""
        return class_counts(self.splits["train"].labels.numpy(), len(self.class_names))


def batches_of(
    images: Images,
    batches: Iterable[torch.Tensor],
    device: torch.device,
    cuts: Cuts | None = None,
) -> Generator[torch.Tensor, None, None]:
    """Yield the images [B, C, H, W] uint8 of each batch of rows [B], on `device`.

    Images in memory are indexed where they are: move those used often with `on_device` first. Of
    streamed ones, V `cuts` of each original make [B, V, C, H, W].
    """
    if isinstance(images, StreamedImages):
        for batch in images.batches(batches, cuts):
            yield (batch.pin_memory() if device.type == "cuda" else batch).to(
                device, non_blocking=True
            )
    else:
        for rows in batches:
            yield images[rows.to(images.device)].to(device)


def on_device(images: Images, device: torch.device) -> Images:
    """Move images that are in memory to the device."""
    return images if isinstance(images, StreamedImages) else images.to(device)


def images_digest(images: Images) -> str:
    """SHA-256 of images in memory; of streamed ones, that of their files' sizes and times."""
    if isinstance(images, StreamedImages):
        return images.digest()
    return array_digest(images.numpy())


def evenly_spaced(images: Images) -> torch.Tensor:
    """At most `SAMPLE` of the images, evenly spaced, in memory."""
    N = len(images)
    rows = torch.arange(min(N, SAMPLE)) * N // min(N, SAMPLE)
    return torch.cat([*batches_of(images, rows.split(256), torch.device("cpu"))])


def preprocessing_for(images: torch.Tensor, *, pad: int, flip: bool) -> Preprocessing:
    """Preprocessing with the channel moments of training images [N, C, H, W] uint8.

    The sums are exact integers over a histogram of the 256 values: the same on every machine.
    """
    mean, std = [], []
    for channel in range(images.shape[1]):
        blocks = images[:, channel].split(4096)  # flattening copies, and memory may be short
        histograms = [torch.bincount(block.flatten(), minlength=256) for block in blocks]
        counts = torch.stack(histograms).sum(0).tolist()
        n = sum(counts)
        first = sum(count * value for value, count in enumerate(counts))
        second = sum(count * value**2 for value, count in enumerate(counts))
        mean.append(first / n)
        # A channel of one value stays 0 instead of NaN.
        std.append(((n * second - first**2) / n**2) ** 0.5 or 1.0)
    return Preprocessing(tuple(mean), tuple(std), pad, flip)
