"""The record of a bank in a results file: what tables and comparisons need of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from featbank import errors
from featbank.bank import Bank, class_counts
from featbank.bank.naming import label_of
from featbank.bank.schema import EVALUATED
from featbank.bank.source_groups import source_units
from stage2.features.folds import Folds
from stage2.features.parts import parts_of
from stage2.results import content
from stage2.results.classes import class_record, coverage
from stage2.results.digests import Value
from stage2.results.tested import PART_ROWS, SOURCE_GROUP, decoded_rows, splits_of


def record_of(bank: Bank) -> dict[str, Any]:
    """A bank in JSON values, without what depends on the splits that are measured."""
    from stage2.features.probe import probe_for  # with torch: only a sweep writes records
    from stage2.features.scale import default_scale

    record = {
        "path": str(bank.path),
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "class_names": bank.class_names,
        "train_counts": bank.train_counts.tolist(),
        "full_counts": bank.full_counts.tolist(),
        "rows": {split: bank.rows(split) for split in bank.splits},
        "views": list(bank.views),
        "seen": {split: int(bank.seen(split).sum()) for split in bank.splits},
        "probed": [view for view in bank.views if bank.classifier(view) is None],
        "cosine": [view for view in bank.views if probe_for(bank, view, 1.0, "none") is None],
        "scaled": [view for view in bank.views if default_scale(bank, view) == "auto"],
    }
    record |= class_record(bank)
    recorded = {view: bank.default_scale(view) for view in bank.views}
    if scales := {view: scale for view, scale in recorded.items() if scale}:
        record["default_scales"] = scales
    if any(bank.cells(split) is not None for split in bank.splits):
        record["pixels"] = True
    if label := label_of(bank.provenance):
        record["label"] = label
    if per_class := rows_from_test(bank):
        record["val_from_test"] = per_class
    return record


def rows_from_test(bank: Bank) -> list[int]:
    """The least and the most rows of a class that val took from test; nothing where it took none.

    Counted over the classes with rows in test or taken from it.
    """
    taken = bank.from_test("val") if "val" in bank.splits else None
    if taken is None or not taken.any():
        return []
    counts = class_counts(bank.labels("val")[taken], bank.num_classes)
    left = bank.labels("test") if "test" in bank.splits else np.zeros(0, np.int64)
    per_class = counts[(counts > 0) | (class_counts(left, bank.num_classes) > 0)]
    return [int(per_class.min()), int(per_class.max())]


def identity_of(bank: Bank, split: str, folds: Folds | None = None) -> str:
    """SHA-256 of the rows that a split measures, in order: source, indices and labels.

    Splits of two banks with the same digest have the same rows, whatever their features.

    Parameters
    ----------
    bank, split
        The bank, and ``val`` or ``test``.
    folds
        Folds of train whose held-out rows are measured in place of `split`.
    """
    at = "train" if folds else split
    kept = folds.rows if folds else slice(None)
    columns = (bank.index(at)[kept], bank.labels(at)[kept])
    digest = hashlib.sha256(bank.source(at).encode() + b"\0")
    for column in columns:
        digest.update(np.ascontiguousarray(column, "<i8").tobytes())
    return digest.hexdigest()


def summed(
    about: dict[str, Any], bank: Bank, held_out: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays beside the labels of the measured splits, by the names of `stage2.results.content`:
    source groups int32 [N], 0 … G − 1, where some have several rows, and of splits of very many
    rows labels, groups and rows of the parts. Their numbers are added to the record `about`.

    Parameters
    ----------
    about, bank
        The record, and the bank.
    held_out
        Rows of train that folds measure, by the folds' name.
    """
    arrays: dict[str, np.ndarray] = {}
    numbers, sums = {}, {}
    for split in (each for each in EVALUATED if each in bank.splits):
        if (parts := parts_of(bank, split)) is None:
            groups = source_units(bank.source_groups(split))
        else:
            groups, sums[split] = parts.groups, len(parts.rows)
            arrays |= {split: parts.labels, f"{split}{PART_ROWS}": parts.rows}
        if groups is not None:
            arrays[f"{split}{SOURCE_GROUP}"] = groups.astype(np.int32)
    sources = bank.source_groups("train") if held_out else None
    for name, rows in held_out.items():
        if sources is not None and (units := source_units(sources[rows])) is not None:
            arrays[f"{name}{SOURCE_GROUP}"] = units.astype(np.int32)
    for name, values in arrays.items():
        if name.endswith(SOURCE_GROUP):
            numbers[name.removesuffix(SOURCE_GROUP)] = int(values.max(initial=-1)) + 1
    about |= {k: v for k, v in (("source_groups", numbers), ("parts", sums)) if v}
    return arrays


def united(ours: dict[str, Value], theirs: dict[str, Value]) -> dict[str, Value]:
    """The row of a bank without its digest, with the folds of both; ours where nothing is added.

    Raises
    ------
    Mismatch
        Where a split has other labels in the two; the message names it.
    """
    if not (ours["labels"] and theirs["labels"]):  # from before schema 4
        return ours if ours["labels"] or not theirs["labels"] else theirs
    about, other = (content.about(row["about"]) for row in (ours, theirs))
    here = decoded_rows(ours["labels"], about)
    there = decoded_rows(theirs["labels"], other)
    for split in here.keys() & there.keys():
        if not np.array_equal(here[split], there[split]):
            raise errors.Mismatch(f"other labels of {split}")
    if here.keys() >= there.keys():
        return ours
    labels = {**there, **here}
    for record in ("rows", "identities", "source_groups", "parts"):
        if joined := {**other.get(record, {}), **about.get(record, {})}:
            about[record] = _in_order(joined)
    about |= coverage(splits_of(labels), np.array(about["train_counts"]))
    labels = _in_order(labels)
    return {**ours, "about": json.dumps(about), "labels": save(labels)}


def _in_order(by_split: dict[str, Any]) -> dict[str, Any]:
    """Train, val and test before folds, these by name."""
    known = ("train", *EVALUATED)
    names = [split for split in known if split in by_split]
    return {split: by_split[split] for split in [*names, *sorted(by_split.keys() - set(names))]}
