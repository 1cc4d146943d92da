"""Merging banks: rows one after another, or views side by side."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.blocks import Progress
from featbank.bank.checks import check_disjoint, check_paths_apart, first_repeated
from featbank.bank.composed import Bank
from featbank.bank.copying import (
    Piece,
    Pieces,
    feature_bytes,
    maps_of,
    origin,
    refuse_inputs,
    whole,
    write_pieces,
)
from featbank.bank.maps import Maps

_MAP_COLUMNS = ("image", "size", "label")


@dataclass(frozen=True)
class Merged:
    """Outcome of a merge.

    `kind` is ``shards`` or ``views``; `borrowed` names views that had no stage-1 classifier and now
    use that of the instance view, as every view without one does, and `borrowed_text` those that
    had no text and now use that of the instance view.
    """

    kind: str
    borrowed: tuple[str, ...]
    borrowed_text: tuple[str, ...] = ()


def merge(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Merge banks with the same classes and dtype, block by block.

    Banks with the same views are *shards*: the rows of each split follow one another in the order
    given; a split may be missing in some. Their sizes, copies, classifiers, text and BatchNorm
    statistics must agree, and no source row may occur twice. Banks with no view in common are
    *views* of the same rows: splits, labels and indices must agree, and the views are put side by
    side. A row counts as seen by stage 1 if the stage 1 of any of the banks was trained on it.

    Parameters
    ----------
    paths
        Two banks or more.
    output
        The bank to write.
    overwrite
        Replace an existing output.
    progress
        Called with (MiB copied, MiB in all).

    Raises
    ------
    Mismatch
        If the banks do not belong together, naming the first field that differs and both files.
    ConfigError
        If a bank is given twice, or is the output.
    BankError, OutputExists, OutputBusy, NoSpace
        If a bank cannot be read, or the output cannot be written.
    """
    inputs = [Path(path) for path in paths]
    refuse_inputs(Path(output), inputs)
    with contextlib.ExitStack() as stack:
        banks = [stack.enter_context(Bank(path)) for path in inputs]
        _refuse_repeated(banks)
        for other in banks[1:]:
            _check_head(banks[0], other)
        kind = _kind(banks)
        (_check_shards if kind == "shards" else _check_views)(banks)
        splits, features = (_shards if kind == "shards" else _views)(banks)
        maps = {split: _maps(banks, split) for split in schema.EVALUATED}
        write_pieces(
            Path(output),
            banks,
            splits,
            features=features,
            maps={split: pieces for split, pieces in maps.items() if pieces},
            provenance={"made_by": "featbank merge", "parts": [origin(bank) for bank in banks]},
            overwrite=overwrite,
            progress=progress,
            total=sum(map(feature_bytes, banks)),
        )
        if kind == "shards":
            return Merged(kind, ())
        return Merged(
            kind, _borrowed(banks, "classifier/{}/weight"), _borrowed(banks, "text/{}/feature")
        )


def _shards(banks: Sequence[Bank]) -> tuple[dict[str, Pieces], None]:
    """Pieces of every split, one after another."""
    splits = _splits_of(banks)
    return {s: [whole(bank, s) for bank in banks if s in bank.splits] for s in splits}, None


def _views(banks: Sequence[Bank]) -> tuple[dict[str, Pieces], dict[str, dict[str, Pieces]]]:
    """Columns of one bank, with paths, source groups and cells if any bank has them and the rows
    that any stage 1 has seen, and the features of all banks."""
    columns: dict[str, Pieces] = {}
    features: dict[str, dict[str, Pieces]] = {}
    for split in banks[0].splits:
        with_paths = (bank for bank in banks if f"{split}/path" in bank.datasets)
        source = next(with_paths, banks[0])
        marks = {}
        for name in schema.PLACES:
            columns_of = (c for bank in banks if (c := bank.place(split, name)) is not None)
            if (column := next(columns_of, None)) is not None:
                marks[name] = column
        if any(f"{split}/seen" in bank.datasets for bank in banks):
            marks["seen"] = np.any([bank.seen(split) for bank in banks], axis=0)
        columns[split] = [Piece(source, split, np.arange(source.rows(split)), marks)]
        features[split] = {view: [whole(bank, split)] for bank in banks for view in bank.views}
    return columns, features


def _maps(banks: Sequence[Bank], split: str) -> dict[str, list[Maps]]:
    """Maps of a split by view: those of every bank that has the view, one after another."""
    views: dict[str, list[Maps]] = {}
    for bank in banks:
        for view, pieces in maps_of(bank).get(split, {}).items():
            views.setdefault(view, []).extend(pieces)
    return views


def _refuse_repeated(banks: Sequence[Bank]) -> None:
    if len(banks) < 2:
        raise errors.ConfigError("One bank was given. Merging takes two or more.")
    for one, other in itertools.combinations(banks, 2):
        if one.path.samefile(other.path):
            raise errors.ConfigError(f"{other.path} is given twice. Give each bank once.")


