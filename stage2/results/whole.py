"""Whole rows of a results file, every column checked: what is copied from one file to another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stage2.results.columns import LONG
from stage2.results.content import Unexpected
from stage2.results.digests import Value, same_heavy
from stage2.results.merging import StoredRow
from stage2.results.rows import StoredRows, digest_of
from stage2.results.schema import HEAVY, KEYS, LIGHT, has

BATCH = 128
"""Runs that are in memory at once."""

Whole = tuple[StoredRow, Sequence[StoredRow]]
"""A run and its evaluations, every column, in the order of the run's digest."""


@dataclass(frozen=True)
class WholeRows(StoredRows):
    """The rows of a results file with all their columns.

    Parameters
    ----------
    between
        The first and the last hash of the recipes whose runs are read; by default all are.
    """

    between: tuple[str, str] | None = None

    def row(self, table: str, *key: str) -> StoredRow | None:
        """A row of a table without its digest, its long columns checked; None where it is not
        there."""
        return next(iter(self._whole(table, key)), None)

    def each_run(self, fingerprint: str) -> Iterator[Whole]:
        """The runs on a bank, in the order of their recipes' hashes, checked and with digests,
        which those from before schema 5 lack."""
        query = "SELECT recipe FROM run WHERE bank = ? ORDER BY recipe"
        recipes = [recipe for (recipe,) in self.database.execute(query, (fingerprint,))]
        for start in range(0, len(recipes), BATCH):
            part = recipes[start : start + BATCH]
            batch = WholeRows(self.database, self.path, (part[0], part[-1]))
            digests = {
                recipe: [each.digest for each in evaluations]
                for recipe, evaluations in batch.evaluations(fingerprint).items()
            }
            batch.runs(fingerprint, digests)
            for recipe in part:
                yield batch.run(fingerprint, recipe)

    def run(self, fingerprint: str, recipe: str) -> Whole:
        """A run and its evaluations with digests, their long columns checked."""
        evaluations = [
            {**row, "digest": digest_of("evaluation", row)}
            for row in self._whole("evaluation", (fingerprint, recipe), "ORDER BY split, epoch")
        ]
        (run,) = self._whole("run", (fingerprint, recipe))
        digest = digest_of("run", run, [row["digest"] for row in evaluations])
        return {**run, "digest": digest}, evaluations

    def _whole(self, table: str, key: Sequence[str], order: str = "") -> list[StoredRow]:
        """The rows of a table with the beginning of a key."""
        columns = (*LIGHT[table], *HEAVY[table])
        where = " AND ".join(f"{name} = ?" for name in LIGHT[table][: len(key)])
        rows = []
        for *values, digest in self._select(
            table, (*columns, "digest"), f"WHERE {where} {order}", *key
        ):
            rows.append(dict(zip(columns, values, strict=True)))
            self._check_long(table, rows[-1], digest)
        return rows

    def _check_long(self, table: str, row: StoredRow, digest: Value) -> None:
        """Check the long columns of a row, first against its digest."""
        key = tuple(str(row[name]) for name in LIGHT[table][: KEYS[table]])
        if not same_heavy(table, key, [row[name] for name in HEAVY[table]], digest):
            self.heavy(table, key)  # which says so
        for column in HEAVY[table]:
            if row[column] is None and not has(1, table, column):
                continue  # from before the schema that added it
            try:
                LONG[column](row[column], key, lambda: self.bank(key[0]))
            except Unexpected as problem:
                self.refuse(table, key, column, problem)

    def _select(
        self, table: str, columns: Sequence[str], rest: str, *values: Value
    ) -> sqlite3.Cursor:
        if self.between and table in ("run", "evaluation"):
            rest = rest.replace("WHERE", "WHERE recipe BETWEEN ? AND ? AND", 1)
            values = (*self.between, *values)
        return super()._select(table, columns, rest, *values)
