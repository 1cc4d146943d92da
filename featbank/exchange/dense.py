"""Maps of features as an import: pixels of every split become rows, maps of val and test stay.

Axes: M maps, H and W height and width of labels, h and w those of features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.classes import mostly_unused
from featbank.bank.maps import IGNORED, MapArrays
from featbank.bank.schema import EVALUATED, SPLITS
from featbank.exchange.arrays import Arrays, SelectedRows
from featbank.exchange.ignoring import report_ignored
from featbank.exchange.integers import WHOLE, plain
from featbank.exchange.ondisk import Array, OnDisk, by_rows
from featbank.exchange.origins import settle_origins
from featbank.exchange.settle import check_places
from featbank.settings import shortened
from featbank.wording import listed, number

TRAINED = ("train", "train_balanced")
"""Splits whose pixels may be balanced; those of others keep their shares."""


@dataclass(frozen=True)
class PixelSample:
    """Pixels of each map that become rows.

    Attributes
    ----------
    per_image
        The most of one map; None for all.
    balanced
        Whether those of the splits `TRAINED` are as equal over the classes of a map as these allow;
        otherwise every pixel is as likely.
    seed
        Seed of the draw.
    """

    per_image: int | None = None
    balanced: bool = False
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The entries for the provenance of a bank."""
        if self.per_image is None:
            return {"pixels_per_image": None}
        how = {"balanced_pixels": self.balanced, "pixel_seed": self.seed}
        return {"pixels_per_image": self.per_image, **how}

    def draw(self, labels: np.ndarray, split: str, m: int) -> np.ndarray:
        """Cells of map m of a split, ascending, of labels [h·w]; those `IGNORED` take no part."""
        cells = np.flatnonzero(labels != IGNORED)
        if self.per_image is None or len(cells) <= self.per_image:
            return cells
        rng = np.random.default_rng((self.seed, SPLITS.index(split), m))
        cells = rng.permutation(cells)
        if self.balanced and split in TRAINED:  # the first of each class, the second of each, …
            order = np.argsort(labels[cells], kind="stable")
            _, starts, sizes = np.unique(
                labels[cells][order], return_index=True, return_counts=True
            )
            turn = np.empty(len(cells), np.int64)
            turn[order] = np.arange(len(cells)) - np.repeat(starts, sizes)
            cells = cells[np.argsort(turn, kind="stable")]
        return np.sort(cells[: self.per_image])


def unfold_maps(
    arrays: Arrays,
    names: Sequence[str] | None,
    sample: PixelSample,
    *,
    base: int = 0,
    ignore: Sequence[str] = (),
    renumber: bool = False,
) -> None:
    """Make rows of features [M, h, w, D] with labels [M, H, W], and keep the maps of val and test.

    The label of a row is that of the pixel at the middle of its cell. Rows have the cell and the
    source group of their map: those that were given, one for each map, or else the number of the
    map, counted over all splits. Labels are numbered here, as those of maps must be too.

    Parameters
    ----------
    arrays
        The arrays that were read; changed in place.
    names
        Class names in label order, those of ignored labels among them.
    sample
        The pixels that become rows.
    base, ignore, renumber
        As for `featbank.exchange.settle`.

    Raises
    ------
    DataError
        For arrays of other axes, labels that are no integers, and splits without any label.
    LabelRange
        For a label that is no class.
    ConfigError
        For an ignored label that is no number.
    """
    for split, views in arrays.features.items():
        _check_axes(arrays, split, views)
    check_places(arrays)
    settle_origins(arrays)
    ids, arrays.class_names = _classes(
        arrays, names or arrays.class_names, base, ignored_ids(ignore), renumber
    )
    arrays.map_ids, first = ids, 0
    for split, views in arrays.features.items():
        arrays.labels[split] = _numbered(arrays.labels[split], split, ids, ignored_ids(ignore))
        images = first + np.arange(len(arrays.labels[split]))
        images = arrays.source_groups.get(split, images)
        if split in EVALUATED:
            arrays.maps[split] = MapArrays(images, list(arrays.labels[split]), dict(views))
        _take_pixels(arrays, split, sample, images)
        first += len(images)
    if ignore:
        report_ignored(arrays, ignore, "pixel")


def ignored_ids(labels: Sequence[str]) -> list[int]:
    """Ignored labels as the numbers that they are in label maps."""
    for label in labels:
        if not WHOLE.fullmatch(label.strip()):
            raise errors.ConfigError(
                f"--ignore-label {shortened(label)} is a name, labels of maps are numbers. "
                "Give the number."
            )
    return [int(plain(label.strip())) for label in labels]


