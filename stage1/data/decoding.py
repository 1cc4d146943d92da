"""From the images of each split, by path, to a data set: in memory, or streamed from its files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featbank.bank.schema import SPLITS
from featbank.memory import fits_memory
from stage1.data.decoder import decode_images, decode_readable, image_shape, readable
from stage1.data.entries import ListEntry
from stage1.data.images import (
    ImageDataset,
    Images,
    Split,
    evenly_spaced,
    preprocessing_for,
)
from stage1.data.settings import DatasetSettings
from stage1.data.streaming import StreamedImages


def decoded(
    settings: DatasetSettings,
    root: Path,
    class_names: tuple[str, ...],
    entries_of: Mapping[str, Sequence[ListEntry]],
    rows_of: Mapping[str, np.ndarray],
    *,
    sources: Mapping[str, str],
) -> ImageDataset:
    """Decode rows of the entries of each split, or have them decoded as they are used.

    They are streamed with `stream`, and where they do not fit into memory. Either way the channel
    moments are those of at most `stage1.data.images.SAMPLE` training images.

    With `skip_unreadable`, images that cannot be read are left out, and one warning tells of them
    and of the classes that lost their last image of a split.

    Parameters
    ----------
    settings
        With `image_size`, `skip_unreadable` and `stream`.
    root
        Where the paths of the entries start.
    class_names
        K names.
    entries_of, rows_of, sources
        By split: its source's entries, those of them it has, and its source's name (`Split`).

    Raises
    ------
    DataError
        For an image that cannot be read, or one of another size.
    """
    chosen = {
        split: [entries_of[split][row] for row in rows_of[split]]
        for split in SPLITS
        if split in rows_of
    }
    shape = image_shape(
        chosen["train"], root, image_size=settings.image_size, skip=settings.skip_unreadable
    )
    stream = settings.stream or not fits_memory(sum(map(len, chosen.values())), shape)
    splits: dict[str, Split] = {}
    left_out: dict[str, ListEntry] = {}
    lost: list[str] = []
    for split, entries in chosen.items():
        images, read = _images(entries, root, settings, shape=shape, stream=stream)
        kept = [entry for entry, is_read in zip(entries, read, strict=True) if is_read]
        labels = [entry.label for entry in kept]
        splits[split] = Split(
            images,
            torch.tensor(labels),
            rows_of[split][read],
            tuple(entry.path for entry in kept),
            sources.get(split),
        )
        left_out |= {e.place + e.path: e for e, ok in zip(entries, read, strict=True) if not ok}
        gone = {entry.label for entry in entries} - set(labels)
        lost += [f"{class_names[label]!r} of {split}" for label in sorted(gone)]
    if left_out:
        _tell_left_out([*left_out.values()], lost)
    # CIFAR's 4 pixels of 32, in proportion.
    preprocessing = preprocessing_for(
        evenly_spaced(splits["train"].images), pad=min(shape[1:]) // 8, flip=True
    )
    return ImageDataset(settings, splits, class_names, preprocessing)


def _images(
    entries: Sequence[ListEntry],
    root: Path,
    settings: DatasetSettings,
    *,
    shape: tuple[int, ...],
    stream: bool,
) -> tuple[Images, np.ndarray]:
    """The images of a split, and [N] bool: which of the entries they are."""
    form: dict[str, Any] = {"image_size": settings.image_size, "shape": shape}
    if settings.skip_unreadable and not stream:
        return decode_readable(entries, root, **form)
    read = np.ones(len(entries), bool)
    if not stream:
        return decode_images(entries, root, **form), read
    if settings.skip_unreadable:
        read = readable(entries, root, **form)
    kept = [entry for entry, is_read in zip(entries, read, strict=True) if is_read]
    return StreamedImages(kept, root, **form), read


def _tell_left_out(entries: Sequence[ListEntry], lost: Sequence[str]) -> None:
    places = ", ".join(f"{entry.place} ({entry.path})" for entry in entries[:3])
    more = ", …" if len(entries) > 3 else ""
    nothing = f" No image is left of class {', '.join(lost)}." if lost else ""
    warnings.warn(
        f"Images that cannot be read are left out, {len(entries)} in all: {places}{more}.{nothing}"
    )
