"""What an import understood, told on one screen and kept as provenance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from featbank.bank.classes import SEEN_VAL, class_counts
from featbank.exchange.arrays import Arrays
from featbank.exchange.formats import locate
from featbank.files import file_digest

HASHED_BYTES = 1 << 30
"""Larger source files are named in the provenance, but not hashed."""


def report(arrays: Arrays) -> list[str]:
    """One line per array with its place, then classes, class sizes, classifier, notes and hints."""
    rows = []
    for split, views in arrays.features.items():
        for view, x in views.items():
            rows.append(
                (f"{split}/{view}", _told_features(x), arrays.places.get(f"{split}/{view}"))
            )
        told = _told_labels(arrays.labels[split], arrays.num_classes)
        rows.append((f"{split}/label", told, arrays.places.get(f"{split}/label")))
    for view, (weight, bias) in arrays.classifier.items():
        told = " × ".join(map(str, weight.shape)) + (", no bias" if bias is None else "")
        rows.append((f"classifier/{view}", told, arrays.places.get(f"classifier/{view}/weight")))
    names = arrays.class_names if arrays.class_names is not None else ["numbers"]
    rows.append(("classes", f"K = {arrays.num_classes}: {_some(names, 5)}", None))
    rows += [
        ("class sizes", _told_counts(arrays), None),
        *(("note", n, None) for n in arrays.notes),
    ]
    rows += [("hint", hint, None) for hint in hints(arrays)]
    width = max(len(name) for name, _, _ in rows)
    return [f"{name:<{width}}  {told}" + (f"  ← {p}" if p else "") for name, told, p in rows]


def hints(arrays: Arrays) -> list[str]:
    """What looks odd, but may be right."""
    labels = [y for y in arrays.labels.values() if y.size]
    told = []
    if labels and min(map(np.min, labels)) == 1:
        told.append("no row has label 0; if the labels count from 1, add --label-base 1")
    if "val" not in arrays.labels:
        told.append(
            "no val: comparisons will be selected on test; --val-per-class or --val-fraction makes "
            "one"
        )
    if arrays.held_out and arrays.seen.get("train", bool(arrays.classifier)):
        told.append(SEEN_VAL)
    return told


def provenance(arrays: Arrays, **options: Any) -> dict[str, Any]:
    """Where every array came from, the options that were used, and the files' SHA-256."""
    files = sorted({locate(place)[0] for place in arrays.places.values()})
    small = [file for file in files if file.is_file() and file.stat().st_size <= HASHED_BYTES]
    return {
        "made_by": "featbank import",
        "sources": arrays.places,
        "sha256": {str(file): file_digest(file) for file in small},
        **options,
    }


def _told_features(x: Any) -> str:
    copies = f"{x.shape[0]} copies of " if x.ndim == 3 and x.shape[0] > 1 else ""
    return f"{copies}{x.shape[-2]} × {x.shape[-1]} {x.dtype}"


def _told_labels(labels: np.ndarray, num_classes: int) -> str:
    if not labels.size:
        return "no rows"
    seen = len(np.unique(labels))
    return f"{labels.min()} … {labels.max()}, {seen} of {num_classes} classes seen"


def _told_counts(arrays: Arrays) -> str:
    counts = class_counts(arrays.labels["train"], arrays.num_classes)
    empty = np.flatnonzero(counts == 0)
    least = counts[counts > 0].min() if counts.any() else 0
    told = f"{counts.max(initial=0)} … {least} training rows"
    if least:
        told += f" (imbalance {counts.max() / least:.3g})"
    return told + (f"; {empty.size} classes have none: {_some(empty, 10)}" if empty.size else "")


def _some(values: Iterable[object], most: int) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "")
