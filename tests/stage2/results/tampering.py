"""Changes to a results file that its digests agree with, as another version might have written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from stage2.results.rows import digest_of
from stage2.results.schema import LIGHT, schema_of, tables_of


def change(path: Path, statement: str, values: tuple[Any, ...] = ()) -> None:
    """Run a statement on a results file and bring the digests of all rows up to date."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)
        renew(database)


def renew(database: sqlite3.Connection) -> None:
    """Bring the digests of all rows up to date."""
    database.row_factory = sqlite3.Row
    tables = [table for table in tables_of(schema_of(database)) if table in LIGHT]
    for table in reversed(tables):  # a run's digest is of those of its evaluations
        for row in database.execute(f"SELECT rowid AS number, * FROM {table}").fetchall():
            evaluations = []
            if table == "run":
                found = database.execute(
                    "SELECT digest FROM evaluation WHERE bank = ? AND recipe = ? "
                    "ORDER BY split, epoch",
                    (row["bank"], row["recipe"]),
                )
                evaluations = [digest for (digest,) in found]
            digest = digest_of(table, dict(row), evaluations)
            database.execute(
                f"UPDATE {table} SET digest = ? WHERE rowid = ?", (digest, row["number"])
            )
    database.row_factory = None
