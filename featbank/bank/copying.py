"""Copying rows of banks into a new bank, block by block: what merging and splitting share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.blocks import Progress, report
from featbank.bank.class_table import CLASS_FACTS
from featbank.bank.composed import Bank
from featbank.bank.maps import Maps
from featbank.bank.models import Text
from featbank.bank.rows import FeatureRows
from featbank.bank.schema import is_rows
from featbank.bank.writer import BankWriter


@dataclass(frozen=True)
class Piece:
    """Rows of one split of a bank: `rows` [n] int64, ascending.

    `marks` replaces columns of `schema.FLAGS` by one value for all rows, or by [n] bool, and those
    of `schema.PLACES` by arrays.
    """

    bank: Bank
    split: str
    rows: np.ndarray
    marks: Mapping[str, bool | np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """Labels [n] of the rows."""
        return self.bank.labels(self.split)[self.rows]

    @property
    def index(self) -> np.ndarray:
        """Source rows [n] of the rows."""
        return self.bank.index(self.split)[self.rows]

    @property
    def paths(self) -> list[str] | None:
        """Paths [n] of the rows' images, if the bank has them."""
        paths = self.bank.paths(self.split)
        return None if paths is None else [paths[row] for row in self.rows]

    def flags(self, name: str) -> np.ndarray | None:
        """A column of `schema.FLAGS`, [n] bool, if it is known."""
        if name in self.marks:
            return np.full(len(self.rows), self.marks[name])
        flags = self.bank.flags(self.split, name)
        return None if flags is None else flags[self.rows]

    def places(self, name: str) -> np.ndarray | None:
        """A column of `schema.PLACES`, [n] or [n, 2] int64, if it is known."""
        if name in self.marks:
            return np.asarray(self.marks[name])
        column = self.bank.place(self.split, name)
        return None if column is None else column[self.rows]

    def blocks(self, view: str, copy: int) -> Iterator[np.ndarray]:
        """Yield the rows' features of a view, block by block."""
        step = self.bank.block_rows(self.split, view)
        total = self.bank.rows(self.split)
        for start in range(0, total, step):
            first, last = np.searchsorted(self.rows, (start, start + step))
            if first < last:
                block = self.bank.read(self.split, view, start, min(start + step, total), copy=copy)
                yield block[self.rows[first:last] - start]


def whole(bank: Bank, split: str) -> Piece:
    """All rows of a split."""
    return Piece(bank, split, np.arange(bank.rows(split)))


Pieces = Sequence[Piece]

MapPieces = Mapping[str, Mapping[str, Sequence[Maps]]]
"""Maps by split and view, one after another."""


def maps_of(bank: Bank) -> dict[str, dict[str, list[Maps]]]:
    """All maps of a bank."""
    return {split: {view: [maps] for view in bank.views} for split, maps in bank.mapped.items()}


def write_pieces(
    output: Path,
    banks: Sequence[Bank],
    splits: Mapping[str, Pieces],
    *,
    features: Mapping[str, Mapping[str, Pieces]] | None = None,
    text: Mapping[str, tuple[np.ndarray, float]] | None = None,
    default_scale: Mapping[str, str] | None = None,
    classes: Mapping[str, Any] | None = None,
    maps: MapPieces | None = None,
    provenance: Mapping[str, Any],
    overwrite: bool,
    progress: Progress | None,
    total: int,
    done: int = 0,
) -> None:
    """Write a bank of pieces of others, each split's pieces one after another.

    Parameters
    ----------
    output
        The bank to write.
    banks
        The banks it is made of; class names and dtype are those of the first. Classifiers, text
        and BatchNorm statistics come from all of them, those that several share once.
    splits
        ``{split: pieces}`` that give labels, index, paths and flags.
    features
        ``{split: {view: pieces}}``; by default all views of the pieces in `splits`.
    text, default_scale
        As for `write_bank`; they replace those of the banks, view by view.
    classes
        Values of `CLASS_FACTS` that replace those of the banks.
    maps
        ``{split: {view: maps}}``, one after another; by default all of the first bank.
    provenance, overwrite
        As for `BankWriter`.
    progress
        Called with (MiB copied, MiB in all).
    total, done
        Bytes of features in all, and those of them that earlier calls have written.
    """
    writer = BankWriter(
        output,
        banks[0].class_names,
        dim=banks[0].dim,
        dtype=banks[0].dtype,
        provenance=provenance,
        overwrite=overwrite,
    )

    def append(target: FeatureRows, block: np.ndarray) -> None:
        nonlocal done
        target.append(block)
        done += block.nbytes
        report(progress, done, total)

    with writer:
        writer.reserve(total - done)
        for split, pieces in splits.items():
            _write_columns(writer, split, pieces)
            views = features[split] if features else {view: pieces for view in banks[0].views}
            for view, sources in views.items():
                bank = sources[0].bank
                copies = bank.copies(sources[0].split, view)
                target = writer.features(
                    split, view, copies=copies, tokens=bank.tokens(view), dim=bank.dim_of(view)
                )
                for copy, piece in itertools.product(range(copies), sources):
                    for block in piece.blocks(view, copy):
                        append(target, block)
        _write_maps(writer, banks, maps_of(banks[0]) if maps is None else maps, append)
        _write_classes(writer, banks, classes or {})
        if names := next((n for bank in banks if (n := bank.source_group_names)), None):
            writer.source_group_names(names)
        _write_models(writer, banks, text or {}, default_scale or {})


