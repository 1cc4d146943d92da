"""Images of a list decoded in a few threads: all of them, or those that can be read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from featbank import errors
from stage1.data.entries import ListEntry, Unreadable, missing, unreadable
from stage1.data.pixels import Undecoded, read_rgb

if TYPE_CHECKING:
    from PIL import Image

Place = Callable[[tuple[int, int]], Sequence[int]]
"""Top, left, height and width of a box in an image of (H, W) pixels."""

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; Pillow releases the interpreter lock while it decodes."""


@dataclass(frozen=True)
class Decoder:
    """Decodes images [3, H, W] uint8, all to one shape.

    Attributes
    ----------
    root
        Folder the paths of entries start from.
    image_size
        S: the centre S×S of the resized image is kept. None keeps the image's own size.
    shape
        (3, H, W) that every image must have.
    resize
        Length of the shorter side before the centre is kept, as torchvision's ``Resize`` and
        ``CenterCrop``; 0 or None scales the largest centre square to S, resampled once.
    """

    root: Path
    image_size: int | None
    shape: tuple[int, ...]
    resize: int | None = None

    @classmethod
    def for_images(
        cls,
        entries: Sequence[ListEntry],
        root: Path,
        *,
        image_size: int | None = None,
        resize: int | None = None,
        skip: bool = False,
    ) -> Self:
        """Decoder to S×S or, without `image_size`, to the size of the first image.

        With `skip`, the first that can be read.

        Raises
        ------
        DataError
            Where that image cannot be read; with `skip`, where none can.
        """
        if image_size is not None:
            return cls(root, image_size, (3, image_size, image_size), resize)
        for entry in entries:
            try:
                return cls(root, None, _pixels(_read(entry, root)).shape)
            except Unreadable:
                if not skip:
                    raise
        raise _nothing_read(entries)

    def image(self, entry: ListEntry) -> np.ndarray:
        """Decode one image.

        Raises
        ------
        Unreadable
            Where it is missing or broken.
        DataError
            Where it has another size.
        """
        image = _pixels(self._whole(_read(entry, self.root)))
        if image.shape != self.shape:
            raise errors.DataError(
                f"{entry.place}: {self.root / entry.path} is {_size(image.shape)}, other images "
                f"are {_size(self.shape)}. Give --image-size to bring all to one size."
            )
        return image

    def views(self, entry: ListEntry, places: Sequence[Place | None]) -> list[np.ndarray]:
        """Decode one image once, to several views [3, S, S].

        Parameters
        ----------
        entry
            The image; `image_size` is set.
        places
            One for each view: a box of the decoded original by its (H, W), scaled to S×S as
            torchvision's ``resized_crop`` does; None for the view of `image`.

        Raises
        ------
        Unreadable
            Where it is missing or broken.
        """
        original = _read(entry, self.root)
        return [_pixels(self._cut(original, place)) for place in places]

    def _cut(self, original: Image.Image, place: Place | None) -> Image.Image:
        if place is None:
            return self._whole(original)
        from PIL import Image

        top, left, height, width = place((original.height, original.width))
        crop = original.crop((left, top, left + width, top + height))
        return crop.resize((self.shape[2], self.shape[1]), Image.Resampling.BILINEAR)

    def _whole(self, original: Image.Image) -> Image.Image:
        """The view that evaluation sees."""
        S = self.image_size
        if S is None:
            return original
        from PIL import Image, ImageOps  # loaded where images are decoded

        if not self.resize:
            # `fit` takes the centre square and scales it to S: the same view, resampled once.
            return ImageOps.fit(original, (S, S), Image.Resampling.BILINEAR)
        shorter = min(original.size)
        width, height = (int(self.resize * side / shorter) for side in original.size)
        left, top = round((width - S) / 2), round((height - S) / 2)
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
            # A strip would fill the memory: resize the centre alone, equal but for rounding.
            x, y = original.width / width, original.height / height
            box = (left * x, top * y, (left + S) * x, (top + S) * y)
            return original.resize((S, S), Image.Resampling.BILINEAR, box)
        image = original.resize((width, height), Image.Resampling.BILINEAR)
        return image.crop((left, top, left + S, top + S))

    def images(
        self, entries: Sequence[ListEntry], *, skip: bool = False
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Decode the images of N ≥ 1 entries, in order; with `skip`, those that can be read.

        Returns
        -------
        [n, 3, H, W] uint8, and [N] bool with n true: the entries they are of.

        Raises
        ------
        DataError
            For an unreadable image or one of another size, with its list and line. With `skip`
            unreadable images are errors only where no image can be read.
        """
        images = np.empty((len(entries), *self.shape), np.uint8)
        read = self._each(entries, images.__setitem__, skip=skip)
        if not read.all():
            for place, row in enumerate(np.flatnonzero(read)):
                images[place] = images[row]  # compact in place; a copy would double peak memory
        return torch.from_numpy(images[: read.sum()]), read

    def readable(self, entries: Sequence[ListEntry]) -> np.ndarray:
        """Find the images that can be read, [N] bool; each is decoded, none kept.

        Raises
        ------
        DataError
            As `images` with `skip`.
        """
        return self._each(entries, lambda row, image: None, skip=True)

    def _each(
        self,
        entries: Sequence[ListEntry],
        keep: Callable[[int, np.ndarray], None],
        *,
        skip: bool,
    ) -> np.ndarray:
        def is_read(row: int) -> bool:
            try:
                keep(row, self.image(entries[row]))
            except Unreadable:
                if not skip:
                    raise
                return False
            return True

        with ThreadPoolExecutor(DECODERS) as pool:
            # map yields in list order, so the first bad line is the one reported
            read = np.array(list(pool.map(is_read, range(len(entries)))), bool)
        if not read.any():
            raise _nothing_read(entries)
        return read


def _read(entry: ListEntry, root: Path) -> Image.Image:
    """The original, as `read_rgb` decodes it."""
    try:
        return read_rgb(root / entry.path)
    except FileNotFoundError:
        raise missing(entry, root) from None
    except Undecoded as error:
        raise unreadable(entry, root, error) from None


def _pixels(image: Image.Image) -> np.ndarray:
    """[3, H, W] uint8."""
    return np.asarray(image).transpose(2, 0, 1)


def _nothing_read(entries: Sequence[ListEntry]) -> errors.DataError:
    return errors.DataError(
        f"{entries[0].place}: none of the {len(entries)} images from here on can be read. "
        "Check --root."
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}×{shape[1]}"
