"""One pass over a bank that reads every stored byte once and keeps what `verify` needs."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from featbank import errors
from featbank.bank.blocks import Place, Progress, report
from featbank.bank.checks import is_utf8
from featbank.bank.composed import Bank
from featbank.bank.fingerprint import RowDigest
from featbank.bank.rows import sum_of_squares
from featbank.bank.schema import EVALUATED, FLAGS, is_scale

_COLUMN = re.compile(r"[^/]+/(label|index|path|source_group)")


@dataclass
class BadRows:
    """Rows of one copy of a dataset with a `defect`: the first row, and the count."""

    first: int
    count: int
    defect: str


@dataclass
class Content:
    """Results of a pass over a bank.

    A dataset that could not be read whole has errors in `damaged`, and no column or digest.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Labels, indices, source groups, and hashes of paths, [N] by dataset."""
    digests: dict[str, str] = field(default_factory=dict)
    """The recomputed SHA-256 by dataset."""
    damaged: dict[str, list[str]] = field(default_factory=dict)
    """Read errors by dataset."""
    bad_rows: dict[tuple[str, int], BadRows] = field(default_factory=dict)
    """By dataset and copy."""
    squares: dict[str, float] = field(default_factory=dict)
    """Sum of squares of the training features by view, where the bank records their norm."""
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
    normed = {f"train/{v}/feature": v for v in bank.views if f"scale/{v}/norm" in bank.datasets}
    with ThreadPoolExecutor(1) as hashing:

        def blocks(name: str) -> Iterator[np.ndarray]:
            for place, block in _hashed_blocks(bank, name, content, hashing):
                report(progress, content.size, total)
                _count_bad_rows(content, name, place, block)
                if view := normed.get(name):
                    content.squares[view] = content.squares.get(view, 0.0) + sum_of_squares(block)
                yield block

        def joined(name: str, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            return np.concatenate([np.zeros(0, np.int64), *map(convert, blocks(name))])

        of_views = [f"{split}/{v}/feature" for split in bank.splits for v in bank.views]
        for name in bank.datasets:
            if _COLUMN.fullmatch(name):
                column = joined(name, _hashes if name.endswith("/path") else np.asarray)
                if name not in content.damaged:
                    content.columns[name] = column
            elif name not in of_views:
                deque(blocks(name), maxlen=0)
        for view in bank.views:  # the hashes of one view are held at a time
            names = [f"{split}/{view}/feature" for split in bank.splits]
            content.repeats |= _repeats({name: joined(name, _row_hashes) for name in names})
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


def _count_bad_rows(content: Content, name: str, place: Place, block: np.ndarray) -> None:
    """Count the rows of a block that have a defect, and note the first."""
    defect, mask = _defect(name, block)
    if not mask.any():
        return
    *copy, rows = place
    bad = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
    key = name, copy[0] if copy else 0
    first = BadRows(rows.start + int(bad[0]), 0, defect)
    content.bad_rows.setdefault(key, first).count += bad.size


def _defect(name: str, block: np.ndarray) -> tuple[str, np.ndarray]:
    """The defect that values of a dataset may have, and a mask [n, …] of those that have it."""
    for pattern, defect, of in _DEFECTS:
        if pattern.fullmatch(name):
            return defect, of(block)
    if block.dtype == np.float16:  # all exponent bits set; four times as fast as np.isfinite
        return "NaN or infinite", (block.view(np.uint16) & 0x7C00) == 0x7C00
    finite = np.isfinite(block) if block.dtype.kind == "f" else np.ones(len(block), bool)
    return "NaN or infinite", ~finite


def _not_text(block: np.ndarray) -> np.ndarray:
    return ~np.fromiter(map(is_utf8, block.tolist()), bool, len(block))


def _not_scale(block: np.ndarray) -> np.ndarray:
    texts = (text.decode(errors="replace") for text in block.tolist())
    return ~np.fromiter(map(is_scale, texts), bool, len(block))


def _no_direction(block: np.ndarray) -> np.ndarray:
    return ~(np.isfinite(block).all(axis=1) & (block != 0).any(axis=1))


_DEFECTS: tuple[tuple[re.Pattern[str], str, Callable[[np.ndarray], np.ndarray]], ...] = (
    (re.compile(r"[^/]+/path|classes/group_.+|source_groups/name"), "not UTF-8", _not_text),
    (
        re.compile(r"[^/]+/(source_group|cell)|classes/full_count"),
        "negative",
        lambda block: block < 0,
    ),
    (re.compile(rf"[^/]+/({'|'.join(FLAGS)})"), "neither 0 nor 1", lambda block: block > 1),
    (
        re.compile(r"batchnorm/.+/variance|scale/.+/norm"),
        "negative, NaN or infinite",
        lambda block: ~(block >= 0) | np.isinf(block),
    ),
    (
        re.compile(r"experts/.+|text/.+/logit_scale"),
        "not > 0",
        lambda block: ~(block > 0) | np.isinf(block),
    ),
    (re.compile(r"scale/.+/default"), "no scale", _not_scale),
    (re.compile(r"text/.+/feature"), "0, NaN or infinite", _no_direction),
)
"""Defects of values by the names of datasets; in all others, numbers that are not finite."""


def _hashes(texts: np.ndarray) -> np.ndarray:
    """Python's keyed 64-bit hashes of byte texts [n]."""
    return np.fromiter(map(hash, texts.tolist()), np.int64, len(texts))


def _row_hashes(block: np.ndarray) -> np.ndarray:
    """Hashes of the rows of features [n, …]."""
    return _hashes(block.reshape(len(block), -1).view(f"S{block[0].nbytes}").ravel())


def _repeats(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of val and test whose hash of features occurs in train, by dataset of one view."""
    train = next(hashes for name, hashes in rows.items() if name.startswith("train/"))
    return {
        name: np.flatnonzero(np.isin(hashes, train))
        for name, hashes in rows.items()
        if name.split("/")[0] in EVALUATED
    }
