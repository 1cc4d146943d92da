"""Merging banks: rows one after another, or views side by side."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_disjoint, check_paths_apart
from featbank.bank.copying import (
    Copier,
    Progress,
    feature_bytes,
    in_mebibytes,
    model_digests,
    origin,
    refuse_inputs,
    whole,
)
from featbank.bank.file import Bank
from featbank.bank.writer import BankWriter


@dataclass(frozen=True)
class Merged:
    """How banks were merged.

    `kind` is ``shards`` or ``views``; `borrowed` names views that had no stage-1 classifier and
    have the instance view's now, as every view without its own.
    """

    kind: str
    borrowed: tuple[str, ...]


def merge(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Merge banks of one class table, D and dtype, block by block.

    Banks with the same views are *shards*: the rows of each split come one after another, in the
    order given; a split may be missing in some. Their copies, classifiers and BatchNorm statistics
    must agree, and no source row may come twice. Banks with no view in common are *views* of the
    same rows: splits, labels and indices must agree, and the views come side by side.

    Parameters
    ----------
    paths
        Two banks or more.
    output
        The bank to be written.
    overwrite
        Replace an existing output.
    progress
        Takes (MiB copied, MiB in all).

    Raises
    ------
    Mismatch
        Where the banks do not belong together, naming the first field that differs and both files.
    ConfigError
        Where a bank is given twice, or is the output.
    BankError, OutputExists, OutputBusy, NoSpace
        Where a bank cannot be read, or the output not written.
    """
    inputs = [Path(path) for path in paths]
    refuse_inputs(Path(output), inputs)
    with contextlib.ExitStack() as stack:
        banks = [stack.enter_context(Bank(path)) for path in inputs]
        _refuse_repeated(banks)
        first = banks[0]
        for other in banks[1:]:
            _check_head(first, other)
        kind = _kind(banks)
        check, write = {
            "shards": (_check_shards, _write_shards),
            "views": (_check_views, _write_views),
        }[kind]
        check(banks)
        writer = BankWriter(
            output,
            first.class_names,
            dim=first.dim,
            dtype=first.dtype,
            provenance={"made_by": "featbank merge", "parts": [origin(bank) for bank in banks]},
            overwrite=overwrite,
        )
        size = sum(map(feature_bytes, banks))
        with writer:
            writer.reserve(size)
            write(banks, Copier(writer, in_mebibytes(progress, size)))
        return Merged(kind, _borrowed(banks) if kind == "views" else ())


def _write_shards(banks: Sequence[Bank], copier: Copier) -> None:
    for split in _splits_of(banks):
        pieces = [whole(bank, split) for bank in banks if split in bank.splits]
        copier.split(split, pieces)
        for view in banks[0].views:
            copier.features(split, view, pieces)
    copier.models(banks[:1])


def _write_views(banks: Sequence[Bank], copier: Copier) -> None:
    for split in banks[0].splits:
        with_paths = (bank for bank in banks if f"{split}/path" in bank.datasets)
        copier.split(split, [whole(next(with_paths, banks[0]), split)])
        for bank in banks:
            for view in bank.views:
                copier.features(split, view, [whole(bank, split)])
    copier.models(banks)


def _refuse_repeated(banks: Sequence[Bank]) -> None:
    if len(banks) < 2:
        raise errors.ConfigError("One bank was given. Merging takes two or more.")
    for one, other in itertools.combinations(banks, 2):
        if one.path.samefile(other.path):
            raise errors.ConfigError(f"{other.path} is given twice. Give each bank once.")


def _check_head(one: Bank, other: Bank) -> None:
    """What all banks must share."""
    _require(one, other, "num_classes", one.num_classes, other.num_classes)
    for k, names in enumerate(zip(one.class_names, other.class_names, strict=True)):
        _require(one, other, f"the name of class {k}", *names)
    _require(one, other, "dim", one.dim, other.dim)
    _require(one, other, "the type of features", one.dtype, other.dtype)


def _kind(banks: Sequence[Bank]) -> str:
    if all(set(bank.views) == set(banks[0].views) for bank in banks):
        return "shards"
    for one, other in itertools.combinations(banks, 2):
        if set(one.views) & set(other.views):
            raise errors.Mismatch(
                f"{one.path} has the views {', '.join(one.views)}, {other.path} has "
                f"{', '.join(other.views)}. Merge banks of the same views, or of none in common."
            )
    return "views"


