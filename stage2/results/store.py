"""``results.sqlite``: one row per (bank, recipe), one more per split and epoch it was measured at.

The tables and what protects them are in `stage2.results.schema`.
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
from stage2.results.protocol import coverage
from stage2.results.schema import open_database, refusal, schema_of


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
        Open it for writing: make it where it is absent, bring it to schema 4 where it is older. A
        file that is only read is left as it is.

    Raises
    ------
    ConfigError
        For a file that is missing, torn, not a results file, or of a newer schema. Leaving the
        store by an error of SQLite's raises what `stage2.results.schema.refusal` makes of it.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        self.path = Path(path)
        if not self.path.exists() and not create:
            raise errors.ConfigError(f"{self.path}: no such file. Make it with `featbank sweep`.")
        if not self.path.parent.is_dir():
            raise errors.ConfigError(f"{self.path.parent} is not a folder. Create it first.")
        self._db = open_database(self.path, create=create)

    def add_bank(self, bank: Bank) -> None:
        """Remember what tables need to know of a bank; what was known of it is replaced."""
        about = {
            "path": str(bank.path),
            "num_classes": bank.num_classes,
            "dim": bank.dim,
            "class_names": bank.class_names,
            "train_counts": bank.train_counts.tolist(),
            "full_counts": bank.full_counts.tolist(),
            "rows": {split: bank.rows(split) for split in bank.splits},
            "views": list(bank.views),
            "seen": {split: int(bank.seen(split).sum()) for split in bank.splits},
            "probed": [view for view in bank.views if bank.classifier(view) is None],
        }
        labels = {split: bank.labels(split).astype(np.int32) for split in bank.evaluated}
        about |= coverage(labels, bank.train_counts)
        with self._db:
            self._db.execute(
                "INSERT INTO bank (fingerprint, about, labels) VALUES (?, ?, ?) ON CONFLICT "
                "(fingerprint) DO UPDATE SET about = excluded.about, labels = excluded.labels",
                (bank.fingerprint, json.dumps(about), _packed(labels)),
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

    def statuses(self, fingerprint: str) -> dict[str, str]:
        """``done``, ``diverged`` or ``stopped`` of every run on a bank, by its recipe's hash."""
        rows = self._db.execute("SELECT recipe, status FROM run WHERE bank = ?", (fingerprint,))
        return dict(rows)

    def finished(self, fingerprint: str, *, with_stopped: bool = True) -> set[str]:
        """Hashes of the recipes that have a result on a bank; those that halving stopped may not
        count."""
        statuses = self.statuses(fingerprint)
        return {r for r, status in statuses.items() if with_stopped or status != "stopped"}

    def made_with(self, fingerprint: str, library: str) -> set[str]:
        """Ids of the configurations in which a library had a part beside torch."""
        rows = self._db.execute(
            "SELECT DISTINCT id FROM run WHERE bank = ? AND json_extract(versions, ?) IS NOT NULL",
            (fingerprint, f"$.{library}"),
        )
        return {id_ for (id_,) in rows}

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
        if schema_of(self._db) < 3:
            return {}
        (data,) = self._db.execute(
            "SELECT traces FROM run WHERE bank = ? AND recipe = ?", (fingerprint, recipe)
        ).fetchone()
        return {} if data is None else load(data)

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """The labels of val or test of a bank, int64 [N]; None where written before schema 4."""
        if schema_of(self._db) < 4:
            return None
        (data,) = self._db.execute(
            "SELECT labels FROM bank WHERE fingerprint = ?", (fingerprint,)
        ).fetchone()
        return None if data is None else load(data)[split].astype(np.int64)

    def curves(self, fingerprint: str, recipe: str) -> dict[str, np.ndarray]:
        """The curves of a run by name, one number per epoch; see `stage2.engine.tile.Outcome`."""
        (curves,) = self._db.execute(
            "SELECT curves FROM run WHERE bank = ? AND recipe = ?", (fingerprint, recipe)
        ).fetchone()
        return {name: np.array(values, float) for name, values in json.loads(curves).items()}

    def per_class(self, fingerprint: str, recipe: str, split: str, epoch: str) -> np.ndarray:
        """Accuracy of each class in percent, float64 [K]; NaN for a class without rows."""
        return np.frombuffer(self._blob("per_class", fingerprint, recipe, split, epoch), "<f8")

    def correct(self, fingerprint: str, recipe: str, split: str, epoch: str) -> np.ndarray:
        """Whether a recipe classified each row of a split correctly, [N] bool."""
        bits = self._blob("correct", fingerprint, recipe, split, epoch)
        rows = self.banks()[fingerprint]["rows"][split]
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=rows).astype(bool)

    def details(
        self, fingerprint: str, recipe: str, split: str, epoch: str
    ) -> dict[str, np.ndarray]:
        """The arrays of an evaluation, `stage2.engine.metrics.DETAILS`; none under schema 1."""
        if schema_of(self._db) == 1:
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

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise refusal(self.path, error) from error


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as safetensors, which takes bytes as they lie: a view would come back scrambled."""
    return save({name: np.asarray(values, order="C") for name, values in arrays.items()})
