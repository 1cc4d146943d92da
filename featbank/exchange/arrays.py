"""Arrays of an import: a bank in the making, and selected rows of features on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.bank.checks import as_copies
from featbank.bank.grouping import ClassGroups
from featbank.bank.maps import MapArrays

if TYPE_CHECKING:
    from featbank.exchange.embeddings import Embeddings


@dataclass
class Arrays:
    """The arrays of a bank in the making, under the argument names of `featbank.write_bank`.

    `embeddings` become `text` once the classes are known. `places` holds the origin of each array
    by its name in the bank, such as ``train/label``; `notes` are further lines for the report, and
    `ignored` counts rows that were left out for their label, by split.
    `exported` arrays come from a bank, so their labels and axes need no interpretation.
    """

    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    classifier: dict[str, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    index: dict[str, np.ndarray] = field(default_factory=dict)
    paths: dict[str, Sequence[str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    seen: dict[str, bool | np.ndarray] = field(default_factory=dict)
    held_out: dict[str, np.ndarray] = field(default_factory=dict)
    from_test: dict[str, np.ndarray] = field(default_factory=dict)
    source_groups: dict[str, np.ndarray] = field(default_factory=dict)
    cells: dict[str, np.ndarray] = field(default_factory=dict)
    source_group_names: Sequence[str] | None = None
    outside_counts: np.ndarray | None = None
    background: int | None = None
    class_groups: ClassGroups | None = None
    maps: dict[str, MapArrays] = field(default_factory=dict)
    map_ids: np.ndarray | None = None
    text: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)
    default_scale: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, Embeddings] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    exported: bool = False

    @property
    def of_places(self) -> dict[str, dict[str, np.ndarray]]:
        """The columns of `schema.PLACES` that there are, by name and split."""
        return {"source_group": self.source_groups, "cell": self.cells}

    def add_features(self, split: str, view: str, features: Any, place: str) -> None:
        """Add the features of a view."""
        self.features.setdefault(split, {})[view] = features
        self.places[f"{split}/{view}"] = place

    def add_labels(self, split: str, labels: np.ndarray, place: str) -> None:
        """Add the labels of a split."""
        self.labels[split] = labels
        self.places[f"{split}/label"] = place

    def take(self, split: str, rows: np.ndarray, to: str) -> None:
        """Make `rows` of a split, ascending, the split `to`; they keep their index."""
        index = self.index.get(split, np.arange(len(self.labels[split])))
        self.index[to] = index[rows]
        columns: Any = (self.labels, self.source_groups, self.cells)
        for column in (*columns, self.seen, self.held_out, self.from_test):
            if (values := column.get(split)) is not None:
                column[to] = values if isinstance(values, bool) else values[rows]
        if (paths := self.paths.get(split)) is not None:
            self.paths[to] = [paths[row] for row in rows]
        self.features[to] = {
            view: SelectedRows(as_copies(x, split, view), rows, 1)
            for view, x in self.features[split].items()
        }
        self.sources[to] = self.sources.get(split, split)
        for name in ("label", *self.features[to]):
            self.places[f"{to}/{name}"] = self.places[f"{split}/{name}"]

    @property
    def num_classes(self) -> int:
        """K, from the class names, else the classifier, else text in label order, else the
        labels."""
        if self.class_names is not None:
            return len(self.class_names)
        for weight, _ in self.classifier.values():
            if weight.ndim == 2:
                return len(weight)
        for text in self.embeddings.values():
            if text.names is None:
                return text.features.shape[1]
        return 1 + max((int(y.max()) for y in self.labels.values() if y.size), default=-1)

    @property
    def num_used(self) -> int:
        """Number of classes that have a row in any split."""
        return len(np.unique(np.concatenate(list(self.labels.values()))))

    @property
    def numbered(self) -> bool:
        """Whether K follows from the labels alone."""
        ordered = any(text.names is None for text in self.embeddings.values())
        return self.class_names is None and not self.classifier and not ordered


@dataclass(frozen=True)
class SelectedRows:
    """Selected `rows` of features [N, …], or [A, N, …] along `axis` 1, read only when sliced."""

    array: Any
    rows: np.ndarray
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, …], or [A, n, …]."""
        shape = self.array.shape
        return (*shape[: self.axis], len(self.rows), *shape[self.axis + 1 :])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """Count of numbers."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if key is None:
            return SelectedRows(self.array[None], self.rows, self.axis + 1)
        if self.axis:
            return SelectedRows(self.array[key], self.rows, self.axis - 1)
        return self.array[self.rows[key]]

    def squeeze(self, axes: tuple[int, ...]) -> SelectedRows:
        """The rows without these axes of length 1, which come after that of rows."""
        return SelectedRows(self.array.squeeze(axes), self.rows, self.axis)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        rows = np.asarray(self.array).take(self.rows, axis=self.axis)
        return rows.astype(dtype or self.dtype, copy=False)