def _check_head(one: Bank, other: Bank) -> None:
    """Raise if two banks differ in classes or dtype."""
    _require(one, other, "num_classes", one.num_classes, other.num_classes)
    for k, names in enumerate(zip(one.class_names, other.class_names, strict=True)):
        _require(one, other, f"the name of class {k}", *names)
    _require(one, other, "the type of features", one.dtype, other.dtype)
    facts = [f"classes/{name}" for name in ("full_count", "background", *schema.CLASS_GROUP)]
    facts += ["maps/id", schema.GROUP_NAMES]
    _require_equal_shared(one, _digests(one, facts), other, _digests(other, facts))


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
        for view in other.views:
            sizes = [list(bank.shape("train", view)[2:]) for bank in (banks[0], other)]
            _require(banks[0], other, f"the size of {view}", *sizes)
        _require_equal_digests(banks[0], _model_digests(banks[0]), other, _model_digests(other))
        named = [_yes_no(schema.GROUP_NAMES in bank.datasets) for bank in (banks[0], other)]
        _require(banks[0], other, f"{schema.GROUP_NAMES} being there", *named)
    index, sources, paths = {}, {}, {}
    for split in _splits_of(banks):
        one, *others = (bank for bank in banks if split in bank.splits)
        for other in others:
            _require(one, other, f"the source of {split}", one.source(split), other.source(split))
            for column in (f"{split}/{name}" for name in ("path", "seen", *schema.PLACES)):
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
            columns = [
                f"{split}/{name}" for name in ("label", "index", *schema.FLAGS) if name != "seen"
            ]
            _require_equal_digests(one, _digests(one, columns), other, _digests(other, columns))
            places = [f"{split}/{name}" for name in schema.PLACES]
            _require_equal_shared(one, _digests(one, places), other, _digests(other, places))
            paths = one.paths(split), other.paths(split)
            if None not in paths and paths[0] != paths[1]:
                raise _mismatch(one, other, f"{split}/path")
        _require_equal_shared(one, _model_digests(one), other, _model_digests(other))
        of_maps = [f"maps/{s}/{part}" for s in schema.EVALUATED for part in _MAP_COLUMNS]
        _require_equal_digests(one, _digests(one, of_maps), other, _digests(other, of_maps))


def _joined_index(banks: Sequence[Bank], split: str) -> np.ndarray:
    """Indices [N] of all banks; raise if one occurs twice."""
    parts = [bank.index(split) for bank in banks]
    index = np.concatenate(parts)
    again = first_repeated(index)
    if again is not None:
        before = int((index == index[again]).argmax())
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


def _borrowed(banks: Sequence[Bank], dataset: str) -> tuple[str, ...]:
    """Views without `dataset`, neither their own nor that of instance, that get instance's from
    another bank because it has their D."""
    holders = [bank for bank in banks if dataset.format("instance") in bank.datasets]
    widths = {bank.stored(dataset.format("instance"))[1][-1] for bank in holders}
    return tuple(
        view
        for bank in banks
        for view in bank.views
        if bank not in holders
        and dataset.format(view) not in bank.datasets
        and bank.dim_of(view) in widths
        and schema.borrows(view)
    )


def _require(one: Bank, other: Bank, field: str, here: object, there: object) -> None:
    if here != there:
        raise _mismatch(one, other, field, f": {here} and {there}")


def _require_equal_digests(
    one: Bank, here: Mapping[str, str], other: Bank, there: Mapping[str, str]
) -> None:
    """Raise if a dataset differs, or one bank lacks it."""
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            lacking = [bank for bank, names in ((one, here), (other, there)) if name not in names]
            raise _mismatch(one, other, name, f": {lacking[0].path} has none" if lacking else "")


def _require_equal_shared(
    one: Bank, here: Mapping[str, str], other: Bank, there: Mapping[str, str]
) -> None:
    """Raise if a dataset that both banks have differs."""
    shared = {name: digest for name, digest in here.items() if name in there}
    _require_equal_digests(one, shared, other, {name: there[name] for name in shared})


def _digests(bank: Bank, names: Iterable[str]) -> dict[str, str]:
    """Stored digests of those of the datasets that a bank has."""
    return {name: bank.digest(name) for name in names if name in bank.datasets}


def _mismatch(one: Bank, other: Bank, field: str, values: str = "") -> errors.Mismatch:
    return errors.Mismatch(
        f"{one.path} and {other.path} differ in {field}{values}. Merge shards of one bank, or "
        "views of the same rows."
    )


def _yes_no(there: bool) -> str:
    return "yes" if there else "no"


def _model_digests(bank: Bank) -> dict[str, str]:
    """Stored digests of all that belongs to views beside features; norms follow from these."""
    models = ("classifier/", "batchnorm/", "experts/", "text/", "scale/")
    names = (n for n in bank.datasets if n.startswith(models) and not n.endswith("/norm"))
    return {name: bank.digest(name) for name in names}
