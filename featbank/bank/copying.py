"""Rows of banks on their way into another bank, block by block: for merging and splitting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.file import Bank
from featbank.bank.writer import BankWriter

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Piece:
    """Rows of one split of a bank: `rows` [n] int64, ascending.

    `marks` are columns of `schema.FLAGS` that all rows have one value of, instead of the bank's.
    """

    bank: Bank
    split: str
    rows: np.ndarray
    marks: Mapping[str, bool] = field(default_factory=dict)

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
        """Places [n] of the rows' images, where the bank knows them."""
        paths = self.bank.paths(self.split)
        return None if paths is None else [paths[row] for row in self.rows]

    def flags(self, name: str) -> np.ndarray | None:
        """One of the columns `schema.FLAGS` [n] bool, where it is known."""
        if name in self.marks:
            return np.full(len(self.rows), self.marks[name])
        flags = self.bank.flags(self.split, name)
        return None if flags is None else flags[self.rows]

    def blocks(self, view: str, copy: int) -> Iterator[np.ndarray]:
        """The rows' features of a view, [m, D] at a time."""
        step = self.bank.block_rows(self.split, view)
        total = self.bank.rows(self.split)
        for start in range(0, total, step):
            first, last = np.searchsorted(self.rows, (start, start + step))
            if first < last:
                block = self.bank.read(self.split, view, start, min(start + step, total), copy=copy)
                yield block[self.rows[first:last] - start]


def _joined(pieces: Sequence[Piece], name: str) -> np.ndarray | None:
    """A column of `schema.FLAGS` over all pieces; those without it have 0, if others have it."""
    flags = [piece.flags(name) for piece in pieces]
    if all(own is None for own in flags):
        return None
    none = [np.zeros(len(piece.rows), bool) for piece in pieces]
    return np.concatenate([n if own is None else own for own, n in zip(flags, none, strict=True)])


def whole(bank: Bank, split: str) -> Piece:
    """All rows of a split."""
    return Piece(bank, split, np.arange(bank.rows(split)))


class Copier:
    """Puts pieces of banks into a new one, and tells `progress` (bytes copied so far)."""

    def __init__(self, writer: BankWriter, progress: Callable[[int], None]) -> None:
        self._writer, self._progress, self._done = writer, progress, 0

    def split(self, split: str, pieces: Sequence[Piece]) -> None:
        """Begin a split with the labels, index, paths and source of `pieces`, one after another."""
        paths: list[str] | None = None
        for piece in pieces:
            if (texts := piece.paths) is not None:
                paths = (paths or []) + texts
        self._writer.split(
            split,
            np.concatenate([piece.labels for piece in pieces]),
            index=np.concatenate([piece.index for piece in pieces]),
            paths=paths,
            source=pieces[0].bank.source(pieces[0].split),
            **{name: _joined(pieces, name) for name in schema.FLAGS},
        )

    def features(self, split: str, view: str, pieces: Sequence[Piece]) -> None:
        """Copy a view of `pieces`, one after another, all copies."""
        copies = pieces[0].bank.copies(pieces[0].split, view)
        target = self._writer.features(split, view, copies=copies)
        for copy, piece in itertools.product(range(copies), pieces):
            for block in piece.blocks(view, copy):
                target.append(block)
                self._done += block.nbytes
                self._progress(self._done)

    def models(self, banks: Sequence[Bank]) -> None:
        """Copy classifiers and BatchNorm statistics; where banks have the same, those of one."""
        written: set[str] = set()
        for bank in banks:
            for view in bank.classifiers:
                found = bank.classifier(view)
                if found is not None and f"classifier/{view}/weight" not in written:
                    self._writer.classifier(view, *found)
            for view in bank.views:
                missing = {
                    layer: statistics
                    for layer, statistics in bank.batchnorm(view).items()
                    if f"batchnorm/{view}/{layer}/mean" not in written
                }
                self._writer.batchnorm(view, missing)
            written.update(model_digests(bank))


def model_digests(bank: Bank) -> dict[str, str]:
    """The stored digests of classifiers and BatchNorm statistics by dataset."""
    names = (n for n in bank.datasets if n.startswith(("classifier/", "batchnorm/")))
    return {name: bank.digest(name) for name in names}


def in_mebibytes(progress: Progress | None, total: int, before: int = 0) -> Callable[[int], None]:
    """A callback for `Copier` that tells `progress` (MiB copied, MiB in all) until all is done."""

    def report(done: int) -> None:
        if progress and (before + done) >> 20 < total >> 20:
            progress((before + done) >> 20, total >> 20)

    return report


def feature_bytes(bank: Bank) -> int:
    """Bytes of all features of a bank."""
    return sum(
        math.prod(bank.shape(split, view)) * np.dtype(bank.dtype).itemsize
        for split, view in itertools.product(bank.splits, bank.views)
    )


def origin(bank: Bank) -> dict[str, Any]:
    """What the provenance of a new bank says of one that it was made from."""
    return {
        "path": str(bank.path),
        "fingerprint": bank.fingerprint,
        "provenance": bank.provenance,
    }


def refuse_inputs(output: Path, inputs: Sequence[Path]) -> None:
    """Raise `ConfigError` where `output` is one of `inputs`."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise errors.ConfigError(f"{output} is read as well. Choose another output.")
