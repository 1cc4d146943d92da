"""What an import understood, shown on one screen and kept as provenance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featbank.bank.agreement import NEAR_CHANCE, Agreement, agreement
from featbank.bank.checks import as_copies
from featbank.bank.classes import SEEN_VAL, class_counts, mostly_unused, other_bases
from featbank.exchange.arrays import Arrays
from featbank.exchange.formats import locate
from featbank.files import file_digest
from featbank.wording import listed, number

HASHED_BYTES = 1 << 30
"""Larger source files are named in the provenance, but not hashed."""


def report(arrays: Arrays) -> list[str]:
    """One line per array with its place, then classes, class sizes, classifier, notes and hints."""
    fits, rows = agreements(arrays), []
    for split, views in arrays.features.items():
        for view, x in views.items():
            rows.append(
                (f"{split}/{view}", _told_features(x), arrays.places.get(f"{split}/{view}"))
            )
        told = _told_labels(arrays.labels[split], arrays.num_classes)
        rows.append((f"{split}/label", told, arrays.places.get(f"{split}/label")))
    for view, (weight, bias) in arrays.classifier.items():
        told = " × ".join(map(str, weight.shape)) + (", no bias" if bias is None else "")
        told += "".join(f"; {fit}" for v, fit in fits.items() if v == view)
        rows.append((f"classifier/{view}", told, arrays.places.get(f"classifier/{view}/weight")))
    for view, fit in fits.items():
        if view not in arrays.classifier:
            rows.append((f"  on {view}", str(fit), None))
    names = arrays.class_names if arrays.class_names is not None else ["numbers"]
    rows.append(("classes", f"K = {arrays.num_classes}: {listed(names, 5)}", None))
    rows += [
        ("class sizes", _told_counts(arrays), None),
        *(("note", n, None) for n in arrays.notes),
    ]
    rows += [("hint", hint, None) for hint in hints(arrays)]
    rows += [
        ("hint", f"the classifier on {view} is {NEAR_CHANCE}", None)
        for view, fit in fits.items()
        if fit.near_chance
    ]
    width = max(len(name) for name, _, _ in rows)
    return [f"{name:<{width}}  {told}" + (f"  ← {p}" if p else "") for name, told, p in rows]


def hints(arrays: Arrays) -> list[str]:
    """What looks odd, but may be right."""
    labels = [y for y in arrays.labels.values() if y.size]
    told = []
    if labels and min(map(np.min, labels)) == 1:
        told.append("no row has label 0; if the labels count from 1, add --label-base 1")
    bases = other_bases(arrays.labels) if arrays.class_names is None else ()
    told += [*bases, *_sparse(arrays), *_not_in_train(arrays)]
    told += _odd_names(arrays.class_names or ())
    if "val" not in arrays.labels:
        told.append(
            "no val: comparisons will be selected on test; --val-per-class or --val-fraction makes "
            "one"
        )
    of_train = "val" in arrays.held_out and bool(arrays.classifier)
    if np.any(arrays.seen.get("val", of_train)):
        told.append(SEEN_VAL)
    elif "val" in arrays.held_out and "train" not in arrays.seen:
        told.append(
            "if the backbone was trained on these rows, val is no clean one: add --seen train; if "
            "not, --seen none says so"
        )
    return told


def agreements(arrays: Arrays) -> dict[str, Agreement]:
    """How often the classifier of each view is right on train; a view may have instance's."""
    fits = {}
    for view, x in arrays.features["train"].items():
        stored = arrays.classifier.get(view, arrays.classifier.get("instance"))
        if stored is None:
            continue
        rows = as_copies(x, "train", view)[0]
        fit = agreement(
            lambda start, stop, rows=rows: rows[start:stop],  # type: ignore[misc]
            arrays.labels["train"],
            *stored,
            name=f"train/{view}",
        )
        if fit:
            fits[view] = fit
    return fits


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


def _sparse(arrays: Arrays) -> Iterator[str]:
    if arrays.numbered and mostly_unused(arrays.num_used, arrays.num_classes):
        yield (
            f"{arrays.num_used} of {arrays.num_classes:,} classes are used; if the labels are ids, "
            "add --renumber"
        )


def _not_in_train(arrays: Arrays) -> Iterator[str]:
    there = np.unique(arrays.labels["train"])
    for split, labels in arrays.labels.items():
        if (new := np.setdiff1d(labels, there)).size:
            names = arrays.class_names
            called = new if names is None else [names[k] for k in new]
            yield f"{split} has classes without a row in train: {listed(called, 5)}"


def _odd_names(names: Sequence[str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) == name:
            continue
        yield f"classes {other!r} and {name!r} differ by case alone"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield f"class names that come twice: {listed(twice, 5)}"
    for name in names:
        if name.casefold() in _MISSING:
            yield f"a class is named {name!r}; if its rows have no label, drop them"
    if printed := [name for name in names if re.fullmatch("b'.*'|b\".*\"", name)]:
        yield f"class names are byte strings as Python prints them: {listed(printed, 5)}"


_MISSING = ("nan", "none", "null", "na", "n/a", "?")


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
    has = f"{number(empty.size, 'class', 'classes')} {'has' if empty.size == 1 else 'have'}"
    none = f"; {has} none: {listed(empty, 10)}" if empty.size else ""
    if least:
        told += f" (imbalance {counts.max() / least:.3g})"
    return told + none