def _check_axes(arrays: Arrays, split: str, views: dict[str, Any]) -> None:
    labels = arrays.labels.get(split)
    if labels is None:
        raise errors.DataError(f"{split} has features and no labels. Give both.")
    for view, x in views.items():
        shape = list(x.shape)
        if len(shape) != 4 or labels.ndim != 3 or shape[0] != len(labels):
            raise errors.DataError(
                f"{split}/{view}: features have shape {shape}, labels {list(labels.shape)}. Maps "
                "are features [M, h, w, D] and labels [M, H, W]."
            )
        views[view] = x if isinstance(x, OnDisk) else np.asarray(x)
        if views[view].shape[:3] != next(iter(views.values())).shape[:3]:
            raise errors.DataError(f"{split}/{view}: maps have another size than other views'.")
    if not labels.size:
        raise errors.DataError(f"{split} has no maps. Leave the split out.")
    if labels.dtype.kind not in "iu":
        raise errors.DataError(
            f"{split}: labels of maps have type {labels.dtype}. They must be integers [M, H, W]."
        )


def _classes(
    arrays: Arrays, names: Sequence[str] | None, base: int, ignored: list[int], renumber: bool
) -> tuple[np.ndarray, list[str]]:
    """Numbers [K] of the classes in label maps, ascending, and their names."""
    used = np.unique(np.concatenate([np.unique(y) for y in arrays.labels.values()]))
    used = used[~np.isin(used, ignored)].astype(np.int64)
    if not used.size:
        raise errors.DataError(
            f"No pixel of {', '.join(arrays.labels)} has a label but {listed(ignored, 3)}. Check "
            "--ignore-label."
        )
    if renumber:
        return used, [str(i) for i in used]
    if names is None:
        if mostly_unused(len(used), int(used.max(initial=0)) + 1):
            arrays.notes.append(
                f"most numbers up to {used.max()} are no label; if {used.max()} stands for pixels "
                f"without one, add --ignore-label {used.max()}, if they are ids, --renumber"
            )
        names = [str(i) for i in range(base, int(used.max(initial=base)) + 1)]
    ids = [i for i in range(base, base + len(names)) if i not in ignored]
    return np.array(ids), [names[i - base] for i in ids]


def _numbered(
    labels: np.ndarray, split: str, ids: np.ndarray, ignored: Sequence[int]
) -> np.ndarray:
    """Labels [M, H, W] as classes, `IGNORED` where they are one of the `ignored`."""
    known = np.searchsorted(ids, labels).clip(max=len(ids) - 1)
    numbered = np.where(ids[known] == labels, known, IGNORED)
    wrong = np.unique(labels[(numbered == IGNORED) & ~np.isin(labels, ignored)])
    if wrong.size:
        raise errors.LabelRange(
            f"{split} has the {'labels' if wrong.size > 1 else 'label'} {listed(wrong, 5)}, the "
            f"classes are {ids[0]}…{ids[-1]}. Leave pixels out with --ignore-label {wrong[0]}, or "
            "give --label-base, --class-names or --renumber."
        )
    return numbered


def _take_pixels(arrays: Arrays, split: str, sample: PixelSample, images: np.ndarray) -> None:
    """Make the sampled pixels of a split its rows."""
    labels, views = arrays.labels[split], arrays.features[split]
    height, width = next(iter(views.values())).shape[1:3]
    i, j = _middles(height, labels.shape[1]), _middles(width, labels.shape[2])
    of_cells = labels[:, i[:, None], j].reshape(len(labels), -1)  # [M, h·w]
    drawn = [sample.draw(of_map, split, m) for m, of_map in enumerate(of_cells)]
    if not sum(map(len, drawn)):
        raise errors.DataError(
            f"{split}: no pixel has a label ({number(len(labels), 'map')}). Leave the split out, "
            "or check --ignore-label."
        )
    maps = np.repeat(np.arange(len(labels)), [len(cells) for cells in drawn])
    cells = np.concatenate(drawn)
    rows = maps * height * width + cells
    arrays.features[split] = {view: SelectedRows(_as_rows(x), rows) for view, x in views.items()}
    if left := int((of_cells == IGNORED).sum()):
        arrays.ignored[split] = left
    arrays.labels[split] = of_cells.reshape(-1)[rows]
    arrays.index[split], arrays.source_groups[split] = rows, images[maps]
    arrays.cells[split] = np.stack(np.divmod(cells, width), axis=1)
    arrays.notes.append(
        f"{split}: {number(len(rows), 'pixel')} of {number(len(labels), 'map')} of {height} × "
        f"{width}, labels {labels.shape[1]} × {labels.shape[2]}"
    )


def _as_rows(x: Array) -> Array:
    """Features [M, h, w, D] as rows [M·h·w, D]; of those on disk, one map at a time is read."""
    maps, height, width, dim = x.shape
    if isinstance(x, np.ndarray):
        return x.reshape(-1, dim)
    cells = height * width

    @lru_cache(maxsize=1)
    def one(m: int) -> np.ndarray:
        return x[m : m + 1].reshape(cells, dim)

    def rows(start: int, stop: int) -> np.ndarray:
        touched = range(start // cells, -(-stop // cells))
        return np.concatenate(
            [one(m)[max(0, start - m * cells) : stop - m * cells] for m in touched]
        )

    return by_rows(x.path, (maps * cells, dim), x.dtype, rows)


def _middles(cells: int, pixels: int) -> np.ndarray:
    """The pixel at the middle of each cell along an axis."""
    return (2 * np.arange(cells) + 1) * pixels // (2 * cells)
