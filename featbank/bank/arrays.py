"""Writing a bank from arrays in memory, or from arrays on disk that NumPy maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.checks import as_copies, check_same_length, check_same_splits
from featbank.bank.class_table import CLASS_FACTS
from featbank.bank.grouping import ClassGroups
from featbank.bank.maps import MapArrays
from featbank.bank.writer import BankWriter

Features = Mapping[str, Mapping[str, np.ndarray]]

BLOCK_ROWS = 1 << 14
"""Rows that `write_bank` takes at a time: an array on disk is never read whole."""

MOST_CLASSES = 10_000_000
"""The most classes that labels alone may define: each gets a name, and an id may be any number."""


def write_bank(
    path: str | os.PathLike[str],
    features: Features,
    labels: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] | None = None,
    classifier: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None = None,
    index: Mapping[str, np.ndarray] | None = None,
    paths: Mapping[str, Sequence[str]] | None = None,
    sources: Mapping[str, str] | None = None,
    seen: Mapping[str, np.ndarray | bool] | None = None,
    held_out: Mapping[str, np.ndarray] | None = None,
    from_test: Mapping[str, np.ndarray] | None = None,
    source_groups: Mapping[str, np.ndarray] | None = None,
    cells: Mapping[str, np.ndarray] | None = None,
    source_group_names: Sequence[str] | None = None,
    outside_counts: np.ndarray | None = None,
    background: int | None = None,
    class_groups: ClassGroups | None = None,
    maps: Mapping[str, MapArrays] | None = None,
    map_ids: np.ndarray | None = None,
    text: Mapping[str, tuple[np.ndarray, float]] | None = None,
    default_scale: Mapping[str, str] | None = None,
    dtype: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bank from arrays in memory.

    Parameters
    ----------
    path
        The bank to write.
    features
        ``{split: {view: array}}``; arrays [N, D], [A, N, D] with A augmentation copies, or
        [A, N, T, D] with T tokens. T and D may differ by view.
    labels
        ``{split: [N] integers in 0…K−1}``; ``train`` is required.
    class_names
        K names; by default K follows from the classifier's rows or, without one, from the labels,
        and classes are named by their numbers.
    classifier
        ``{view: (weight [K, D], bias [K] or None)}``, the stage-1 classifier.
    index
        ``{split: [N]}`` rows in the source data; 0…N−1 by default.
    paths
        ``{split: N texts}``, the images' paths.
    sources
        ``{split: name}`` of the source data that `index` points into; by default the split's name.
    seen
        ``{split: [N] bool, or one bool for all rows}``: whether stage 1 was trained on the rows;
        by default on those of train, if there is a classifier.
    held_out
        ``{split: [N] bool}``: whether rows were taken out of train after features were extracted.
    from_test
        ``{split: [N] bool}``: whether rows were taken out of test.
    source_groups, cells
        ``{split: [N]}`` and ``{split: [N, 2]}``, as of `BankWriter.split`.
    source_group_names
        Names of the source groups 0 … G − 1, all different.
    outside_counts, background, class_groups
        Counts [K] of the data that the rows are a sample of, the number of the background class,
        and groups of classes, as of `BankWriter`.
    maps
        ``{split: maps}``, whole maps of val or test; stored as float16 without a `dtype`.
    map_ids
        [K], the number of each class in label maps; 0…K−1 by default.
    text
        ``{view: ([P, K, D] or [K, D], logit scale)}``: embeddings of P prompts for each class.
    default_scale
        ``{view: scale}``: the default of recipes' `feature_scale`, as of
        `BankWriter.default_scale`.
    dtype
        ``float32`` or ``float16``; by default float16 if every input is, else float32.
    provenance, overwrite
        As for `BankWriter`.

    Raises
    ------
    DataError, LabelRange, NotFinite, ConfigError
        If the arrays do not make a bank.
    OutputExists, OutputBusy, NoSpace, OSError
        If the bank cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bank(folder + "/bank.h5", {"train": {"instance": x}}, {"train": y})
    """
    check_same_splits(features, labels)
    arrays = {s: {v: as_copies(a, s, v) for v, a in views.items()} for s, views in features.items()}
    map_dtype = dtype or "float16"
    every = [a for views in arrays.values() for a in views.values()]
    if not every:
        raise errors.DataError("No features were given. A bank needs a train split.")
    if dtype is None:
        dtype = "float16" if all(a.dtype == np.float16 for a in every) else "float32"
    names = class_names if class_names is not None else _numbered_classes(labels, classifier)
    writer = BankWriter(
        path,
        names,
        dim=every[0].shape[-1],
        dtype=dtype,
        provenance=provenance,
        overwrite=overwrite,
    )
    with writer:
        writer.reserve(sum(array.size for array in every) * writer.dtype.itemsize)
        for split, views in arrays.items():
            writer.split(
                split,
                labels[split],
                index=(index or {}).get(split),
                paths=(paths or {}).get(split),
                source=(sources or {}).get(split),
                seen=(seen or {}).get(split),
                held_out=(held_out or {}).get(split),
                from_test=(from_test or {}).get(split),
                source_group=(source_groups or {}).get(split),
                cell=(cells or {}).get(split),
            )
            for view, copies in views.items():
                tokens = copies.shape[2] if copies.ndim == 4 else None
                rows = writer.features(
                    split, view, copies=len(copies), tokens=tokens, dim=copies.shape[-1]
                )
                check_same_length(split, labels=labels[split], **{view: copies[0]})
                for copy in copies:
                    for start in range(0, len(copy), BLOCK_ROWS):
                        rows.append(copy[start : start + BLOCK_ROWS])
        facts = (outside_counts, background, class_groups, source_group_names)
        for name, value in zip((*CLASS_FACTS, "source_group_names"), facts, strict=True):
            if value is not None:
                getattr(writer, name)(value)
        if maps:
            writer.map_arrays(maps, map_ids, dtype=map_dtype)
        for view, (weight, bias) in (classifier or {}).items():
            writer.classifier(view, weight, bias)
        for view, (embeddings, logit_scale) in (text or {}).items():
            writer.text(view, embeddings, logit_scale)
        for view, scale in (default_scale or {}).items():
            writer.default_scale(view, scale)


def _numbered_classes(
    labels: Mapping[str, np.ndarray],
    classifier: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None,
) -> list[str]:
    if classifier:
        weight, _ = next(iter(classifier.values()))
        return [str(k) for k in range(len(weight))]
    top = max((int(np.max(y)) for y in labels.values() if np.size(y)), default=-1)
    if top >= MOST_CLASSES:
        raise errors.LabelRange(
            f"Labels go up to {top:,}, so there would be {top + 1:,} classes. Number those that "
            "occur from 0, or give class_names."
        )
    return [str(k) for k in range(top + 1)]
