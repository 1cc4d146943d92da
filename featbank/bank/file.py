"""Reading a bank: everything is checked before anything is exposed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.checked import CheckedFile
from featbank.bank.chunks import THREADS
from featbank.bank.classes import class_counts, class_groups

BLOCK_BYTES = 1 << 24
"""Size of the blocks a view is read in: whole chunks, bounded memory."""


class Bank:
    """A bank opened for reading; a context manager.

    Parameters
    ----------
    path
        A file written by `featbank extract`, `featbank import` or `write_bank`.

    Attributes
    ----------
    splits, views
        Names of what is there; every view is in every split.
    num_classes, dim
        K and D.
    dtype
        Stored type of the features, ``float32`` or ``float16``.
    class_names, train_counts, full_counts
        K names; training counts [K] int64, as they are and before rows were held out for val.
    fingerprint
        64 hex digits that stand for the content.
    provenance
        How the bank was made.
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
            self._read_head()
            self._file.check_root()
            self._read_tree()
        except errors.BankError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self._file.corrupt(errors.first_line(error)) from None

    def load(
        self, split: str, view: str = "instance", *, copy: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a split: features [N, D] float32 and labels [N] int64.

        Parameters
        ----------
        split, view
            Names from `splits` and `views`.
        copy
            Which augmentation copy, 0…A−1.

        Raises
        ------
        ConfigError
            For a split, view or copy the bank does not have.
        Corrupt
            Where a checksum fails.
        """
        self._known_copy(split, view, copy)
        features = np.empty(self.shape(split, view)[1:], np.float32)
        self._load_into(features, split, view, copy)
        return features, self.labels(split)

    def load_copies(self, split: str, view: str = "instance") -> np.ndarray:
        """Read all augmentation copies of a view: [A, N, D] float32."""
        features = np.empty(self.shape(split, view), np.float32)
        for copy, place in enumerate(features):
            self._load_into(place, split, view, copy)
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
        """Read the rows `start` … `stop` − 1 of a view, [n, D] in the stored type.

        Parameters
        ----------
        split, view, copy
            As for `load`.
        start, stop
            0 ≤ start ≤ stop ≤ N; fastest at multiples of `chunk_rows`.
        out
            Takes the rows, a contiguous array [n, D] of the stored type.
        threads
            That read and check side by side; two are worth it from some 100 MiB on.

        Raises
        ------
        ConfigError, Corrupt
        """
        dataset = self._feature(split, view)
        _, rows, dim = dataset.shape
        self._known_copy(split, view, copy)
        if not 0 <= start <= stop <= rows:
            raise errors.ConfigError(
                f"{self.path}: {split}/{view} has rows 0…{rows - 1}, not {start}…{stop - 1}."
            )
        if out is None:
            out = np.empty((stop - start, dim), dataset.dtype)
        name = f"{split}/{view}/feature"
        if stop > start:
            try:
                self._file.chunks(name).read(copy, start, stop, out, threads=threads)
            except Exception as error:
                raise self._file.corrupt(f"{name}, {errors.first_line(error)}") from None
        return out

    def blocks(
        self, split: str, view: str = "instance", *, copy: int = 0
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Go through a view in order: (first row, rows [n, D] in the stored type)."""
        for rows in _steps(0, self.rows(split), self.block_rows(split, view)):
            yield rows.start, self.read(split, view, rows.start, rows.stop, copy=copy)

    def block_rows(self, split: str, view: str = "instance") -> int:
        """Rows that `blocks` gives at a time: whole chunks of about `BLOCK_BYTES`."""
        return _block_rows(self._feature(split, view))

    def labels(self, split: str) -> np.ndarray:
        """Labels [N] int64 of a split, each in 0…K−1; those of train as often as counted."""
        self._known("split", split, self.splits)
        labels = self._file.read(f"{split}/label")
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
        self._known("split", split, self.splits)
        return self._file.read(f"{split}/index")

    def source(self, split: str) -> str:
        """Name of the source data that `index` points into."""
        self._known("split", split, self.splits)
        return self._file.text(self._file.dataset(f"{split}/index").attrs, "source")

    def paths(self, split: str) -> list[str] | None:
        """The N images' places, where the bank knows them."""
        self._known("split", split, self.splits)
        if f"{split}/path" not in self._file.datasets:
            return None
        return self._file.texts(f"{split}/path")

    def seen(self, split: str) -> np.ndarray:
        """Whether stage 1 was trained on each row of a split, [N] bool.

        Where the bank does not say it, a stage-1 classifier stands for a stage 1 that was trained
        on train and on what was held out of it since.
        """
        flags = self.flags(split, "seen")
        if flags is not None:
            return flags
        trained_on = np.full(self.rows(split), split == "train")
        if (taken := self.held_out(split)) is not None:
            trained_on |= taken
        return trained_on & bool(self.classifiers)

    def held_out(self, split: str) -> np.ndarray | None:
        """Whether each row of a split was held out of train, [N] bool; None where none was."""
        return self.flags(split, "held_out")

    def flags(self, split: str, name: str) -> np.ndarray | None:
        """One of the columns `schema.FLAGS` of a split, [N] bool, where it is there."""
        self._known("split", split, self.splits)
        if f"{split}/{name}" not in self._file.datasets:
            return None
        flags = self._file.read(f"{split}/{name}")
        if flags.max(initial=0) > 1:
            row = int(flags.argmax())
            raise self._file.corrupt(f"{split}/{name}: {flags[row]} in row {row} is not 0 or 1")
        return flags.astype(bool)

    @cached_property
    def full_counts(self) -> np.ndarray:
        """Training counts [K] int64 before rows were held out: those that make the groups."""
        counts = self.train_counts.copy()
        for split in self.splits:
            if (taken := self.held_out(split)) is not None:
                counts += class_counts(self.labels(split)[taken], self.num_classes)
        return counts

    def rows(self, split: str) -> int:
        """Number N of rows of a split."""
        self._known("split", split, self.splits)
        return self._file.dataset(f"{split}/label").shape[0]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The splits results are measured on, as far as they have rows."""
        return tuple(s for s in schema.EVALUATED if s in self.splits and self.rows(s))

    def shape(self, split: str, view: str = "instance") -> tuple[int, int, int]:
        """(A, N, D) of a view: augmentation copies, rows, feature size."""
        return self._feature(split, view).shape

    def copies(self, split: str, view: str = "instance") -> int:
        """Number A of augmentation copies of a view."""
        return self.shape(split, view)[0]

    def chunk_rows(self, split: str, view: str = "instance") -> int:
        """Rows that are stored, and read, together."""
        return _chunk_rows(self._feature(split, view))

    def classifier(self, view: str = "instance") -> tuple[np.ndarray, np.ndarray] | None:
        """The stage-1 classifier of a view, weight [K, D] and bias [K] float32, if there is one.

        A view without its own has the ``instance`` view's: BatchNorm statistics change, the
        classifier does not.
        """
        for name in (view, "instance"):
            if f"classifier/{name}/weight" in self._file.datasets:
                weight, bias = f"classifier/{name}/weight", f"classifier/{name}/bias"
                return self._file.read(weight), self._file.read(bias)
        return None

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Views that have a classifier of their own, ``instance`` even where it has no features."""
        names = dict.fromkeys((*self.views, "instance"))
        return tuple(v for v in names if f"classifier/{v}/weight" in self._file.datasets)

    def batchnorm(self, view: str = "instance") -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """BatchNorm statistics of a view: (running mean, running variance) by layer name."""
        root = f"batchnorm/{view}/"
        layers = [n for n in self._file.datasets if n.startswith(root) and n.endswith("/mean")]
        return {
            name.removeprefix(root).removesuffix("/mean"): (
                self._file.read(name),
                self._file.read(name.removesuffix("mean") + "variance"),
            )
            for name in layers
        }

    def groups(self) -> dict[str, np.ndarray]:
        """Masks [K] of the class groups many / medium / few, by `full_counts`."""
        return class_groups(self.full_counts)

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

    def places(self, name: str) -> Iterator[tuple[Any, ...]]:
        """Go through the dataset `name` in order: where its blocks of whole rows lie."""
        dataset = self._file.datasets[name]
        *copies, rows = dataset.shape[: 2 if dataset.ndim == schema.FEATURE_AXES else 1]
        for copy in np.ndindex(*copies):
            for block in _steps(0, rows, _block_rows(dataset)):
                yield (*copy, block)

    def chunk_places(self, name: str, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """The chunks of one of `places`: the least that can be read, or not."""
        *copy, rows = place
        for chunk in _steps(rows.start, rows.stop, _chunk_rows(self._file.datasets[name])):
            yield (*copy, chunk)

    def at(self, name: str, place: tuple[Any, ...]) -> np.ndarray:
        """Read one of `places`, or `chunk_places`, of the dataset `name`, in the stored type.

        Raises
        ------
        Corrupt
            Where it cannot be read, naming dataset and rows.
        """
        split, _, last = name.partition("/")
        if last.endswith("/feature"):
            copy, rows = place
            view = last.removesuffix("/feature")
            return self.read(split, view, rows.start, rows.stop, copy=copy)
        try:
            return self._file.datasets[name][place]
        except Exception as error:
            rows = f"rows {place[0].start}…{place[0].stop - 1}"
            raise self._file.corrupt(f"{name}, {rows}: {errors.first_line(error)}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_head(self) -> None:
        attributes = self._file.attributes
        if "format" not in attributes or self._file.text(attributes, "format") != schema.FORMAT:
            raise errors.NotABank(
                f"{self.path} is an HDF5 file, but not a bank. "
                "Bring features in with `featbank import`."
            )
        version = self._file.number(attributes, "schema")
        if version > schema.SCHEMA:
            raise errors.TooNew(
                f"{self.path} has schema {version}, this version reads up to {schema.SCHEMA}. "
                "Update featbank."
            )
        if version < 1:
            raise self._file.corrupt(f"it has schema {version}, the first is 1")
        self.schema = version
        if self._file.number(attributes, "complete") != 1:
            raise errors.Incomplete(
                f"{self.path} was not finished by the run that wrote it. Run that command again."
            )
        self.num_classes = self._file.number(attributes, "num_classes")
        self.dim = self._file.number(attributes, "dim")
        for name, least in (("num_classes", 2), ("dim", 1)):
            if getattr(self, name) < least:
                raise self._file.corrupt(f"{name} is {getattr(self, name)}, the least is {least}")
        self.fingerprint = self._file.hash(attributes, "fingerprint")
        self.provenance = self._file.json("provenance")
        self.class_names = self._file.texts("classes/name")
        self.train_counts = self._file.read("classes/train_count")
        for name in ("classes/name", "classes/train_count"):
            self._file.require_shape(name, (self.num_classes,))

    def _read_tree(self) -> None:
        self.splits = tuple(s for s in schema.SPLITS if self._file.has(s))
        if "train" not in self.splits:
            raise self._file.corrupt("there is no train split")
        views = {split: self._views_of(split) for split in self.splits}
        self.views = tuple(views["train"])
        if not self.views:
            raise self._file.corrupt("there are no features")
        for split in self.splits:
            rows = self._file.dataset(f"{split}/label").shape[0]
            self._file.text(self._file.dataset(f"{split}/index").attrs, "source")
            for column in ("index", "path", *schema.FLAGS):
                if column == "index" or self._file.has(f"{split}/{column}"):
                    self._file.require_shape(f"{split}/{column}", (rows,))
            if set(views[split]) != set(self.views):
                raise self._file.corrupt(
                    f"{split} has the views {', '.join(views[split]) or 'none'}, train has "
                    f"{', '.join(self.views)}"
                )
            for view in self.views:
                self._file.require_shape(f"{split}/{view}/feature", (None, rows, self.dim))
        types = {
            str(self._feature(*place).dtype): "/".join(place)
            for place in product(self.splits, self.views)
        }
        if len(types) > 1:
            told = " and ".join(f"{place} is {dtype}" for dtype, place in types.items())
            raise self._file.corrupt(f"{told}, all features have one type")
        (self.dtype,) = types
        for view in dict.fromkeys((*self.views, "instance")):
            if any(self._file.has(f"classifier/{view}/{part}") for part in ("weight", "bias")):
                self._file.require_shape(f"classifier/{view}/weight", (self.num_classes, self.dim))
                self._file.require_shape(f"classifier/{view}/bias", (self.num_classes,))
            if view in self.views and self._file.has(f"batchnorm/{view}"):
                for layer in self._file.members(f"batchnorm/{view}"):
                    mean = self._file.dataset(f"batchnorm/{view}/{layer}/mean")
                    self._file.require_shape(f"batchnorm/{view}/{layer}/variance", mean.shape)

    def _views_of(self, split: str) -> list[str]:
        """Views of a split: groups with features, or groups of such groups."""
        found = []
        for name in self._file.members(split):
            if name in schema.SPLIT_COLUMNS:
                continue
            inner = self._file.members(f"{split}/{name}")
            if "feature" in inner:
                found.append(name)
            else:
                views = (f"{name}/{other}" for other in inner)
                found += [view for view in views if self._file.has(f"{split}/{view}/feature")]
        return sorted(found, key=lambda view: (view != "instance", view))

    def _check_counts(self, counts: np.ndarray) -> None:
        """Raise where the class table tells other counts [K] than the labels."""
        other = np.flatnonzero(counts != self.train_counts)
        if other.size:
            k = other[0]
            raise self._file.corrupt(
                f"classes/train_count has {self.train_counts[k]} samples of class {k}, "
                f"train/label has {counts[k]}"
            )

    def _feature(self, split: str, view: str) -> h5py.Dataset:
        self._known("split", split, self.splits)
        self._known("view", view, self.views)
        return self._file.dataset(f"{split}/{view}/feature")

    def _load_into(self, features: np.ndarray, split: str, view: str, copy: int) -> None:
        if features.dtype == self.dtype:
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

    def _known(self, what: str, name: str, choices: tuple[str, ...]) -> None:
        if name not in choices:
            raise errors.ConfigError(
                f"{self.path} has no {what} {name!r}. It has: {', '.join(choices)}."
            )


def _block_rows(dataset: h5py.Dataset) -> int:
    """Rows of a block: whole chunks of about `BLOCK_BYTES`."""
    lead = 2 if dataset.ndim == schema.FEATURE_AXES else 1
    row_bytes = max(1, math.prod(dataset.shape[lead:]) * dataset.dtype.itemsize)
    chunk = _chunk_rows(dataset)
    return max(1, BLOCK_BYTES // (chunk * row_bytes)) * chunk


def _chunk_rows(dataset: h5py.Dataset) -> int:
    return dataset.chunks[dataset.ndim == schema.FEATURE_AXES] if dataset.chunks else 1


def _steps(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))
