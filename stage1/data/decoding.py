"""Data sets of image files: decoded into memory, or streamed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import torch

from featbank.bank.schema import SPLITS
from featbank.memory import fits_memory
from featbank.wording import listed
from stage1.data.decoder import Decoder
from stage1.data.entries import ListEntry
from stage1.data.images import ImageDataset, Images, Split, evenly_spaced, preprocessing_for
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
    """Make a data set of rows of the entries of each split.

    Images are streamed with `stream`, and where they do not fit into memory. Either way the channel
    moments are those of at most `stage1.data.images.SAMPLE` training images.

    With `skip_unreadable`, images that cannot be read are left out, and one warning names them and
    the classes that lost their last image of a split.

    Parameters
    ----------
    settings
        With `image_size`, `resize`, `skip_unreadable` and `stream`.
    root
        Folder the paths of the entries start from.
    class_names
        K names.
    entries_of, rows_of, sources
        By split: the entries of its source, the rows of these it has, and the name of the source
        (`Split`).

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
    decoder = Decoder.for_images(
        chosen["train"],
        root,
        image_size=settings.image_size,
        resize=settings.resize,
        skip=settings.skip_unreadable,
    )
    stream = settings.stream or not fits_memory(sum(map(len, chosen.values())), decoder.shape)
    splits: dict[str, Split] = {}
    left_out: dict[str, ListEntry] = {}
    lost: list[str] = []
    for split, entries in chosen.items():
        images, read = _images(entries, decoder, stream=stream, skip=settings.skip_unreadable)
        kept = [*compress(entries, read)]
        labels = [entry.label for entry in kept]
        splits[split] = Split(
            images,
            torch.tensor(labels),
            rows_of[split][read],
            tuple(entry.path for entry in kept),
            sources.get(split),
        )
        left_out |= {entry.place + entry.path: entry for entry in compress(entries, ~read)}
        gone = {entry.label for entry in entries} - set(labels)
        lost += [f"{class_names[label]!r} of {split}" for label in sorted(gone)]
    if left_out:
        _warn_of_left_out([*left_out.values()], lost)
    # CIFAR's 4 pixels of 32, in proportion.
    preprocessing = preprocessing_for(
        evenly_spaced(splits["train"].images), pad=min(decoder.shape[1:]) // 8, flip=True
    )
    return ImageDataset(settings, splits, class_names, preprocessing)


def _images(
    entries: Sequence[ListEntry], decoder: Decoder, *, stream: bool, skip: bool
) -> tuple[Images, np.ndarray]:
    """The images of a split, and the entries they are of, [N] bool."""
    if not stream:
        return decoder.images(entries, skip=skip)
    read = decoder.readable(entries) if skip else np.ones(len(entries), bool)
    return StreamedImages([*compress(entries, read)], decoder), read


def _warn_of_left_out(entries: Sequence[ListEntry], lost: Sequence[str]) -> None:
    places = listed((f"{entry.place} ({entry.path})" for entry in entries), 3)
    nothing = f" No image is left of class {', '.join(lost)}." if lost else ""
    warnings.warn(
        f"Images that cannot be read are left out, {len(entries)} in all: {places}.{nothing}"
    )
