"""One pass over a bank that reads every stored byte once and keeps what `verify` needs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from featbank import errors
from featbank.bank.blocks import Place, Progress, report
from featbank.bank.checks import is_utf8
from featbank.bank.file import Bank
from featbank.bank.fingerprint import RowDigest
from featbank.bank.schema import EVALUATED, FLAGS

_COLUMN = re.compile(r"[^/]+/(label|index)")


@dataclass
class BadRows:
    """Rows of one copy of a dataset with a `defect`: the first row, and the count."""

    first: int
    count: int
    defect: str


@dataclass
class Content:
    """Results of a pass over a bank.

    A dataset that could not be read whole has errors in `damaged`, and no column, path hashes or
    digest.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Labels and indices [N] by dataset."""
    paths: dict[str, np.ndarray] = field(default_factory=dict)
    """A hash of each path [N] by split."""
    digests: dict[str, str] = field(default_factory=dict)
    """The recomputed SHA-256 by dataset."""
    damaged: dict[str, list[str]] = field(default_factory=dict)
    """Read errors by dataset."""
    bad_rows: dict[tuple[str, int], BadRows] = field(default_factory=dict)
    """By dataset and copy."""
    repeats: dict[str, np.ndarray] = field(default_factory=dict)
    """Rows of val and test whose features occur in train too, by dataset."""
    size: int = 0
    """Bytes read."""
    seconds: float = 0.0
    """Time of the pass."""


def read_content(bank: Bank, progress: Progress | None) -> Content:
    """Read every dataset of a bank, block by block.

    Memory is bounded by three blocks and 8 bytes for each label, index, path and, one view at a
    time, row of features.

    Parameters
    ----------
    bank
        An open bank.
    progress
        Called with (MiB read, MiB in all) at each block but the last.
    """
    content, start = Content(), time.perf_counter()
    total = sum(map(bank.nbytes, bank.datasets))
    with ThreadPoolExecutor(1) as hashing:

        def blocks(name: str) -> Iterator[tuple[Place, np.ndarray]]:
            for place, block in _hashed_blocks(bank, name, content, hashing):
                report(progress, content.size, total)
                yield place, block

        for name in bank.datasets:
            if not name.endswith("/feature"):
                _read_column(name, blocks(name), content)
        for view in bank.views:  # the hashes of one view are held at a time
            names = [f"{split}/{view}/feature" for split in bank.splits]
            rows = {name: _read_features(name, blocks(name), content) for name in names}
            content.repeats |= _repeats(rows)
    content.seconds = time.perf_counter() - start
    return content


def _hashed_blocks(
    bank: Bank, name: str, content: Content, hashing: ThreadPoolExecutor
) -> Iterator[tuple[Place, np.ndarray]]:
    """Yield the blocks of a dataset; a thread hashes one while the next is read."""
    digest = RowDigest(*bank.stored(name))
    hashed: Future[None] | None = None
    for place in bank.places(name):
        try:
            block = bank.at(name, place)
        except errors.Corrupt:
            yield from _sound_chunks(bank, name, place, content)
            continue
        if hashed:
            hashed.result()  # at most one block waits
        hashed = hashing.submit(digest.update, block)
        content.size += block.nbytes
        yield place, block
    if hashed:
        hashed.result()
    if name not in content.damaged:
        content.digests[name] = digest.hexdigest()


def _sound_chunks(
    bank: Bank, name: str, place: Place, content: Content
) -> Iterator[tuple[Place, np.ndarray]]:
    """Yield the readable chunks of a damaged block, and record the others as damaged."""
    for chunk in bank.chunk_places(name, place):
        try:
            block = bank.at(name, chunk)
        except errors.Corrupt as error:
            reason = str(error).removeprefix(f"{bank.path} is damaged: ").partition(". ")[0]
            content.damaged.setdefault(name, []).append(reason)
        else:
            content.size += block.nbytes
            yield chunk, block


def _read_column(name: str, blocks: Iterable[tuple[Place, np.ndarray]], content: Content) -> None:
    """Keep labels, indices and hashes of paths; check the values of a model."""
    kept = [np.zeros(0, np.int64)]
    for place, block in blocks:
        if _COLUMN.fullmatch(name):
            kept.append(block)
        elif name.endswith("/path"):
            kept.append(_hashes(block))
            _add_bad(content, name, place, "not UTF-8", _not_text(block))
        elif name.endswith(FLAGS):
            _add_bad(content, name, place, "neither 0 nor 1", block > 1)
        elif name.endswith("/variance"):
            bad = ~(block >= 0) | np.isinf(block)
            _add_bad(content, name, place, "negative, NaN or infinite", bad)
        elif block.dtype.kind == "f":
            _add_bad(content, name, place, "NaN or infinite", ~np.isfinite(block))
    if name in content.damaged:
        return
    if _COLUMN.fullmatch(name):
        content.columns[name] = np.concatenate(kept)
    elif name.endswith("/path"):
        content.paths[name.removesuffix("/path")] = np.concatenate(kept)


def _read_features(
    name: str, blocks: Iterable[tuple[Place, np.ndarray]], content: Content
) -> np.ndarray:
    """Check that values are finite; return a hash of each row that could be read."""
    hashes = [np.zeros(0, np.int64)]
    for place, block in blocks:
        _add_bad(content, name, place, "NaN or infinite", _not_finite(block))
        hashes.append(_hashes(block.view(f"S{block[0].nbytes}").ravel()))
    return np.concatenate(hashes)


def _add_bad(content: Content, name: str, place: Place, defect: str, bad: np.ndarray) -> None:
    """Count the rows of a block that have a value marked in the mask `bad` [n, …]."""
    if not bad.any():
        return
    *copy, block = place
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    key = name, copy[0] if copy else 0
    first = BadRows(block.start + int(rows[0]), 0, defect)
    content.bad_rows.setdefault(key, first).count += rows.size


def _not_finite(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.float16:  # all exponent bits set; four times as fast as np.isfinite
        return (block.view(np.uint16) & 0x7C00) == 0x7C00
    return ~np.isfinite(block)


def _not_text(texts: np.ndarray) -> np.ndarray:
    """Mask [n] of the byte texts [n] that are not UTF-8."""
    return ~np.fromiter(map(is_utf8, texts.tolist()), bool, len(texts))


def _hashes(texts: np.ndarray) -> np.ndarray:
    """Python's keyed 64-bit hashes of byte texts [n]."""
    return np.fromiter(map(hash, texts.tolist()), np.int64, len(texts))


def _repeats(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of val and test whose hash of features occurs in train, by dataset of one view."""
    train = next(hashes for name, hashes in rows.items() if name.startswith("train/"))
    return {
        name: np.flatnonzero(np.isin(hashes, train))
        for name, hashes in rows.items()
        if name.split("/")[0] in EVALUATED
    }
