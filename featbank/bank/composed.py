"""A bank with views made of others (`featbank.bank.expressions`), whose rows are flat, [n, F]."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featbank import errors
from featbank.bank.expressions import POOLS, TOKENS, Part, is_composed, parts_of
from featbank.bank.file import StoredBank
from featbank.bank.models import Text
from featbank.bank.rows import sum_of_squares
from featbank.wording import number


@dataclass(frozen=True)
class Composition:
    """A view of a bank that is made of others.

    Attributes
    ----------
    bank
        The bank as it is stored.
    name
        The expression.
    """

    bank: StoredBank
    name: str

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts."""
        return parts_of(self.name)

    def check(self) -> None:
        """Raise `ConfigError` for parts that the bank does not have, or that do not fit."""
        for part in self.parts:
            self.bank.require_view(part.view)
            of_tokens = self.bank.tokens(part.view) is not None
            if of_tokens and part.pool is None:
                raise errors.ConfigError(
                    f"{self.bank.path}: {part.view!r} has tokens, {self.name!r} needs rows. Pool "
                    f"them, as in {part.view}:mean."
                )
            if part.pool in POOLS and not of_tokens:
                raise errors.ConfigError(
                    f"{self.bank.path}: {part.view!r} has rows of features and nothing to pool. "
                    f"Leave out :{part.pool}."
                )
        if all(part.pool != TOKENS for part in self.parts):
            return
        widths = {part.view: self.bank.dim_of(part.view) for part in self.parts}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{view} {width}" for view, width in widths.items())
            raise errors.ConfigError(
                f"{self.bank.path}: tokens side by side have one width, those of {self.name!r} "
                f"have {told}. Take views of one width."
            )

    @cached_property
    def counts(self) -> list[int]:
        """Tokens of a row in each part, of which a row of features is one."""
        return [
            (self.bank.tokens(part.view) or 1) if part.pool == TOKENS else 1 for part in self.parts
        ]

    @cached_property
    def widths(self) -> list[int]:
        """Numbers of a row in each part."""
        dims = (self.bank.dim_of(part.view) for part in self.parts)
        return [count * dim for count, dim in zip(self.counts, dims, strict=True)]

    @property
    def dim(self) -> int:
        """F, the numbers of a row."""
        return sum(self.widths)

    @property
    def tokens(self) -> int | None:
        """Tokens of a row, where it is made of tokens."""
        return sum(self.counts) if any(part.pool == TOKENS for part in self.parts) else None

    @property
    def as_stored(self) -> bool:
        """Whether its numbers are those of one view."""
        return len(self.parts) == 1 and self.parts[0].pool == TOKENS and not self.parts[0].factor

    @property
    def dtype(self) -> str:
        """Type of its numbers."""
        return self.bank.dtype if self.as_stored else "float32"

    def shape(self, split: str) -> tuple[int, int, int]:
        """(A, N, F)."""
        shapes = {part.view: self.bank.shape(split, part.view)[:2] for part in self.parts}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{view} has {copies}" for view, (copies, _) in shapes.items())
            raise errors.ConfigError(
                f"{self.bank.path}: copies of {split} do not match: {told}. Take views with as "
                "many augmentation copies."
            )
        copies, rows = next(iter(shapes.values()))
        return copies, rows, self.dim

    def read(
        self,
        split: str,
        start: int,
        stop: int,
        *,
        copy: int = 0,
        out: np.ndarray | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        """The rows `start` … `stop` − 1 of a copy, [n, F] of `dtype`, in `out` if it is given."""
        if out is None:
            out = np.empty((stop - start, self.dim), self.dtype)
        at = 0
        for part, width, factor in zip(self.parts, self.widths, self.factors, strict=True):
            x = self.bank.read(split, part.view, start, stop, copy=copy, threads=threads)
            into, rows = out[:, at : at + width], _flat(x, part)
            if factor == 1:
                into[:] = rows
            else:
                np.multiply(rows, np.float32(factor), out=into)
            at += width
        return out

    @cached_property
    def norms(self) -> list[float]:
        """The norm of each part as it is stored, pooled: the root mean square norm of its rows of
        train, or of tokens that are kept; it takes a pass over them where it is not recorded."""
        return [self._norm(*each) for each in zip(self.parts, self.counts, strict=True)]

    @cached_property
    def factors(self) -> list[float]:
        """Factors of the features of each part."""
        given = [part.factor for part in self.parts]
        if len(given) == 1 or None not in given:
            return [factor or 1.0 for factor in given]
        return [f or 1 / n if n else 1.0 for f, n in zip(given, self.norms, strict=True)]

    @cached_property
    def norm(self) -> float:
        """Root mean square norm of its rows of train, or of the tokens of its rows."""
        squares = [(f * n) ** 2 for f, n in zip(self.factors, self.norms, strict=True)]
        if self.tokens is None:
            return math.sqrt(sum(squares))
        total = sum(count * square for count, square in zip(self.counts, squares, strict=True))
        return math.sqrt(total / sum(self.counts))

    def _norm(self, part: Part, tokens: int) -> float:
        recorded = None if part.pool in POOLS else self.bank.norm(part.view)
        if recorded is not None:
            return recorded
        count, squares = 0, 0.0
        for copy in range(self.bank.copies("train", part.view)):
            for _, x in self.bank.blocks("train", part.view, copy=copy):
                rows = _flat(x, part)
                count, squares = count + len(rows) * tokens, squares + sum_of_squares(rows)
        return math.sqrt(squares / max(1, count))


def _flat(x: np.ndarray, part: Part) -> np.ndarray:
    """Rows [n, D] of a part, or its tokens [n, T·D]."""
    if part.pool in POOLS:
        return POOLS[part.pool](x.astype(np.float32, copy=False))
    return x.reshape(len(x), -1)


class Bank(StoredBank):
    """A bank opened for reading; a context manager.

    Wherever a view is read, its name may also be an expression that makes one of others, such as
    ``layer5/cls|patch:mean`` (`featbank.bank.expressions`): it has rows [n, F], a norm, and neither
    a classifier nor text.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    splits, views
        Their names; every view is in every split.
    num_classes, dim
        K, and D of the first view; `dim_of` has that of each.
    dtype
        Stored type of the features, ``float32`` or ``float16``.
    class_names, train_counts, full_counts
        Names of the K classes in label order, and their training counts [K] int64, without and
        with rows that were held out.
    outside_counts, background, class_groups
        Counts [K] int64 of the data that the rows are a sample of, and the number of the background
        class, each None without; `featbank.bank.ClassGroups`, by default many / medium / few.
    fingerprint
        SHA-256 of the content, 64 hex digits.
    provenance
        The record of how the bank was made.
    schema
        Version of the format.

    Raises
    ------
    NotABank, Incomplete, Truncated, TooNew, Corrupt, Unsafe
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._compositions: dict[str, Composition] = {}

    def __repr__(self) -> str:
        """Path, sizes, splits and views, in three lines; of a closed bank the path."""
        name = f"Bank {self.path} ({self.fingerprint[:12]})"
        if self.is_closed:
            return f"{name}, closed"
        counts = self.train_counts
        splits = ", ".join(f"{split} {self.rows(split):,}" for split in self.splits)
        return (
            f"{name}: {number(self.num_classes, 'class', 'classes')}, "
            f"{number(self.dim, 'feature')}, {self.dtype}\n"
            f"rows: {splits}; {counts.min():,} to {counts.max():,} of a class in train\n"
            f"views: {', '.join(self.views)}"
        )

    def check_view(self, view: str) -> None:
        """Raise `ConfigError` for a view that the bank does not have, or cannot make."""
        if self._composed(view) is None:
            self.require_view(view)

    def shape(self, split: str, view: str = "instance") -> tuple[int, ...]:
        """(A, N, D) of a view: augmentation copies, rows, feature size; (A, N, T, D) of tokens."""
        composed = self._composed(view)
        return composed.shape(split) if composed else super().shape(split, view)

    def read(
        self,
        split: str,
        view: str,
        start: int,
        stop: int,
        *,
        copy: int = 0,
        out: np.ndarray | None = None,
        threads: int = 1,
    ) -> np.ndarray:
        composed = self._composed(view)
        if composed is None:
            return super().read(split, view, start, stop, copy=copy, out=out, threads=threads)
        return composed.read(split, start, stop, copy=copy, out=out, threads=threads)

    def block_rows(self, split: str, view: str = "instance") -> int:
        """Rows of one block of `blocks`: whole chunks of about 16 MiB."""
        stored = super().block_rows
        return min(stored(split, part.view) for part in parts_of(view))

    def chunk_rows(self, split: str, view: str = "instance") -> int:
        """Rows stored, and read, together; of a view made of others as many as its longest chunk
        has, so that no chunk is read twice, but at most as many as one of `blocks`."""
        stored = super().chunk_rows
        longest = max(stored(split, part.view) for part in parts_of(view))
        return min(longest, self.block_rows(split, view))

    def dtype_of(self, view: str) -> str:
        """Type of the features of a view."""
        composed = self._composed(view)
        return composed.dtype if composed else self.dtype

    def tokens(self, view: str = "instance") -> int | None:
        """Tokens T of each row of a view; None for a view of plain rows."""
        composed = self._composed(view)
        return composed.tokens if composed else super().tokens(view)

    def classifier(self, view: str = "instance") -> tuple[np.ndarray, np.ndarray] | None:
        return None if is_composed(view) else super().classifier(view)

    def text(self, view: str = "instance") -> Text | None:
        return None if is_composed(view) else super().text(view)

    def default_scale(self, view: str = "instance") -> str | None:
        return None if is_composed(view) else super().default_scale(view)

    def norm(self, view: str = "instance") -> float | None:
        """Root mean square norm of the training features of a view, over all copies and tokens.

        None unless it is recorded: banks do so for features that stage 1 was not trained on, and
        recipes scale these by default (`stage2.features.scale`). No classifier fits a view made of
        others, so that its norm is always known; it takes a pass over train.
        """
        composed = self._composed(view)
        return composed.norm if composed else super().norm(view)

    def _composed(self, view: str) -> Composition | None:
        """A view that is made of others; None for one that is stored."""
        if not is_composed(view):
            return None
        if view not in self._compositions:
            composition = Composition(self, view)
            composition.check()
            self._compositions[view] = composition
        return self._compositions[view]
