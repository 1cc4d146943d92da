"""Whole maps of a bank: features and labels of every pixel of an image, to evaluate heads on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.blocks import block_rows, steps
from featbank.bank.checked import CheckedFile

IGNORED = -1
"""Label of pixels that are left out of every figure."""


@dataclass(frozen=True)
class MapArrays:
    """M maps to be written.

    Attributes
    ----------
    images
        [M] int64, the source group of each.
    labels
        M arrays [H, W] of integers in 0…K−1 or `IGNORED`.
    features
        By view, M arrays [h, w, D].
    """

    images: np.ndarray
    labels: Sequence[np.ndarray]
    features: Mapping[str, Sequence[np.ndarray]]

    @property
    def sizes(self) -> np.ndarray:
        """[M, 4] int64: H, W, h and w."""
        first, *_ = self.features.values()
        pairs = zip(self.labels, first, strict=True)
        return np.array([(*y.shape, *x.shape[:2]) for y, x in pairs], np.int64).reshape(-1, 4)


@dataclass(frozen=True)
class Maps:
    """M maps of a split, in order; ``maps[a:b]`` are some of them.

    Attributes
    ----------
    images
        [M] int64, the source group of each map (`StoredBank.source_groups`).
    sizes
        [M, 4] int64: height H and width W of the labels, h and w of the features.
    """

    images: np.ndarray
    sizes: np.ndarray
    _file: CheckedFile
    _split: str
    _starts: tuple[int, int] = (0, 0)  # first pixel, and first cell

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice) -> Maps:
        first, last, _ = which.indices(len(self))
        starts = int(self._pixels[first]), int(self._cells[first])
        here = slice(first, max(first, last))
        return replace(self, images=self.images[here], sizes=self.sizes[here], _starts=starts)

    def labels(self, m: int) -> np.ndarray:
        """Labels [H, W] int64 of map m, each in 0…K−1 or `IGNORED`."""
        return self._labels(slice(m, m + 1)).reshape(self.sizes[m, :2])

    def features(self, m: int, view: str = "instance") -> np.ndarray:
        """Features [h, w, D] of map m in the stored type."""
        rows = self._read(view, int(self._cells[m]), int(self._cells[m + 1]))
        return rows.reshape(*self.sizes[m, 2:], *rows.shape[1:])

    def check_labels(self) -> None:
        """Raise `Corrupt` for a label that is none."""
        for m in range(len(self)):
            self.labels(m)

    def flat_labels(self) -> np.ndarray:
        """Labels [Σ H·W] int64 of all maps, one after another."""
        return self._labels(slice(0, len(self)))

    def blocks(self, view: str) -> Iterator[np.ndarray]:
        """Yield the features of all maps [n, D], block by block."""
        dataset = self._file.dataset(self._name(view))
        for rows in steps(int(self._cells[0]), int(self._cells[-1]), block_rows(dataset)):
            yield self._read(view, rows.start, rows.stop)

    def dtype(self, view: str) -> np.dtype:
        """Type of the stored features."""
        return self._file.dataset(self._name(view)).dtype

    @cached_property
    def _pixels(self) -> np.ndarray:
        """First pixel of each map, and the end [M + 1]."""
        return self._starts[0] + _ends(self.sizes[:, 0] * self.sizes[:, 1])

    @cached_property
    def _cells(self) -> np.ndarray:
        """First cell of each map, and the end [M + 1]."""
        return self._starts[1] + _ends(self.sizes[:, 2] * self.sizes[:, 3])

    def _labels(self, maps: slice) -> np.ndarray:
        name = f"maps/{self._split}/label"
        first, last = int(self._pixels[maps.start]), int(self._pixels[maps.stop])
        labels = self._file.read(name, slice(first, last))
        classes = self._file.dataset("classes/name").shape[0]
        outside = np.flatnonzero((labels < IGNORED) | (labels >= classes))
        if outside.size:
            raise self._file.corrupt(
                f"{name}: label {labels[outside[0]]} of pixel {first + outside[0]} is outside "
                f"{IGNORED}…{classes - 1}"
            )
        return labels

    def _read(self, view: str, start: int, stop: int) -> np.ndarray:
        return self._file.rows(self._name(view), 0, start, stop)

    def _name(self, view: str) -> str:
        """Name of the features of a view that the maps have."""
        name = f"maps/{self._split}/{view}/feature"
        if name not in self._file.datasets:
            raise errors.ConfigError(
                f"{self._file.path}: the maps of {self._split} have no view {view!r}. Give one "
                "that is stored."
            )
        return name


class MapTable:
    """The maps of a bank; part of `featbank.Bank`."""

    _file: CheckedFile

    @cached_property
    def mapped(self) -> dict[str, Maps]:
        """Whole maps of the splits that have some."""
        splits = [s for s in schema.EVALUATED if f"maps/{s}/image" in self._file.datasets]
        return {split: self._maps(split) for split in splits}

    def maps(self, split: str) -> Maps | None:
        """Whole maps of a split; None if the bank has none."""
        return self.mapped.get(split)

    @cached_property
    def map_ids(self) -> np.ndarray:
        """Number [K] int64 of each class in the label maps that a bank with maps was made of."""
        return self._file.read("maps/id")

    def _maps(self, split: str) -> Maps:
        images, sizes = (self._file.read(f"maps/{split}/{part}") for part in ("image", "size"))
        if images.min(initial=0) < 0:
            raise self._file.corrupt(f"maps/{split}/image: {images.min()} is negative")
        return Maps(images, sizes, self._file, split)


def check_maps(file: CheckedFile, num_classes: int, of_row: dict[str, tuple[int, ...]]) -> None:
    """Check the shapes of the maps of a bank whose views have rows of these shapes.

    Raises
    ------
    Corrupt, Truncated, Unsafe
    """
    splits = [split for split in schema.EVALUATED if file.has(f"maps/{split}")]
    for split in splits:
        count = file.dataset(f"maps/{split}/image").shape[0]
        file.require_shape(f"maps/{split}/size", (count, 4))
        sizes = file.read(f"maps/{split}/size")
        if ((sizes < 1) | (sizes > schema.LONGEST_SIDE)).any():
            raise file.corrupt(f"maps/{split}/size has sides outside 1…{schema.LONGEST_SIDE:,}")
        pixels, cells = (int((sizes[:, i] * sizes[:, i + 1]).sum()) for i in (0, 2))
        file.require_shape(f"maps/{split}/label", (pixels,))
        for view, shape in of_row.items():
            file.require_shape(f"maps/{split}/{view}/feature", (1, cells, *shape))
    if splits:
        file.require_shape("maps/id", (num_classes,))


def _ends(counts: np.ndarray) -> np.ndarray:
    """0 and the running sums [M + 1] of counts [M]."""
    return np.concatenate([[0], np.cumsum(counts)])
