"""Writing whole maps into a bank."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import checks, schema
from featbank.bank.class_writer import ClassWriter
from featbank.bank.maps import IGNORED, MapArrays
from featbank.bank.rows import FeatureRows


class MapWriter(ClassWriter):
    """Whole maps of val and test; part of `featbank.bank.BankWriter`."""

    def __init__(self, path: Path, num_classes: int, dim: int) -> None:
        super().__init__(path, num_classes, dim)
        self._map_sizes: dict[str, np.ndarray] = {}
        self._open_maps: list[FeatureRows] = []
        self._last_group = -1  # the largest source group, of rows as well

    def map_ids(self, ids: np.ndarray) -> None:
        """Store the number [K] ≥ 0 of each class in label maps; a bank with maps needs them."""
        self._put_map("maps/id", checks.not_negative(ids, "maps/id", (self.num_classes,)))

    def maps(self, split: str, images: np.ndarray, sizes: np.ndarray, labels: np.ndarray) -> None:
        """Start the maps of a split; their features follow.

        Parameters
        ----------
        split
            ``val`` or ``test``.
        images
            [M] ≥ 0, the source group of each.
        sizes
            [M, 4] ≥ 1: height H and width W of the labels, h and w of the features.
        labels
            [Σ H·W] integers in 0…K−1, or −1 for pixels that are left out of every figure.
        """
        checks.check_choice("split of maps", split, schema.EVALUATED)
        name = f"maps/{split}"
        images = checks.not_negative(np.asarray(images), f"{name}/image", (len(images),))
        sizes = checks.not_negative(np.asarray(sizes), f"{name}/size", (len(images), 4))
        if ((sizes < 1) | (sizes > schema.LONGEST_SIDE)).any():
            raise errors.DataError(
                f"{name}/size has sides outside 1…{schema.LONGEST_SIDE:,}. Give maps of pixels."
            )
        pixels = int((sizes[:, 0] * sizes[:, 1]).sum())
        if labels.shape != (pixels,):
            raise errors.DataError(
                f"{name}/label has shape {list(labels.shape)}, its sizes make [{pixels}]. Give a "
                "label for each pixel."
            )
        checks.checked_labels(labels[labels != IGNORED], name, self.num_classes)
        self._put_map(f"{name}/image", images)
        self._put_map(f"{name}/size", sizes)
        self._put_map(f"{name}/label", labels.astype(np.int64))
        self._map_sizes[split] = sizes
        self._last_group = max(self._last_group, int(images.max(initial=-1)))

    def map_features(self, split: str, view: str, *, dtype: np.dtype | str) -> FeatureRows:
        """Start the features of a view of maps, to be appended as rows [n, D], map by map.

        Parameters
        ----------
        split, view
            A split whose maps were started, and a view of train.
        dtype
            ``float32`` or ``float16``, which may differ from that of the rows.
        """
        if view not in self._of_row:
            raise errors.ConfigError(f"{self.path}: maps have the view {view!r}, train has not.")
        if view.partition("/")[0] in ("image", "size"):
            raise errors.ConfigError(
                f"{self.path}: maps cannot have a view {view!r}. Give it another name."
            )
        sizes = self._map_sizes[split]
        cells = int((sizes[:, 2] * sizes[:, 3]).sum())
        shape = (1, cells, *self._of_row[view])
        rows = self._feature_rows(f"maps/{split}/{view}/feature", shape, np.dtype(dtype))
        self._open_maps.append(rows)
        return rows

    def map_arrays(
        self, splits: Mapping[str, MapArrays], ids: np.ndarray | None, *, dtype: np.dtype | str
    ) -> None:
        """Write the maps of all splits, their features in the type `dtype`, and the numbers [K] of
        the classes in them, by default 0…K−1."""
        self.map_ids(np.arange(self.num_classes) if ids is None else ids)
        for split, maps in splits.items():
            labels = [np.asarray(y).ravel() for y in maps.labels]
            self.maps(split, maps.images, maps.sizes, np.concatenate([np.zeros(0, int), *labels]))
            for view, features in maps.features.items():
                rows = self.map_features(split, view, dtype=dtype)
                for x in features:
                    rows.append(np.asarray(x).reshape(-1, x.shape[-1]))

    @abstractmethod
    def _feature_rows(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, *, measured: bool = False
    ) -> FeatureRows:
        """Rows of a new dataset of features."""

    def _check_maps(self) -> None:
        """Raise unless the maps of every split have all views and the numbers of classes."""
        names = {rows.name for rows in self._open_maps}
        for split in self._map_sizes:
            for view in self._of_row:
                if f"maps/{split}/{view}/feature" not in names:
                    raise errors.DataError(
                        f"{self.path}: maps of {split} have no {view}. Give every view of train."
                    )
            if "maps/id" not in self._file:
                raise errors.DataError(f"{self.path}: maps have no class numbers. Give map_ids.")

    def _put_map(self, name: str, array: np.ndarray) -> None:
        self._put_new(name, array)
        self._require_schema(schema.PIXELS)
