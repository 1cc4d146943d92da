"""Bytes that training on a streamed bank reads of its file, by formula.

`stage2.engine.streamed.StreamedRows` reads a split of N rows in blocks. A third of its budget holds
rows of the rarest classes, which are read once. In an epoch a block is read whole, once, where it
has a row that is drawn and not held. A block of which no row is read has probability

    Π over its rows of u_y,   u = 1 for a row that is held, else that of not being drawn.

Rows that are drawn r times an epoch on average are not drawn with probability e^(−r) by a sampler
with replacement, and 1 − r, or 0, by one that goes through permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage2.methods.samplers import SAMPLERS

CYCLES = {"instance", "class_aware"}
"""Samplers that draw no row twice before all others of its class, or of the split, once."""

LEAST = 1e-300
"""Stands for a probability of 0, whose logarithm is not finite."""


@dataclass(frozen=True)
class Streamed:
    """A split of a bank that is streamed.

    Attributes
    ----------
    counts
        Rows of each class [K].
    dim, item
        D, and the bytes of a feature in the file.
    chunk_rows
        Rows of a block.
    budget
        Bytes in memory, as `StreamedRows` has them.
    sorted
        Whether the file has the rows class by class; else in a random order.
    """

    counts: np.ndarray
    dim: int
    item: int
    chunk_rows: int
    budget: int
    sorted: bool = False

    @property
    def rows(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def size(self) -> int:
        """Bytes of all rows in the file."""
        return self.rows * self.dim * self.item

    def held(self) -> np.ndarray:
        """Rows of each class that stay in memory [K], those of the rarest classes first."""
        order = np.argsort(self.counts, kind="stable")
        left = min(self.rows, self.budget // (3 * 4 * self.dim))
        ends = np.minimum(self.counts[order].cumsum(), left)
        held = np.empty_like(self.counts)
        held[order] = np.diff(ends, prepend=0)
        return held

    def start_bytes(self) -> float:
        """Bytes that a process reads before it trains: all rows, which are checked to be finite,
        and the blocks of those that it holds."""
        return self.size + self._read(np.zeros(len(self.counts)), np.ones(len(self.counts)))

    def epoch_bytes(self, sampler: str, draws: int) -> float:
        """Expected bytes of an epoch of so many draws by a sampler with its default settings."""
        share = SAMPLERS[sampler].distribution(self.counts)
        share = self.counts / self.rows if share is None else share  # of a ramp the beginning
        often = draws * share / np.maximum(self.counts, 1)
        missed = np.maximum(0, 1 - often) if sampler in CYCLES else np.exp(-often)
        return self._read(np.ones(len(self.counts)), missed)

    def _read(self, of_held: np.ndarray, of_others: np.ndarray) -> float:
        """Bytes of the blocks that are read, for the probabilities u of rows of each class [K]."""
        held = self.held()
        rows = np.stack([held, self.counts - held], 1).ravel()  # in the order of a sorted file
        u = np.stack([of_held, of_others], 1).ravel()
        if not self.sorted:
            return self.size * (1 - float((rows * u).sum() / self.rows) ** self.chunk_rows)
        logs = np.log(np.maximum(u, LEAST))
        ends, sums = (np.concatenate([[0], each.cumsum()]) for each in (rows, rows * logs))
        cuts = np.minimum(np.arange(0, self.rows + self.chunk_rows, self.chunk_rows), self.rows)
        read = -np.expm1(np.diff(np.interp(cuts, ends, sums)))
        return float((read * np.diff(cuts)).sum()) * self.dim * self.item
