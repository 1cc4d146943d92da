"""Images of a list decoded in a few threads: all of them, or those that can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from featbank import errors
from stage1.data.entries import ListEntry, Unreadable, missing, unreadable
from stage1.data.pixels import Undecoded, read_rgb

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; Pillow releases the interpreter lock while it decodes."""


def image_shape(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, skip: bool = False
) -> tuple[int, ...]:
    """(3, H, W) of the decoded images: S×S, or the size of the first.

    Parameters
    ----------
    entries, root, image_size
        As in `decode_images`.
    skip
        Take the first that can be read.

    Raises
    ------
    DataError
        Where that image, or with `skip` every image, cannot be read.
    """
    if image_size is not None:
        return 3, image_size, image_size
    for entry in entries:
        try:
            return _decode(entry, root, None).shape
        except Unreadable:
            if not skip:
                raise
    raise _nothing_read(entries)


def decode_images(
    entries: Sequence[ListEntry],
    root: Path,
    *,
    image_size: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Decode the images of a list, in its order, in a few threads.

    Parameters
    ----------
    entries
        N ≥ 1 lines.
    root
        Folder the paths start from.
    image_size
        S: the shorter side is resized to S and the centre S×S is kept. None keeps the image's own
        size, which all must share.
    shape
        (3, H, W) that the images must have; by default that of the first.

    Returns
    -------
    [N, 3, H, W] uint8

    Raises
    ------
    DataError
        For a missing or unreadable image or one of another size, with its list and line.
    """
    shape = shape or image_shape(entries, root, image_size=image_size)
    return _decode_all(entries, root, image_size, shape, skip=False)[0]


def decode_readable(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> tuple[torch.Tensor, np.ndarray]:
    """Decode the images that can be read, as `decode_images` does, and tell which they are.

    Returns
    -------
    [n, 3, H, W] uint8, and [N] bool with n true.

    Raises
    ------
    DataError
        For an image of another size, or where none can be read.
    """
    images, read = _decode_all(entries, root, image_size, shape, skip=True)
    if not read.any():
        raise _nothing_read(entries)
    return images, read


def decode_image(
    entry: ListEntry, root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    """One image, uint8 of `shape` (3, H, W); parameters as in `decode_images`.

    Raises
    ------
    Unreadable
        Where it is missing or broken.
    DataError
        Where it has another size.
    """
    image = _decode(entry, root, image_size)
    if image.shape != shape:
        raise errors.DataError(
            f"{entry.place}: {root / entry.path} is {_size(image.shape)}, other images are "
            f"{_size(shape)}. Give --image-size to bring all to one size."
        )
    return image


def _nothing_read(entries: Sequence[ListEntry]) -> errors.DataError:
    return errors.DataError(
        f"{entries[0].place}: none of the {len(entries)} images from here on can be read. "
        "Check --root."
    )


def readable(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Which images of a list can be read, [N] bool; each is decoded, none kept.

    Raises
    ------
    DataError
        As `decode_readable`.
    """
    read = _decode_each(entries, root, image_size, shape, skip=True, keep=lambda row, image: None)
    if not read.any():
        raise _nothing_read(entries)
    return read


def _decode_all(
    entries: Sequence[ListEntry],
    root: Path,
    image_size: int | None,
    shape: tuple[int, ...],
    *,
    skip: bool,
) -> tuple[torch.Tensor, np.ndarray]:
    images = np.empty((len(entries), *shape), np.uint8)
    read = _decode_each(entries, root, image_size, shape, skip=skip, keep=images.__setitem__)
    if not read.all():
        for place, row in enumerate(np.flatnonzero(read)):  # moved up, not copied: memory is dear
            images[place] = images[row]
    return torch.from_numpy(images[: read.sum()]), read


def _decode_each(
    entries: Sequence[ListEntry],
    root: Path,
    image_size: int | None,
    shape: tuple[int, ...],
    *,
    skip: bool,
    keep: Callable[[int, np.ndarray], None],
) -> np.ndarray:
    def is_read(row: int) -> bool:
        try:
            keep(row, decode_image(entries[row], root, image_size=image_size, shape=shape))
        except Unreadable:
            if skip:
                return False
            raise
        return True

    with ThreadPoolExecutor(DECODERS) as pool:
        # map yields in list order, so the first bad line is the one that is told
        return np.array(list(pool.map(is_read, range(len(entries)))), bool)


def _decode(entry: ListEntry, root: Path, image_size: int | None) -> np.ndarray:
    """One image [3, H, W] uint8."""
    try:
        image = read_rgb(root / entry.path)
    except FileNotFoundError:
        raise missing(entry, root) from None
    except Undecoded as error:
        raise unreadable(entry, root, error) from None
    if image_size is not None:
        from PIL import Image, ImageOps  # loaded where images are decoded

        # `fit` takes the centre square and scales it to S: the same view, resampled once.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}×{shape[1]}"
