"""``results.sqlite``: one row per (bank, recipe), one more per split and epoch it was measured at.

SQLite in WAL mode: a killed sweep loses at most the group it was in, and readers see whole groups.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from featbank import errors
from featbank.bank import Bank
from stage2.engine.metrics import Evaluation
from stage2.methods.recipe import Recipe

SCHEMA = 3

_MIGRATIONS = (
    "ALTER TABLE evaluation ADD COLUMN details BLOB",
    "ALTER TABLE run ADD COLUMN traces BLOB",
)
"""What makes schema 2 of 1, and 3 of 2."""

APPLICATION = 0x66656174  # "feat", in the file's header

_TABLES = """
CREATE TABLE IF NOT EXISTS bank (
    fingerprint TEXT PRIMARY KEY,
    about TEXT NOT NULL            -- JSON: path, classes, training counts, rows of each split
);
CREATE TABLE IF NOT EXISTS run (
    bank TEXT NOT NULL REFERENCES bank,
    recipe TEXT NOT NULL,          -- hash of the settings and the seed
    id TEXT NOT NULL,              -- the configuration, whatever its seed
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parameters TEXT NOT NULL,      -- JSON: every setting but the seed
    status TEXT NOT NULL,          -- done, diverged
    selected_epoch INTEGER,
    curves TEXT NOT NULL,          -- JSON: one number per epoch
    seconds REAL NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    finished REAL NOT NULL,        -- Unix time
    traces BLOB,                   -- arrays over the epochs, safetensors; NULL where there are none
    PRIMARY KEY (bank, recipe)
);
CREATE TABLE IF NOT EXISTS evaluation (
    bank TEXT NOT NULL,
    recipe TEXT NOT NULL,
    split TEXT NOT NULL,
    epoch TEXT NOT NULL,           -- last, selected
    metrics TEXT NOT NULL,         -- JSON
    per_class BLOB NOT NULL,       -- float64 [K], percent, NaN where a class has no row
    correct BLOB NOT NULL,         -- bits [N], numpy.packbits
    details BLOB,                  -- arrays, safetensors; NULL where written under schema 1
    PRIMARY KEY (bank, recipe, split, epoch),
    FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE
);
"""


@dataclass(frozen=True)
class Run:
    """A stored run, with its metrics by (split, epoch); `recipe` hashes settings and seed."""

    recipe: str
    id: str
    name: str
    seed: int
    parameters: dict[str, Any]
    status: str
    metrics: dict[tuple[str, str], dict[str, float | None]]


class Store:
    """Results on disk; a context manager.

    Parameters
    ----------
    path
        The file.
    create
        Open it for writing: make it where it is absent, bring it to schema 3 where it is older. A
        file that is only read is left as it is.

    Raises
    ------
    ConfigError
        For a file that is missing, not a results file, or of a newer schema.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        self.path = Path(path)
        if not self.path.exists() and not create:
            raise errors.ConfigError(f"{self.path}: no such file. Make it with `featbank sweep`.")
        if not self.path.parent.is_dir():
            raise errors.ConfigError(f"{self.path.parent} is not a folder. Create it first.")
        try:
            self._db = sqlite3.connect(self.path, timeout=60)
            try:
                self._open(create)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.DatabaseError as error:
            raise errors.ConfigError(
                f"{self.path} is not a results file ({error}). Choose another name."
            ) from None

    def _open(self, create: bool) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        kind = self._db.execute("PRAGMA application_id").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if kind == APPLICATION:
            if create and self._schema() < SCHEMA:
                self._migrate()
            if (schema := self._schema()) > SCHEMA:
                raise errors.ConfigError(
                    f"{self.path} has results schema {schema}, this version reads {SCHEMA}. "
                    "Update featbank."
                )
        elif tables or kind or not create:
            raise errors.ConfigError(
                f"{self.path} is a database of something else. Choose another name."
            )
        else:
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._db:
                self._db.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION};"
                    f"PRAGMA user_version = {SCHEMA}; COMMIT;"
                )

    def _migrate(self) -> None:
        """Bring an older file to this schema, all steps or none."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            now = self._schema()  # another process may have taken steps meanwhile
            for schema, step in enumerate(_MIGRATIONS[now - 1 :], now + 1):
                self._db.execute(step)
                self._db.execute(f"PRAGMA user_version = {schema}")

    def _schema(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def add_bank(self, bank: Bank) -> None:
        """Remember what tables need to know of a bank; what was known of it is replaced."""
        about = {
            "path": str(bank.path),
            "num_classes": bank.num_classes,
            "dim": bank.dim,
            "class_names": bank.class_names,
            "train_counts": bank.train_counts.tolist(),
            "rows": {split: bank.rows(split) for split in bank.splits},
            "views": list(bank.views),
            "probed": [view for view in bank.views if bank.classifier(view) is None],
        }
        with self._db:
            self._db.execute(
                "INSERT INTO bank VALUES (?, ?) "
                "ON CONFLICT (fingerprint) DO UPDATE SET about = excluded.about",
                (bank.fingerprint, json.dumps(about)),
            )

    def add_runs(self, fingerprint: str, runs: Iterable[Mapping[str, Any]]) -> None:
        """Store finished runs, all or none: mappings with ``recipe``, ``status``,
        ``selected_epoch``, ``curves``, ``seconds``, ``device``, ``versions``, ``evaluations``, and
        ``traces`` where there are some (arrays by name, first axis the epochs)."""
        with self._db:
            for run in runs:
                self._add(fingerprint, run)

    def _add(self, fingerprint: str, run: Mapping[str, Any]) -> None:
        recipe: Recipe = run["recipe"]
        key = (fingerprint, recipe.hash)
        self._db.execute("DELETE FROM run WHERE bank = ? AND recipe = ?", key)
        self._db.execute(
            "INSERT INTO run (bank, recipe, id, name, seed, parameters, status, selected_epoch, "
            "curves, seconds, device, versions, finished, traces) "
            f"VALUES ({', '.join('?' * 14)})",
            (
                *key,
                recipe.id,
                recipe.name,
                recipe.seed,
                json.dumps(recipe.parameters),
                run["status"],
                run["selected_epoch"],
                json.dumps(run["curves"]),
                run["seconds"],
                run["device"],
                json.dumps(run["versions"]),
                time.time(),
                _packed(traces) if (traces := run.get("traces")) else None,
            ),
        )
        evaluations: Mapping[tuple[str, str], Evaluation] = run["evaluations"]
        for (split, epoch), evaluation in evaluations.items():
            self._db.execute(
                "INSERT INTO evaluation (bank, recipe, split, epoch, metrics, per_class, correct, "
                "details) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *key,
                    split,
                    epoch,
                    json.dumps(evaluation.metrics),
                    evaluation.per_class.astype("<f8").tobytes(),
                    np.packbits(evaluation.correct).tobytes(),
                    _packed(evaluation.details),
                ),
            )

    def finished(self, fingerprint: str) -> set[str]:
        """Hashes of the recipes that have a result on this bank."""
        rows = self._db.execute("SELECT recipe FROM run WHERE bank = ?", (fingerprint,))
        return {recipe for (recipe,) in rows}

    def banks(self) -> dict[str, dict[str, Any]]:
        """What is known of every bank, by fingerprint."""
        rows = self._db.execute("SELECT fingerprint, about FROM bank ORDER BY rowid")
        return {fingerprint: json.loads(about) for fingerprint, about in rows}

    def one_bank(self, prefix: str | None = None) -> tuple[str, dict[str, Any]]:
        """Fingerprint and record of the one bank whose fingerprint begins with `prefix`.

        Raises
        ------
        ConfigError
            Where none or several do.
        """
        banks = self.banks()
        found = [f for f in banks if f.startswith(prefix or "")]
        if len(found) != 1:
            names = ", ".join(f"{f[:12]} ({about['path']})" for f, about in banks.items()) or "none"
            problem = "matches" if prefix else "holds results of"
            raise errors.ConfigError(
                f"{self.path}: {prefix or 'the file'} {problem} {len(found)} banks. "
                f"Choose one with --bank: {names}."
            )
        return found[0], banks[found[0]]

    def runs(self, fingerprint: str) -> list[Run]:
        """All runs on a bank with their metrics."""
        with closing(self._db.cursor()) as cursor:
            metrics: dict[str, dict[tuple[str, str], dict[str, float | None]]] = {}
            for recipe, split, epoch, values in cursor.execute(
                "SELECT recipe, split, epoch, metrics FROM evaluation WHERE bank = ?",
                (fingerprint,),
            ):
                metrics.setdefault(recipe, {})[split, epoch] = json.loads(values)
            rows = cursor.execute(
                "SELECT recipe, id, name, seed, parameters, status FROM run WHERE bank = ? "
                "ORDER BY name, id, seed",
                (fingerprint,),
            ).fetchall()
        return [
            Run(recipe, id_, name, seed, json.loads(parameters), status, metrics.get(recipe, {}))
            for recipe, id_, name, seed, parameters, status in rows
        ]

    def configurations(self, fingerprint: str) -> dict[str, list[Run]]:
        """The runs of each configuration on a bank, by its id and in the order of their seeds."""
        found: dict[str, list[Run]] = {}
        for run in self.runs(fingerprint):
            found.setdefault(run.id, []).append(run)
        return found

    def traces(self, fingerprint: str, recipe: str) -> dict[str, np.ndarray]:
        """What a run kept of its epochs, by name; none under schemas 1 and 2.

        ``beta`` [epochs, K] float32 is the β that an adaptive generator made each epoch's rows
        with, NaN for classes without one; its first row is where it started.
        """
        if self._schema() < 3:
            return {}
        (data,) = self._db.execute(
            "SELECT traces FROM run WHERE bank = ? AND recipe = ?", (fingerprint, recipe)
        ).fetchone()
        return {} if data is None else load(data)

    def correct(self, fingerprint: str, recipe: str, split: str, epoch: str) -> np.ndarray:
        """Whether a recipe classified each row of a split correctly, [N] bool."""
        bits = self._blob("correct", fingerprint, recipe, split, epoch)
        rows = self.banks()[fingerprint]["rows"][split]
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=rows).astype(bool)

    def details(
        self, fingerprint: str, recipe: str, split: str, epoch: str
    ) -> dict[str, np.ndarray]:
        """The arrays of an evaluation, `stage2.engine.metrics.DETAILS`; none under schema 1."""
        if self._schema() == 1:
            return {}
        data = self._blob("details", fingerprint, recipe, split, epoch)
        return {} if data is None else load(data)

    def _blob(self, column: str, *place: str) -> Any:
        (data,) = self._db.execute(
            f"SELECT {column} FROM evaluation "
            "WHERE bank = ? AND recipe = ? AND split = ? AND epoch = ?",
            place,
        ).fetchone()
        return data

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as safetensors, which takes bytes as they lie: a view would come back scrambled."""
    return save({name: np.asarray(values, order="C") for name, values in arrays.items()})
