"""Reading a bank: everything is checked before any of it is exposed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from featbank import errors
from featbank.bank import blocks as dataset_blocks
from featbank.bank import schema
from featbank.bank.blocks import Place
from featbank.bank.checked import CheckedFile
from featbank.bank.chunks import THREADS
from featbank.bank.class_table import ClassTable
from featbank.bank.classes import class_counts
from featbank.bank.grouping import ClassGroups
from featbank.bank.maps import MapTable
from featbank.bank.models import Models
from featbank.bank.structure import read_head, read_tree


class StoredBank(Models, ClassTable, MapTable):
    """A bank opened for reading, its views as they are stored; `featbank.Bank` adds views made of
    others. A context manager.

    Parameters
    ----------
    path
        A file written by `featbank extract`, `featbank import` or `write_bank`.

    Attributes
    ----------
    splits, views
        Their names; every view is in every split.
    num_classes, dim
        K, and D of the first view; `dim_of` has that of each.
    dtype
        Stored type of the features, ``float32`` or ``float16``.
    class_names, train_counts, full_counts
        K names; training counts [K] int64, as stored and before rows were held out for val, or
        those from outside.
    fingerprint
        SHA-256 of the content, 64 hex digits.
    provenance
        The record of how the bank was made.
    schema
        Version of the format.

    Raises
    ------
    NotABank, Incomplete, Truncated, TooNew, Corrupt, Unsafe
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = CheckedFile(self.path)
        try:
            self.schema, self.num_classes, self.dim = read_head(self._file)
            self.fingerprint = self._file.hash(self._file.attributes, "fingerprint")
            self.provenance = self._file.json("provenance")
            self.class_names = self._file.texts("classes/name")
            self.train_counts = self._file.read("classes/train_count")
            for name in ("classes/name", "classes/train_count"):
                self._file.require_shape(name, (self.num_classes,))
            self._file.check_root()
            self.splits, self.views, self.dtype = read_tree(
                self._file, self.schema, self.num_classes, self.dim
            )
        except errors.BankError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self._file.corrupt(errors.first_line(error)) from None

    def load(
        self, split: str, view: str = "instance", *, copy: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a split: features [N, D], of tokens [N, T, D], float32, and labels [N] int64.

        Parameters
        ----------
        split, view
            Names from `splits` and `views`.
        copy
            The augmentation copy, 0…A−1.

        Raises
        ------
        ConfigError
            For a split, view or copy that the bank does not have.
        Corrupt
            If a checksum fails.
        """
        self._known_copy(split, view, copy)
        features = np.empty(self.shape(split, view)[1:], np.float32)
        self._load_into(features, split, view, copy)
        return features, self.labels(split)

    def load_copies(
        self, split: str, view: str = "instance", *, dtype: str = "float32"
    ) -> np.ndarray:
        """Read all augmentation copies of a view: of its `shape`, float32 or the bank's `dtype`."""
        features = np.empty(self.shape(split, view), dtype)
        for copy, rows in enumerate(features):
            self._load_into(rows, split, view, copy)
        return features

    def read(
        self,
        split: str,
        view: str,
        start: int,
        stop: int,
        *,
        copy: int = 0,
        out: np.ndarray | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        """Read the rows `start` … `stop` − 1 of a view, [n, D] or [n, T, D] in the stored type.

        Parameters
        ----------
        split, view, copy
            As for `load`.
        start, stop
            0 ≤ start ≤ stop ≤ N; fastest at multiples of `chunk_rows`.
        out
            A contiguous array of the result's shape and the stored type to read into.
        threads
            Threads that read and check side by side; two pay off above about 100 MiB.

        Raises
        ------
        ConfigError, Corrupt
        """
        rows = self._feature(split, view).shape[1]
        self._known_copy(split, view, copy)
        if not 0 <= start <= stop <= rows:
            raise errors.ConfigError(
                f"{self.path}: {split}/{view} has rows 0…{rows - 1}, not {start}…{stop - 1}."
            )
        name = f"{split}/{view}/feature"
        return self._file.rows(name, copy, start, stop, out=out, threads=threads)

    def blocks(
        self, split: str, view: str = "instance", *, copy: int = 0
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield a view in order: (first row, rows [n, D] or [n, T, D] in the stored type)."""
        for rows in dataset_blocks.steps(0, self.rows(split), self.block_rows(split, view)):
            yield rows.start, self.read(split, view, rows.start, rows.stop, copy=copy)

    def block_rows(self, split: str, view: str = "instance") -> int:
        """Rows of one block of `blocks`: whole chunks of about 16 MiB."""
        return dataset_blocks.block_rows(self._feature(split, view))

    def labels(self, split: str) -> np.ndarray:
        """Labels [N] int64 of a split, each in 0…K−1; those of train match `train_counts`."""
        labels = self._file.read(self._column(split, "label"))
        outside = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if outside.size:
            raise self._file.corrupt(
                f"{split}/label: label {labels[outside[0]]} in row {outside[0]} is outside 0…"
                f"{self.num_classes - 1}"
            )
        if split == "train":
            self._check_counts(class_counts(labels, self.num_classes))
        return labels

    def index(self, split: str) -> np.ndarray:
        """Rows [N] int64 of a split in its source data."""
        return self._file.read(self._column(split, "index"))

    def source(self, split: str) -> str:
        """Name of the source data that `index` points into."""
        return self._file.text(self._file.dataset(self._column(split, "index")).attrs, "source")

    def paths(self, split: str) -> list[str] | None:
        """Paths of the N images, if the bank has them."""
        name = self._column(split, "path")
        return self._file.texts(name) if name in self._file.datasets else None

    def seen(self, split: str) -> np.ndarray:
        """Mask [N] of the rows of a split that stage 1 was trained on.

        If the bank does not record it, a stage-1 classifier implies that stage 1 was trained on
        train, including rows held out of it since.
        """
        flags = self.flags(split, "seen")
        if flags is not None:
            return flags
        trained_on = np.full(self.rows(split), split == "train")
        if (taken := self.held_out(split)) is not None:
            trained_on |= taken
        return trained_on & bool(self.classifiers)

    def held_out(self, split: str) -> np.ndarray | None:
        """Mask [N] of the rows of a split that were held out of train; None if none were."""
        return self.flags(split, "held_out")

    def from_test(self, split: str) -> np.ndarray | None:
        """Mask [N] of the rows of a split that were taken out of test; None if none were."""
        return self.flags(split, "from_test")

    def flags(self, split: str, name: str) -> np.ndarray | None:
        """A column of `schema.FLAGS` of a split, [N] bool, if it is there."""
        column = self._column(split, name)
        if column not in self._file.datasets:
            return None
        flags = self._file.read(column)
        if flags.max(initial=0) > 1:
            row = int(flags.argmax())
            raise self._file.corrupt(f"{column}: {flags[row]} in row {row} is not 0 or 1")
        return flags.astype(bool)

    def source_groups(self, split: str) -> np.ndarray | None:
        """The image, patient, camera or recording that each row of a split comes from: [N] int64
        ≥ 0, the same number in all splits; None if the bank does not record it."""
        return self.place(split, "source_group")

    @cached_property
    def source_group_names(self) -> list[str] | None:
        """Names of the source groups 0 … G − 1, if the bank has them."""
        name = schema.GROUP_NAMES
        return self._file.texts(name) if name in self._file.datasets else None

    def cells(self, split: str) -> np.ndarray | None:
        """Row and column of each row of a split, a pixel, in the grid of its image: [N, 2] int64
        ≥ 0; None if the bank does not record them."""
        return self.place(split, "cell")

    def place(self, split: str, name: str) -> np.ndarray | None:
        """A column of `schema.PLACES` of a split, if it is there."""
        column = self._column(split, name)
        return self._not_negative(column) if column in self._file.datasets else None

    @cached_property
    def full_counts(self) -> np.ndarray:
        """Counts [K] int64 that class groups, priors and weights of classes follow: those from
        outside, or else training counts before rows were held out."""
        if self.outside_counts is not None:
            return self.outside_counts
        counts = self.train_counts.copy()
        for split in self.splits:
            if (taken := self.held_out(split)) is not None:
                counts += class_counts(self.labels(split)[taken], self.num_classes)
        return counts

    def rows(self, split: str) -> int:
        """Number N of rows of a split."""
        return self._file.dataset(self._column(split, "label")).shape[0]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Splits that results are measured on and that have rows."""
        return tuple(s for s in schema.EVALUATED if s in self.splits and self.rows(s))

    def shape(self, split: str, view: str = "instance") -> tuple[int, ...]:
        """(A, N, D) of a view: augmentation copies, rows, feature size; (A, N, T, D) of tokens."""
        return self._feature(split, view).shape

    def copies(self, split: str, view: str = "instance") -> int:
        """Number A of augmentation copies of a view."""
        return self.shape(split, view)[0]

    def chunk_rows(self, split: str, view: str = "instance") -> int:
        """Rows stored, and read, together."""
        return dataset_blocks.chunk_rows(self._feature(split, view))

    @cached_property
    def class_groups(self) -> ClassGroups:
        """Class groups as they are stored, by default many / medium / few by `full_counts`."""
        return self._stored_groups() or ClassGroups.usual(self.full_counts, self.background)

    def groups(self) -> dict[str, np.ndarray]:
        """Masks [K] of the class groups by their keys, many / medium / few."""
        return self.class_groups.masks

    @property
    def digests(self) -> dict[str, str]:
        """The stored SHA-256 of every dataset, by name."""
        return {name: self.digest(name) for name in self._file.datasets}

    def digest(self, name: str) -> str:
        """The stored SHA-256 of the dataset `name`, one of `datasets`."""
        return self._file.hash(self._file.datasets[name].attrs, "sha256")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all datasets, such as ``train/label``."""
        return tuple(self._file.datasets)

    def stored(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Type and shape of the dataset `name`, one of `datasets`."""
        return self._file.datasets[name].dtype, self._file.datasets[name].shape

    def nbytes(self, name: str) -> int:
        """Bytes of the dataset `name` in memory."""
        dtype, shape = self.stored(name)
        return math.prod(shape) * dtype.itemsize

    def places(self, name: str) -> Iterator[Place]:
        """Yield the places of the dataset `name` in order, each a block of whole rows."""
        return dataset_blocks.places(self._file.datasets[name])

    def chunk_places(self, name: str, place: Place) -> Iterator[Place]:
        """Yield the chunks of one of `places`, the smallest unit that can be read."""
        return dataset_blocks.chunk_places(self._file.datasets[name], place)

    def at(self, name: str, place: Place) -> np.ndarray:
        """Read one of `places`, or `chunk_places`, of the dataset `name`, in the stored type.

        Raises
        ------
        Corrupt
            If it cannot be read, naming dataset and rows.
        """
        if schema.is_rows(name):
            copy, rows = place
            return self._file.rows(name, copy, rows.start, rows.stop)
        try:
            return self._file.datasets[name][place]
        except Exception as error:
            rows = f"rows {place[-1].start}…{place[-1].stop - 1}"
            raise self._file.corrupt(f"{name}, {rows}: {errors.first_line(error)}") from None

    def check_unchanged(self) -> None:
        """Raise `Mismatch` if another content has taken the place of this bank at `path`."""
        self._file.check_unchanged(self.fingerprint)

    @property
    def is_closed(self) -> bool:
        """Whether the file is closed: nothing more can be read."""
        return self._file.is_closed

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_counts(self, counts: np.ndarray) -> None:
        """Raise if the class table disagrees with the counts [K] of the labels."""
        wrong = np.flatnonzero(counts != self.train_counts)
        if wrong.size:
            k = wrong[0]
            raise self._file.corrupt(
                f"classes/train_count has {self.train_counts[k]} samples of class {k}, "
                f"train/label has {counts[k]}"
            )

    def _column(self, split: str, name: str) -> str:
        """Name of a dataset of a split that the bank has."""
        self._known("split", split, self.splits)
        return f"{split}/{name}"

    def require_view(self, view: str) -> None:
        """Raise `ConfigError` for the name of a view that the bank does not have."""
        self._known("view", view, self.views)

    def dtype_of(self, view: str) -> str:
        """Type of the features of a view."""
        return self.dtype

    def _feature(self, split: str, view: str) -> h5py.Dataset:
        name = self._column(split, f"{view}/feature")
        self.require_view(view)
        return self._file.dataset(name)

    def _load_into(self, features: np.ndarray, split: str, view: str, copy: int) -> None:
        if features.dtype == self.dtype_of(view):
            self.read(split, view, 0, len(features), copy=copy, out=features, threads=THREADS)
        else:
            for start, block in self.blocks(split, view, copy=copy):
                features[start : start + len(block)] = block

    def _known_copy(self, split: str, view: str, copy: int) -> None:
        copies = self.copies(split, view)
        if not 0 <= copy < copies:
            raise errors.ConfigError(
                f"{self.path}: {split}/{view} has copies 0…{copies - 1}, not {copy}."
            )

    def _known(self, kind: str, name: str, choices: tuple[str, ...]) -> None:
        if name not in choices:
            raise errors.ConfigError(
                f"{self.path} has no {kind} {name!r}. It has: {', '.join(choices)}."
            )