def _check_shards(banks: Sequence[Bank]) -> None:
    for other in banks[1:]:
        _require_equal_digests(banks[0], model_digests(banks[0]), other, model_digests(other))
    index, sources, paths = {}, {}, {}
    for split in _splits_of(banks):
        one, *others = (bank for bank in banks if split in bank.splits)
        for other in others:
            _require(one, other, f"the source of {split}", one.source(split), other.source(split))
            for column in (f"{split}/path", f"{split}/seen"):
                stored = [_yes_no(column in bank.datasets) for bank in (one, other)]
                _require(one, other, f"{column} being there", *stored)
            for view in one.views:
                copies = one.copies(split, view), other.copies(split, view)
                _require(one, other, f"the copies of {split}/{view}", *copies)
        index[split] = _joined_index([one, *others], split)
        sources[split] = one.source(split)
        paths[split] = [path for bank in (one, *others) for path in bank.paths(split) or ()]
    check_disjoint(index, sources)
    check_paths_apart(paths)


def _check_views(banks: Sequence[Bank]) -> None:
    for one, other in itertools.combinations(banks, 2):
        _require(one, other, "the splits", ", ".join(one.splits), ", ".join(other.splits))
        for split in one.splits:
            _require(one, other, f"the source of {split}", one.source(split), other.source(split))
            columns = [f"{split}/{name}" for name in ("label", "index", *schema.FLAGS)]
            digests = (
                {name: bank.digest(name) for name in columns if name in bank.datasets}
                for bank in (one, other)
            )
            _require_equal_digests(one, next(digests), other, next(digests))
            paths = one.paths(split), other.paths(split)
            if None not in paths and paths[0] != paths[1]:
                raise _mismatch(one, other, f"{split}/path")
        theirs = model_digests(other)
        shared = {name: digest for name, digest in model_digests(one).items() if name in theirs}
        _require_equal_digests(one, shared, other, {name: theirs[name] for name in shared})


def _joined_index(banks: Sequence[Bank], split: str) -> np.ndarray:
    """The indices [N] of all banks, each of which must come once."""
    parts = [bank.index(split) for bank in banks]
    index = np.concatenate(parts)
    values, first = np.unique(index, return_index=True)
    if len(values) < len(index):
        again = int(np.setdiff1d(np.arange(len(index)), first)[0])
        before = int(first[np.searchsorted(values, index[again])])
        ends = np.cumsum([len(part) for part in parts])
        there, here = np.searchsorted(ends, (before, again), side="right")
        row = again - (ends[here] - len(parts[here]))
        raise errors.Mismatch(
            f"{banks[here].path}: row {row} of {split} has index {index[again]}, as a row of "
            f"{banks[there].path} has. Merge banks of different source rows."
        )
    return index


def _splits_of(banks: Sequence[Bank]) -> list[str]:
    return [split for split in schema.SPLITS if any(split in bank.splits for bank in banks)]


def _borrowed(banks: Sequence[Bank]) -> tuple[str, ...]:
    """Views of banks without any classifier, where another bank brings the instance view's."""
    if not any("instance" in bank.classifiers for bank in banks):
        return ()
    return tuple(v for bank in banks for v in bank.views if bank.classifier(v) is None)


def _require(one: Bank, other: Bank, what: str, here: object, there: object) -> None:
    if here != there:
        raise _mismatch(one, other, what, f": {here} and {there}")


def _require_equal_digests(
    one: Bank, here: Mapping[str, str], other: Bank, there: Mapping[str, str]
) -> None:
    """Raise where a dataset is in one only, or differs."""
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            lacks = [str(b.path) for b, has in ((one, here), (other, there)) if name not in has]
            raise _mismatch(one, other, name, f": {lacks[0]} has none" if lacks else "")


def _mismatch(one: Bank, other: Bank, what: str, how: str = "") -> errors.Mismatch:
    return errors.Mismatch(
        f"{one.path} and {other.path} differ in {what}{how}. Merge shards of one bank, or views of "
        "the same rows."
    )


def _yes_no(there: bool) -> str:
    return "yes" if there else "no"
