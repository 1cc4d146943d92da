"""Writing a bank to a part file beside the target.

The part file replaces the target once it is complete and on disk. A killed writer leaves the target
unchanged.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank import errors
from featbank.bank import checks, schema
from featbank.bank.classes import class_counts
from featbank.bank.fingerprint import array_digest, fingerprint
from featbank.bank.origin_writer import OriginWriter
from featbank.bank.rows import FeatureRows
from featbank.bank.target import Target
from featbank.wording import number

FILL = {"i": -1, "f": np.nan}
"""Content of rows that were never written, by kind of type."""


class BankWriter(OriginWriter):
    """Write a bank block by block.

    A context manager: leaving it publishes the bank, an exception discards it.

    Parameters
    ----------
    path
        The bank to write. It must not exist unless `overwrite`.
    class_names
        K names, in label order.
    dim
        Feature size D of views that give no other.
    dtype
        Type of all features, ``float32`` or ``float16``.
    provenance
        A record of how the features were made, in JSON values.
    overwrite
        Replace an existing bank.

    Raises
    ------
    OutputExists, OutputBusy, NoSpace
        If the bank cannot be written.
    DataError, ConfigError
        If the arrays do not make a bank.
    OSError
        If writing fails, on a full disk for example.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str],
        *,
        dim: int,
        dtype: str = "float32",
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__(Path(path), len(class_names), dim)
        self.dtype = np.dtype(checks.check_choice("dtype", dtype, schema.DTYPES))
        if self.num_classes < 2:
            raise errors.DataError(
                f"{self.path}: {number(self.num_classes, 'class', 'classes')}. A bank needs 2."
            )
        if dim < 1:
            raise errors.DataError(f"{self.path}: features of size {dim}. A bank needs D ≥ 1.")
        self._target = Target(path, overwrite=overwrite)
        self._pending = 0  # bytes of features announced and not yet written
        self._digests: dict[str, str] = {}
        self._labels: dict[str, np.ndarray] = {}
        self._index: dict[str, np.ndarray] = {}
        self._sources: dict[str, str] = {}
        # Whether stage 1 was trained on rows of train, where that is told.
        self._seen_train: bool | None = None
        self._open_features: list[FeatureRows] = []
        try:
            with self._writing():
                self._file = h5py.File(
                    self._target.part, "w", libver=schema.LIBVER, rdcc_nbytes=0, locking=False
                )
                attributes = self._file.attrs
                attributes["format"] = np.bytes_(schema.FORMAT)
                for name, value in (
                    ("schema", 1),  # more with what later schemas added
                    ("complete", 0),
                    ("num_classes", self.num_classes),
                    ("dim", dim),
                ):
                    attributes[name] = np.int64(value)
            self._put("provenance", np.frombuffer(_as_json(provenance or {}), np.uint8))
            del self._digests["provenance"]  # equal content is the same bank, whoever made it
            self._put("classes/name", checks.as_bytes(class_names, "classes/name"))
        except BaseException:
            self.discard()
            raise

    def reserve(self, size: int) -> None:
        """Raise `NoSpace` if the disk has less than `size` bytes left."""
        self._target.reserve(size)

    def split(
        self,
        split: str,
        labels: np.ndarray,
        *,
        index: np.ndarray | None = None,
        paths: Sequence[str] | None = None,
        source: str | None = None,
        seen: np.ndarray | bool | None = None,
        held_out: np.ndarray | None = None,
        from_test: np.ndarray | None = None,
        source_group: np.ndarray | None = None,
        cell: np.ndarray | None = None,
    ) -> None:
        """Start a split.

        Parameters
        ----------
        split
            One of `schema.SPLITS`.
        labels
            [N] integers in 0…K−1.
        index
            [N] rows in the source data, each once; 0…N−1 by default.
        paths
            N texts, the images' paths.
        source
            Name of the source data that `index` points into; by default the split's name. Splits
            with the same source must not share rows.
        seen
            [N] bool, or one bool for all rows: whether stage 1 was trained on them; by default
            readers infer it from the classifier (`featbank.bank.Bank.seen`).
        held_out
            [N] bool: whether a row was taken out of train after features were extracted.
        from_test
            [N] bool: whether a row was taken out of test.
        source_group
            [N] integers ≥ 0: the image, patient or recording of a row, one number in all splits.
        cell
            [N, 2] integers ≥ 0: row and column of a pixel in the grid of its image.
        """
        checks.check_choice("split", split, schema.SPLITS)
        if split in self._labels:
            raise errors.ConfigError(f"{self.path}: the split {split!r} comes twice. Give it once.")
        labels = checks.checked_labels(np.asarray(labels), split, self.num_classes)
        rows = np.arange(len(labels)) if index is None else np.asarray(index)
        checks.check_same_length(split, labels=labels, index=rows)
        rows = checks.checked_index(rows, split)
        source_name = checks.as_bytes([source or split], f"{split}/index, its source")[0]
        if paths is not None:
            checks.check_same_length(split, labels=labels, path=paths)
            self._put(f"{split}/path", checks.as_bytes(paths, f"{split}/path"))
        for name, flags in (("seen", seen), ("held_out", held_out), ("from_test", from_test)):
            if flags is not None:
                self._put_flags(split, name, np.asarray(flags), labels)
        for name, places in (("source_group", source_group), ("cell", cell)):
            if places is not None:
                self._put_places(split, name, np.asarray(places), len(labels))
        if split == "train" and seen is not None:
            self._seen_train = bool(np.any(seen))
        self._labels[split], self._index[split] = labels, rows
        self._sources[split] = source or split
        self._put(f"{split}/label", labels)
        self._put(f"{split}/index", rows)
        with self._writing():
            self._file[f"{split}/index"].attrs["source"] = source_name

    def features(
        self,
        split: str,
        view: str,
        *,
        copies: int = 1,
        tokens: int | None = None,
        dim: int | None = None,
    ) -> FeatureRows:
        """Start the features of a view, to be appended copy by copy or all at once.

        Parameters
        ----------
        split, view
            A split that was started, and the view's name.
        copies
            Augmentation copies A; may differ by split.
        tokens
            T for tokens [A, N, T, D]; None for rows [A, N, D].
        dim
            D of this view; by default that of the bank.
        """
        checks.check_view_name(view)
        if split not in self._labels:
            raise errors.ConfigError(f"{self.path}: {split} has no labels yet. Give them first.")
        if copies < 1:
            raise errors.DataError(f"{split}/{view}: {copies} copies. A view has at least one.")
        name = f"{split}/{view}/feature"
        self._check_new(name)
        of_row = self._checked_row(name, view, tokens, self.dim if dim is None else dim)
        shape = (copies, len(self._labels[split]), *of_row)
        rows = self._feature_rows(name, shape, self.dtype, measured=split == "train")
        self._open_features.append(rows)
        return rows

    def close(self) -> None:
        """Check that all rows arrived, mark the bank complete, and move it into place."""
        if "train" not in self._labels:
            raise errors.DataError(f"{self.path}: no train split. A bank needs one.")
        self._check_views()
        self._check_maps()
        self._check_origins()
        checks.check_disjoint(self._index, self._sources)
        counts = class_counts(self._labels["train"], self.num_classes)
        self._check_classes(counts)
        self._put("classes/train_count", counts)
        with self._writing():
            for rows in (*self._open_features, *self._open_maps):
                self._digests[rows.name] = rows.finish()
            self._put_norms()
            self._file.attrs["fingerprint"] = np.bytes_(fingerprint(self._digests))
            self._file.flush()
            self._file.attrs["complete"] = np.int64(1)
            self._file.close()
            self._target.publish()

    def discard(self) -> None:
        """Remove the part file; the target is unchanged."""
        with contextlib.suppress(OSError, RuntimeError, AttributeError):
            self._file.close()  # fails on a full disk, and if it could not be opened
        self._target.discard()

    def __enter__(self) -> BankWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.discard()
            return
        if not self._file:  # closed or discarded already
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise

    def _check_views(self) -> None:
        """Raise unless every split has the views of train, and models belong to views."""
        views: dict[str, set[str]] = {split: set() for split in self._labels}
        for rows in self._open_features:
            split, _, rest = rows.name.partition("/")
            views[split].add(rest.removesuffix("/feature"))
        checks.check_views(views, f"{self.path}: ")
        self._check_models(views["train"])
        first = min(views["train"], key=schema.view_order)
        self._file.attrs["dim"] = np.int64(self._of_row[first][-1])
        if len({shape[-1] for shape in self._of_row.values()}) > 1:
            self._require_schema(schema.FOUNDATION)

    def _checked_row(self, name: str, view: str, tokens: int | None, dim: int) -> tuple[int, ...]:
        """Shape (D,) or (T, D) of a view's rows; raise unless it is that of other splits."""
        of_row = (dim,) if tokens is None else (tokens, dim)
        if min(of_row) < 1:
            raise errors.DataError(f"{name} has rows of shape {list(of_row)}. T and D are ≥ 1.")
        if self._of_row.setdefault(view, of_row) != of_row:
            raise errors.DataError(
                f"{name} has rows of shape {list(of_row)}, other splits of the view "
                f"{list(self._of_row[view])}. A view has one T and D."
            )
        if tokens is not None:
            self._require_schema(schema.FOUNDATION)
        return of_row

    def _check_new(self, name: str) -> None:
        """Raise if a view is given twice, contains another or is part of one."""
        group = name.removesuffix("feature")
        for other in self._open_features:
            other_group = other.name.removesuffix("feature")
            if group.startswith(other_group) or other_group.startswith(group):
                raise errors.ConfigError(
                    f"{self.path}: {name} is given beside {other.name}. Give each view once, and "
                    "none within another."
                )

    def _put_flags(self, split: str, column: str, flags: np.ndarray, labels: np.ndarray) -> None:
        name = f"{split}/{column}"
        if flags.dtype != bool:
            raise errors.DataError(f"{name} has type {flags.dtype}. It must be bool.")
        flags = np.broadcast_to(flags, labels.shape) if flags.ndim == 0 else flags
        checks.check_same_length(name, labels=labels, flags=flags)
        self._put(name, flags.astype(np.uint8))
        self._require_schema(schema.FLAGS[column])

    def _feature_rows(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, *, measured: bool = False
    ) -> FeatureRows:
        self._pending += math.prod(shape) * dtype.itemsize
        self.reserve(self._pending)
        with self._writing():
            dataset = self._file.create_dataset(
                name,
                shape,
                dtype,
                chunks=schema.chunk_shape(name, shape, dtype.itemsize) if shape[1] else None,
                fletcher32=bool(shape[1]),
                fillvalue=np.nan,
            )
        return FeatureRows(dataset, name, self._write_block, measured=measured)

    def _put_norms(self) -> None:
        """Record the norms of the features that stage 1 was not trained on, for `Bank.norm`."""
        with_classifier = {view for kind, view in self._modelled if kind == "classifier"}
        if self._seen_train or (self._seen_train is None and with_classifier):
            return
        for rows in self._open_features:
            split, _, rest = rows.name.partition("/")
            view = rest.removesuffix("/feature")
            same_size = self._widths.get("classifier/instance") == self._of_row[view][-1]
            borrowed = same_size and schema.borrows(view)
            if split == "train" and not (borrowed or view in with_classifier):
                norm = min(rows.norm, float(np.finfo(np.float32).max))
                self._put(f"scale/{view}/norm", np.array([norm], np.float32))
                self._require_schema(schema.NORM)

    def _require_schema(self, least: int) -> None:
        """Raise the schema of the bank to one that has what was stored."""
        with self._writing():
            needed = max(int(self._file.attrs["schema"]), least)
            self._file.attrs["schema"] = np.int64(needed)

    def _put_new(self, name: str, array: np.ndarray) -> None:
        if name in self._digests:
            raise errors.ConfigError(f"{self.path}: {name} comes twice. Give it once.")
        self._put(name, array)

    def _put(self, name: str, array: np.ndarray) -> None:
        options: dict[str, Any] = {}
        if array.size:
            chunks = schema.chunk_shape(name, array.shape, array.dtype.itemsize)
            options = {"chunks": chunks, "fletcher32": True}
            if array.dtype.kind in FILL:
                options["fillvalue"] = FILL[array.dtype.kind]
        self._digests[name] = array_digest(array)
        with self._writing():
            dataset = self._file.create_dataset(name, data=array, **options)
            dataset.attrs["sha256"] = np.bytes_(self._digests[name])

    def _write_block(self, dataset: h5py.Dataset, place: tuple, block: np.ndarray) -> None:
        with self._writing():
            dataset[place] = block
        self._pending -= block.nbytes

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Report in one line why writing failed."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = errors.first_line(error)
            if isinstance(error, OSError) and error.errno:
                reason = os.strerror(error.errno)
            raise OSError(
                f"{self.path} could not be written ({reason}). The target is unchanged: make room "
                "and run again."
            ) from None


def _as_json(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(document), sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.DataError(
            f"The provenance cannot be stored as JSON ({error}). Give a dictionary of strings, "
            "numbers, lists and dictionaries."
        ) from None
