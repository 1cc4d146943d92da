"""Images and the PNG files with the labels of their pixels, paired by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featbank import errors
from featbank.regular import unprintable
from featbank.wording import number
from stage1.data.pixels import Undecoded, read_rgb, read_values

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


class Header(NamedTuple):
    """Size in pixels, bits of a value, and kind of colour of a PNG file."""

    height: int
    width: int
    bits: int
    colour: int


@dataclass(frozen=True)
class Pair:
    """An image and the labels of its pixels."""

    image: Path
    labels: Path

    @cached_property
    def header(self) -> Header:
        """The header of the file of labels.

        Raises
        ------
        DataError
            For a file that is no PNG, or has colours instead of numbers.
        """
        with self.labels.open("rb") as file:
            start = file.read(26)
        if len(start) < 26 or not start.startswith(_SIGNATURE):
            raise errors.DataError(f"{self.labels} is not a readable PNG file. Replace it.")
        width, height = (int.from_bytes(start[i : i + 4], "big") for i in (16, 20))
        if start[25] not in (_GREY, _PALETTE):
            raise errors.DataError(
                f"{self.labels} has several channels. Labels are numbers: save them as PNG of one "
                "channel, of 8 or 16 bits, or with a palette."
            )
        return Header(height, width, start[24], start[25])

    def read(self, size: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [H, W, 3] uint8 and labels [H, W] uint8 or uint16.

        With a `size` (H, W), pixels are resampled bilinearly, and labels are those of the nearest
        pixel.

        Raises
        ------
        DataError
            For a file that cannot be read, and for labels of another size than the image.
        """
        try:
            image = read_rgb(path := self.image)
            labels = read_values(path := self.labels)
        except (FileNotFoundError, Undecoded) as error:
            fault = error if isinstance(error, Undecoded) else "is missing"
            raise errors.DataError(f"{path} {fault}. Replace it.") from None
        if labels.shape != (image.height, image.width):
            raise errors.DataError(
                f"{self.labels} has {_sides(labels.shape)} pixels, {self.image} "
                f"{_sides((image.height, image.width))}. Give labels of the size of the image."
            )
        if self.header.colour == _GREY and self.header.bits in (2, 4):
            labels = labels // (255 // ((1 << self.header.bits) - 1))  # Pillow scales to 0…255
        if size is not None:
            i, j = (
                (2 * np.arange(new) + 1) * old // (2 * new)
                for new, old in zip(size, labels.shape, strict=True)
            )
            labels = labels[i[:, None], j]
            image = image.resize((size[1], size[0]), resample=2)  # bilinear, with antialiasing
        return np.asarray(image), labels


def find_pairs(images: Path, labels: Path) -> tuple[list[Pair], int]:
    """Pairs of the files of two folders by their names without ending, sorted.

    Returns
    -------
    The pairs, and the number of files of either folder that have no partner.

    Raises
    ------
    ConfigError
        For a path that is no folder.
    DataError
        For folders without a pair, two images of one name, and names that cannot be stored.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS  # takes seconds to load

    of_images, of_labels = _by_stem(images, IMG_EXTENSIONS), _by_stem(labels, (".png",))
    both = sorted(of_images.keys() & of_labels.keys())
    if not both:
        raise errors.DataError(
            f"No image in {images} ({number(len(of_images), 'image')}) has the name of a PNG in "
            f"{labels} ({number(len(of_labels), 'file')}). Name both alike but for the ending."
        )
    return [Pair(of_images[stem], of_labels[stem]) for stem in both], len(
        of_images.keys() ^ of_labels.keys()
    )


def common_size(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Height and width that the labels of all pairs have.

    Raises
    ------
    DataError
        Where they differ.
    """
    first = pairs[0].header[:2]
    for pair in pairs:
        if pair.header[:2] != first:
            raise errors.DataError(
                f"{pair.labels} has {_sides(pair.header)} pixels, {pairs[0].labels} "
                f"{_sides(first)}. Maps are of one size: give it with --resize H W."
            )
    return first


def _by_stem(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise errors.ConfigError(f"{folder} is not a folder. Check the path.")
    found: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(".") or path.suffix.lower() not in endings or not path.is_file():
            continue
        if unprintable(name):
            raise errors.DataError(f"{folder} holds {name!r}, which cannot be stored. Rename it.")
        if path.stem in found:
            raise errors.DataError(
                f"{folder} has {found[path.stem].name} and {name}. Leave one of them."
            )
        found[path.stem] = path
    return found


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[0]} × {shape[1]}"
