"""Writing a bank: everything goes to a part file beside the target, which takes its place only
when it is complete and on disk. A killed writer leaves the target as it was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import (
    as_copies,
    check_choice,
    check_finite,
    check_same_length,
    checked_labels,
)
from featbank.bank.classes import class_counts
from featbank.bank.fingerprint import RowDigest, array_digest, fingerprint

Features = Mapping[str, Mapping[str, np.ndarray]]


class BankWriter:
    """Write a bank block by block.

    Use as a context manager: leaving it publishes the bank, an exception discards it.

    Parameters
    ----------
    path
        The target. It must not exist unless `overwrite`.
    class_names
        K names, in label order.
    dim
        Feature size D.
    dtype
        ``float32`` or ``float16``, of all features.
    provenance
        Anything JSON can hold: how the features were made.
    overwrite
        Replace an existing target.

    Raises
    ------
    OutputExists, DataError, ConfigError
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
        self.path = Path(path)
        self.num_classes, self.dim = len(class_names), dim
        self.dtype = np.dtype(check_choice("dtype", dtype, schema.DTYPES))
        if self.num_classes < 2:
            raise errors.DataError(f"{self.path}: {self.num_classes} classes. A bank needs 2.")
        if dim < 1:
            raise errors.DataError(f"{self.path}: features of size {dim}. A bank needs D ≥ 1.")
        if self.path.exists() and not overwrite:
            raise errors.OutputExists(f"{self.path} exists. Choose another name or --overwrite.")
        if not self.path.parent.is_dir():
            raise errors.ConfigError(f"{self.path.parent} is not a folder. Create it first.")
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._digests: dict[str, str] = {}
        self._labels: dict[str, np.ndarray] = {}
        self._open_features: list[FeatureRows] = []
        self._file = h5py.File(self._part, "w", libver=schema.LIBVER, rdcc_nbytes=0)
        attributes = self._file.attrs
        attributes["format"] = np.bytes_(schema.FORMAT)
        for name, value in (
            ("schema", schema.SCHEMA),
            ("complete", 0),
            ("num_classes", self.num_classes),
            ("dim", dim),
        ):
            attributes[name] = np.int64(value)
        document = json.dumps(provenance or {}, sort_keys=True).encode()
        self._file.create_dataset("provenance", data=np.frombuffer(document, np.uint8))
        self._put("classes/name", _as_bytes(class_names))

    def split(
        self,
        split: str,
        labels: np.ndarray,
        *,
        index: np.ndarray | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        """Begin a split with its `labels` [N], source rows `index` [N] and image `paths` [N]."""
        check_choice("split", split, schema.SPLITS)
        labels = checked_labels(np.asarray(labels), split, self.num_classes)
        rows = np.arange(len(labels)) if index is None else np.asarray(index)
        check_same_length(split, labels=labels, index=rows)
        self._labels[split] = labels
        self._put(f"{split}/label", labels)
        self._put(f"{split}/index", rows.astype(np.int64))
        if paths is not None:
            check_same_length(split, labels=labels, path=paths)
            self._put(f"{split}/path", _as_bytes(paths))

    def features(self, split: str, view: str, *, copies: int = 1) -> FeatureRows:
        """Open the features [A, N, D] of a view, to be appended copy by copy, row by row."""
        if not schema.is_view_name(view):
            raise errors.ConfigError(
                f"View name {view!r} is not usable. Use letters, digits, '_', '-' and '.'."
            )
        shape = (copies, len(self._labels[split]), self.dim)
        name = f"{split}/{view}/feature"
        rows = schema.chunk_rows(shape[1], self.dim, self.dtype.itemsize)
        dataset = self._file.create_dataset(
            name,
            shape,
            self.dtype,
            chunks=(1, rows, self.dim),
            fletcher32=True,
            fillvalue=np.nan,
        )
        feature_rows = FeatureRows(dataset, name)
        self._open_features.append(feature_rows)
        return feature_rows

    def classifier(self, view: str, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        """Store the stage-1 classifier of a view: `weight` [K, D], `bias` [K] (zero if absent)."""
        bias = np.zeros(self.num_classes, np.float32) if bias is None else bias
        for name, array, shape in (
            ("weight", np.asarray(weight), (self.num_classes, self.dim)),
            ("bias", np.asarray(bias), (self.num_classes,)),
        ):
            if array.shape != shape:
                raise errors.DataError(
                    f"The classifier's {name} has shape {list(array.shape)}, the bank needs "
                    f"{list(shape)}. Check that it belongs to these features."
                )
            check_finite(array, f"classifier/{view}/{name}")
            self._put(f"classifier/{view}/{name}", array.astype(np.float32))

    def batchnorm(self, view: str, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Store a view's BatchNorm statistics: (running mean, running variance) by layer name."""
        for layer, (mean, variance) in statistics.items():
            self._put(f"batchnorm/{view}/{layer}/mean", np.asarray(mean, np.float32))
            self._put(f"batchnorm/{view}/{layer}/variance", np.asarray(variance, np.float32))

    def close(self) -> None:
        """Check that all rows came, mark the bank complete, and move it to its place."""
        if "train" not in self._labels:
            raise errors.DataError(f"{self.path}: no train split. A bank needs one.")
        self._check_views()
        counts = class_counts(self._labels["train"], self.num_classes)
        self._put("classes/train_count", counts)
        for rows in self._open_features:
            self._digests[rows.name] = rows.finish()
        self._file.attrs["fingerprint"] = np.bytes_(fingerprint(self._digests))
        self._file.flush()
        self._file.attrs["complete"] = np.int64(1)
        self._file.close()
        _sync(self._part)
        os.replace(self._part, self.path)
        _sync(self.path.parent)

    def discard(self) -> None:
        """Remove the part file; the target stays as it was."""
        with contextlib.suppress(OSError, RuntimeError):  # a full disk also fails at closing
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> BankWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise

    def _check_views(self) -> None:
        """Every split must have every view, and train at least one."""
        views: dict[str, set[str]] = {split: set() for split in self._labels}
        for rows in self._open_features:
            split, _, rest = rows.name.partition("/")
            views[split].add(rest.removesuffix("/feature"))
        for split, there in views.items():
            if there != views["train"] or not there:
                raise errors.DataError(
                    f"{self.path}: {split} has the views {sorted(there)}, train has "
                    f"{sorted(views['train'])}. Give every view for every split."
                )

    def _put(self, name: str, array: np.ndarray) -> None:
        fill = {"fillvalue": -1} if array.dtype.kind == "i" else {}
        options = {"chunks": array.shape, "fletcher32": True, **fill} if array.size else {}
        dataset = self._file.create_dataset(name, data=array, **options)
        self._digests[name] = array_digest(array)
        dataset.attrs["sha256"] = np.bytes_(self._digests[name])


class FeatureRows:
    """The rows of one view, appended in order: copy 0 rows 0…N−1, then copy 1, …"""

    def __init__(self, dataset: h5py.Dataset, name: str) -> None:
        self.name = name
        self._dataset = dataset
        self._digest = RowDigest(dataset.dtype, dataset.shape)
        self._chunk = dataset.chunks[1]
        self._pending: list[np.ndarray] = []
        self._received = self._written = 0

    def append(self, block: np.ndarray) -> None:
        """Add rows [n, D]; they must be finite and fit the bank's type."""
        copies, rows, dim = self._dataset.shape
        if block.ndim != 2 or block.shape[1] != dim:
            raise errors.DataError(
                f"{self.name}: a block has shape {list(block.shape)}, the bank needs [rows, {dim}]."
            )
        if self._received + len(block) > copies * rows:
            raise errors.DataError(f"{self.name}: more than {copies} × {rows} rows arrived.")
        check_finite(block, self.name, first_row=self._received % rows if rows else 0)
        with np.errstate(over="ignore"):
            stored = block.astype(self._dataset.dtype)
        if stored.dtype == np.float16 and not np.isfinite(stored).all():
            raise errors.NotFinite(
                f"{self.name}: values up to {np.abs(block).max():.3g} overflow float16. "
                "Store the bank as float32."
            )
        self._received += len(block)
        self._pending.append(stored)
        self._write_whole_chunks()

    def finish(self) -> str:
        """Check that every row came; return the digest."""
        copies, rows, _ = self._dataset.shape
        if self._received != copies * rows:
            raise errors.DataError(
                f"{self.name}: {self._received} rows arrived, {copies} × {rows} are needed. "
                "Labels and features must have the same length."
            )
        digest = self._digest.hexdigest()
        self._dataset.attrs["sha256"] = np.bytes_(digest)
        return digest

    def _write_whole_chunks(self) -> None:
        _, rows, _ = self._dataset.shape
        waiting = np.concatenate(self._pending)
        while len(waiting):
            copy, row = divmod(self._written, rows)
            step = min(self._chunk, rows - row)
            if len(waiting) < step:
                break
            self._dataset[copy, row : row + step] = waiting[:step]
            self._digest.update(waiting[:step])
            waiting, self._written = waiting[step:], self._written + step
        self._pending = [waiting] if len(waiting) else []


def write_bank(
    path: str | os.PathLike[str],
    features: Features,
    labels: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] | None = None,
    classifier: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None = None,
    index: Mapping[str, np.ndarray] | None = None,
    dtype: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bank from arrays in memory.

    Parameters
    ----------
    path
        The target file.
    features
        ``{split: {view: array}}``; arrays [N, D], or [A, N, D] with A augmentation copies.
    labels
        ``{split: [N] integers in 0…K−1}``; ``train`` must be there.
    class_names
        K names; by default the classifier's rows or, without one, the labels tell K, and the
        classes are named by their numbers.
    classifier
        ``{view: (weight [K, D], bias [K] or None)}``, the stage-1 classifier.
    index
        ``{split: [N]}`` rows in the source data; 0…N−1 by default.
    dtype
        ``float32`` or ``float16``; by default float16 where every input is, else float32.
    provenance, overwrite
        As for `BankWriter`.

    Raises
    ------
    DataError, LabelRange, NotFinite, ConfigError, OutputExists

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bank(folder + "/bank.h5", {"train": {"instance": x}}, {"train": y})
    """
    if set(features) != set(labels):
        raise errors.DataError(
            f"Features have the splits {sorted(features)}, labels {sorted(labels)}. "
            "Give both for every split."
        )
    arrays = {s: {v: as_copies(a, s, v) for v, a in views.items()} for s, views in features.items()}
    every = [a for views in arrays.values() for a in views.values()]
    if not every:
        raise errors.DataError("No features were given. A bank needs a train split.")
    if dtype is None:
        dtype = "float16" if all(a.dtype == np.float16 for a in every) else "float32"
    names = class_names if class_names is not None else _numbered_classes(labels, classifier)
    writer = BankWriter(
        path,
        names,
        dim=every[0].shape[2],
        dtype=dtype,
        provenance=provenance,
        overwrite=overwrite,
    )
    with writer:
        for split, views in arrays.items():
            writer.split(split, labels[split], index=(index or {}).get(split))
            for view, copies in views.items():
                rows = writer.features(split, view, copies=len(copies))
                check_same_length(split, labels=labels[split], **{view: copies[0]})
                for copy in copies:
                    rows.append(copy)
        for view, (weight, bias) in (classifier or {}).items():
            writer.classifier(view, weight, bias)


def _numbered_classes(
    labels: Mapping[str, np.ndarray],
    classifier: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None,
) -> list[str]:
    if classifier:
        weight, _ = next(iter(classifier.values()))
        return [str(k) for k in range(len(weight))]
    top = max((int(np.max(y)) for y in labels.values() if np.size(y)), default=-1)
    return [str(k) for k in range(top + 1)]


def _as_bytes(texts: Sequence[str]) -> np.ndarray:
    return np.array([str(text).encode() for text in texts], dtype="S")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