def _write_columns(writer: BankWriter, split: str, pieces: Pieces) -> None:
    paths = [piece.paths for piece in pieces]
    writer.split(
        split,
        np.concatenate([piece.labels for piece in pieces]),
        index=np.concatenate([piece.index for piece in pieces]),
        paths=None if None in paths else list(itertools.chain(*filter(None, paths))),
        source=pieces[0].bank.source(pieces[0].split),
        **{name: _joined_flags(pieces, name) for name in schema.FLAGS},
        **{name: _joined_places(pieces, name) for name in schema.PLACES},
    )


def _joined_flags(pieces: Pieces, name: str) -> np.ndarray | None:
    """A column of `schema.FLAGS` over all pieces; 0 in pieces without it where others have it."""
    columns = [piece.flags(name) for piece in pieces]
    if all(column is None for column in columns):
        return None
    return np.concatenate(
        [
            np.zeros(len(piece.rows), bool) if column is None else column
            for piece, column in zip(pieces, columns, strict=True)
        ]
    )


def _joined_places(pieces: Pieces, name: str) -> np.ndarray | None:
    """A column of `schema.PLACES` over all pieces, if all have it."""
    columns = [column for piece in pieces if (column := piece.places(name)) is not None]
    return np.concatenate(columns) if len(columns) == len(pieces) else None


def _write_maps(
    writer: BankWriter,
    banks: Sequence[Bank],
    maps: MapPieces,
    append: Callable[[FeatureRows, np.ndarray], None],
) -> None:
    """Write maps, and the numbers of classes in them."""
    for split, views in maps.items():
        first, *_ = views.values()
        columns = [(m.images, m.sizes, m.flat_labels()) for m in first]
        writer.maps(split, *map(np.concatenate, zip(*columns, strict=True)))
        for view, pieces in views.items():
            target = writer.map_features(split, view, dtype=pieces[0].dtype(view))
            for piece in pieces:
                for block in piece.blocks(view):
                    append(target, block)
    if maps:
        writer.map_ids(next(bank.map_ids for bank in banks if bank.mapped))


def _write_classes(writer: BankWriter, banks: Sequence[Bank], changed: Mapping[str, Any]) -> None:
    """Store what the first bank that has it says of the classes, but for what is `changed`."""
    for name in CLASS_FACTS:
        value = changed.get(name)
        if value is None:
            value = next((v for bank in banks if (v := bank.class_fact(name)) is not None), None)
        if value is not None:
            getattr(writer, name)(value)


def _write_models(
    writer: BankWriter,
    banks: Sequence[Bank],
    text: Mapping[str, tuple[np.ndarray, float]],
    default_scale: Mapping[str, str],
) -> None:
    classifiers: dict[str, Any] = {}
    batchnorm: dict[str, dict[str, Any]] = {}
    ordered: dict[str, bool] = {}
    weights: dict[str, float] = {}
    texts: dict[str, Text | None] = {}
    scales: dict[str, str | None] = {}
    for bank in banks:
        classifiers |= {view: bank.classifier(view) for view in bank.classifiers}
        texts |= {view: bank.text(view) for view in bank.texts}
        for view in bank.views:
            batchnorm.setdefault(view, {}).update(bank.batchnorm(view))
            ordered[view] = ordered.get(view, True) and bank.is_ordered(view)
            weights[view] = bank.expert_weight(view)
            scales[view] = bank.default_scale(view)
    for view, classifier in classifiers.items():
        writer.classifier(view, *classifier)
    stored = {view: (own.features, own.logit_scale) for view, own in texts.items() if own}
    for view, embeddings in {**stored, **text}.items():
        writer.text(view, *embeddings)
    for view, scale in {**scales, **default_scale}.items():
        if scale is not None:
            writer.default_scale(view, scale)
    for view, statistics in batchnorm.items():
        writer.batchnorm(view, statistics, ordered=ordered[view])
    for view, weight in weights.items():
        if weight != 1:
            writer.expert_weight(view, weight)


def feature_bytes(bank: Bank) -> int:
    """Bytes of all features of a bank."""
    return sum(bank.nbytes(name) for name in bank.datasets if is_rows(name))


def origin(bank: Bank) -> dict[str, Any]:
    """Provenance entry for a bank that a new one is made from."""
    return {
        "path": str(bank.path),
        "fingerprint": bank.fingerprint,
        "provenance": bank.provenance,
    }


def refuse_inputs(output: Path, inputs: Sequence[Path]) -> None:
    """Raise `ConfigError` if `output` is one of `inputs`."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise errors.ConfigError(f"{output} is read as well. Choose another output.")
