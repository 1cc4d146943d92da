"""``results.sqlite``: one row per (bank, recipe), one more per split and epoch it was measured at.

The tables are in `stage2.results.schema`, opening the file is in `stage2.results.database`, and
checking its rows in `stage2.results.rows`.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import save

from featbank import errors
from featbank.bank import Bank
from featbank.bank.schema import EVALUATED
from stage2.engine.metrics import Evaluation
from stage2.features.folds import Folds, fold_count, folds_of, is_folds
from stage2.methods.recipe import Recipe
from stage2.results.batches import Values
from stage2.results.classes import coverage
from stage2.results.database import Database
from stage2.results.digests import Value
from stage2.results.ensembles import EnsembleRecipe
from stage2.results.evidence import Evidence, EvidenceReader
from stage2.results.merging import merged, only_folds
from stage2.results.naming import described, matching_banks
from stage2.results.record import identity_of, record_of, summed
from stage2.results.rows import RunRow, StoredRows, digest_of
from stage2.results.tasks import open_runs
from stage2.results.tested import PART_ROWS, SOURCE_GROUP, Tested, splits_of

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run(RunRow):
    """A stored run with its metrics by (split, epoch)."""

    metrics: dict[tuple[str, str], Values]

    def measured_at(self, split: str, epoch: str) -> str:
        """An epoch, or ``last`` where the run has no selected one."""
        return epoch if (split, epoch) in self.metrics else "last"

    def has(self, split: str, epoch: str) -> bool:
        """Whether the run was measured on a split, at an epoch or instead at its last."""
        return (split, self.measured_at(split, epoch)) in self.metrics


class Store:
    """Results on disk; a context manager.

    Every row is checked as it is read (`stage2.results.rows`).

    Parameters
    ----------
    path
        The file, whatever its name; None for results in memory, which `close` drops.
    create
        Open it for writing: create it where it is absent, migrate it to schema 7 where it is older.
        A file that is only read is left as it is.

    Attributes
    ----------
    file
        The open database.

    Raises
    ------
    ConfigError
        For a file that is missing, damaged, not a results file, or of a newer schema; from the
        methods, for a row that is damaged or not there.
    OutputBusy, OSError
        Where the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, create: bool = False) -> None:
        self.path = Path("results in memory" if path is None else path)
        self.file = Database(None if path is None else self.path, create=create)
        if unchecked := self._read(StoredRows.unchecked):
            warnings.warn(unchecked)

    def add_bank(self, bank: Bank, folds: Folds | None = None) -> None:
        """Store the record of a bank, which tables need, and of `folds` of its train rows.

        An earlier record is replaced; the folds that it has are kept.
        """
        about = record_of(bank)
        measured = [split for split in EVALUATED if split in bank.splits]
        labels = {split: bank.labels(split).astype(np.int32) for split in measured}
        identities = {split: identity_of(bank, split) for split in measured}
        held_out: dict[str, np.ndarray] = {}
        with self.file.write() as database:
            earlier = StoredRows(database, self.path).earlier(bank.fingerprint)
            kept = filter(is_folds, earlier["rows"]) if earlier else ()
            for name in sorted({*kept, *([folds.name] if folds else [])}):
                dealt = folds or folds_of(bank, fold_count(name))
                # Whatever n, the rows that are held out are the same.
                labels[name] = dealt.labels[dealt.rows].astype(np.int32)
                about["rows"][name] = len(labels[name])
                identities[name] = identity_of(bank, name, dealt)
                held_out[name] = dealt.rows
            about |= {"identities": identities, **coverage(labels, bank.train_counts)}
            labels |= summed(about, bank, held_out)
            if earlier and earlier.get("parts", {}) != about.get("parts", {}):
                raise errors.ConfigError(
                    f"{self.path} has the rows of this bank one by one, where this version of "
                    "featbank sums them. Sweep into another file."
                )
            row: dict[str, Value] = {
                "fingerprint": bank.fingerprint,
                "about": json.dumps(about),
                "labels": packed(labels),
            }
            database.execute(
                "INSERT INTO bank (fingerprint, about, labels, digest) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (fingerprint) DO UPDATE SET about = excluded.about, "
                "labels = excluded.labels, digest = excluded.digest",
                (*row.values(), digest_of("bank", row)),
            )

    def add_runs(
        self, fingerprint: str, runs: Iterable[Mapping[str, Any]], *, instead_of: str | None = None
    ) -> None:
        """Store finished runs, all or none.

        A run takes the place of an earlier one of its recipe, but what folds measured stays beside
        what was measured after training on all rows (`stage2.results.merging`).

        Parameters
        ----------
        fingerprint
            The bank's.
        runs
            Mappings with ``recipe``, ``status``, ``selected_epoch``, ``curves``, ``seconds``,
            ``device``, ``versions``, ``evaluations``, and optionally ``traces`` (arrays by name,
            first axis the epochs).
        instead_of
            Name whose earlier runs on the bank are removed.
        """
        with self.file.write() as database:
            if instead_of is not None:
                key = (fingerprint, instead_of)
                database.execute("DELETE FROM run WHERE bank = ? AND name = ?", key)
            for run in runs:
                key = (fingerprint, run["recipe"].hash)
                row, evaluations = merged(
                    _run_row(key, run),
                    _evaluation_rows(key, run["evaluations"]),
                    StoredRows(database, self.path),
                )
                database.execute("DELETE FROM run WHERE bank = ? AND recipe = ?", key)
                database.execute(*insertion("run", row))
                for evaluation in evaluations:
                    database.execute(*insertion("evaluation", evaluation))

    def add_probe(self, row: Mapping[str, Value]) -> None:
        """Store a probe, given by its columns, in place of an earlier one with its settings."""
        with self.file.write() as database:
            key = row["bank"], row["probe"]
            database.execute("DELETE FROM probe WHERE bank = ? AND probe = ?", key)
            database.execute(*insertion("probe", {**row, "digest": digest_of("probe", row)}))

    def probes(self, fingerprint: str) -> dict[str, dict[str, Any]]:
        """The probes of a bank by the hash of their settings: every column but the classifier."""
        return self._read(lambda rows: rows.probes(fingerprint))

    def probe(self, fingerprint: str, settings: str) -> dict[str, np.ndarray]:
        """``weight`` [K, D] and ``bias`` [K] of a probe, by the hash of its settings."""
        return self._long("probe", (fingerprint, settings), "classifier")

    def statuses(self, fingerprint: str, folds: str | None = None) -> dict[str, str]:
        """``done``, ``diverged`` or ``stopped`` of the runs on a bank, by their recipes' hashes.

        They are those trained on all rows, or with the name of `folds` those trained on these.
        """

        def query(rows: StoredRows) -> dict[str, str]:
            runs = rows.runs(fingerprint, rows.digests(fingerprint))
            splits = rows.splits(fingerprint)
            return {
                run.recipe: run.status
                for run in runs
                if (
                    folds in splits.get(run.recipe, ())
                    if folds
                    else not only_folds(splits.get(run.recipe, ()))
                )
            }

        return self._read(query)

    def finished(
        self, fingerprint: str, *, with_stopped: bool = True, folds: str | None = None
    ) -> set[str]:
        """Hashes of the recipes with a result on a bank, also of those that halving stopped; with
        the name of `folds`, of those with a result of these."""
        statuses = self.statuses(fingerprint, folds)
        return {r for r, status in statuses.items() if with_stopped or status != "stopped"}

    def banks(self) -> dict[str, dict[str, Any]]:
        """The records of all banks by fingerprint."""
        return self._read(StoredRows.banks)

    def one_bank(self, wanted: str | None = None) -> tuple[str, dict[str, Any]]:
        """Fingerprint and record of the one bank that is meant.

        Parameters
        ----------
        wanted
            Its name, the name of its file, or the beginning of its fingerprint; None for the only
            bank of the file.

        Raises
        ------
        ConfigError
            Where none or several are.
        """
        banks = self.banks()
        matches = matching_banks(banks, wanted)
        if len(matches) != 1:
            problem = "matches" if wanted else "holds results of"
            raise errors.ConfigError(
                f"{self.path}: {wanted or 'the file'} {problem} {len(matches)} banks. "
                f"Choose one with --bank: {described(banks)}."
            )
        return matches[0], banks[matches[0]]

    def unmeasured_runs(self, fingerprint: str) -> list[RunRow]:
        """All runs on a bank, without their metrics."""
        return self._read(lambda rows: rows.runs(fingerprint, rows.digests(fingerprint)))

    def runs(self, fingerprint: str) -> list[Run]:
        """All runs on a bank with their metrics."""

        def query(rows: StoredRows) -> list[Run]:
            by_recipe = rows.evaluations(fingerprint)
            digests = {r: [each.digest for each in stored] for r, stored in by_recipe.items()}
            return [
                Run(
                    **vars(row), metrics={e.place: e.metrics for e in by_recipe.get(row.recipe, ())}
                )
                for row in rows.runs(fingerprint, digests)
            ]

        return self._read(query)

    def open_runs(self, fingerprint: str) -> set[str]:
        """Hashes of the recipes that a sweep on a bank has still to train, or did not come to."""
        return self.file.read(lambda database: open_runs(database, fingerprint))

    def traces(self, fingerprint: str, recipe: str) -> dict[str, np.ndarray]:
        """Arrays over the epochs of a run by name; none under schemas 1 and 2.

        ``beta`` [epochs, K] float32 is the β with which an adaptive generator made each epoch's
        rows, NaN for classes without one; its first row is the start.
        """
        return self._long("run", (fingerprint, recipe), "traces") or {}

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """The labels of val, test or folds of a bank, int64 [N], or of its parts; None where
        written before schema 4."""
        tested = self.tested(fingerprint, split)
        return None if tested is None else tested.labels

    def tested(self, fingerprint: str, split: str) -> Tested | None:
        """The rows of val, test or folds of a bank; None where written before schema 4."""
        arrays = self._long("bank", (fingerprint,), "labels")
        if arrays is None:
            return None
        if split not in splits_of(arrays):
            raise errors.ConfigError(
                f"{self.path} has no results of {split} of bank {fingerprint[:12]}. Sweep it first."
            )
        names = (split, f"{split}{SOURCE_GROUP}", f"{split}{PART_ROWS}")
        labels, *rest = (arrays[n].astype(np.int64) if n in arrays else None for n in names)
        assert labels is not None
        return Tested(labels, *rest)

    def curves(self, fingerprint: str, recipe: str) -> dict[str, np.ndarray]:
        """Curves of a run by name, one number per epoch; see `stage2.engine.outcome.Outcome`."""
        return self._long("run", (fingerprint, recipe), "curves")

    def per_class(self, fingerprint: str, recipe: str, split: str, epoch: str) -> np.ndarray:
        """Accuracy of each class in percent, float64 [K]; NaN for a class without rows."""
        return self._long("evaluation", (fingerprint, recipe, split, epoch), "per_class")

    def correct(self, fingerprint: str, recipe: str, split: str, epoch: str) -> np.ndarray:
        """Whether a recipe classified each row of a split correctly, [N] bool; of a split in parts
        the right rows of each, [M] int32."""
        return self._long("evaluation", (fingerprint, recipe, split, epoch), "correct")

    def evidence(
        self,
        fingerprint: str,
        split: str,
        runs: Sequence[Sequence[tuple[str, str]]],
        *,
        with_losses: int = 0,
    ) -> Evidence:
        """The evidence by which choosing compares configurations on a split, as of
        `stage2.results.evidence.EvidenceReader.read`."""
        return self._read(
            lambda rows: EvidenceReader(rows, fingerprint, split).read(
                runs, with_losses=with_losses
            )
        )

    def details(
        self, fingerprint: str, recipe: str, split: str, epoch: str
    ) -> dict[str, np.ndarray]:
        """The arrays of an evaluation, `stage2.engine.details.DETAILS`; none under schema 1."""
        return self._long("evaluation", (fingerprint, recipe, split, epoch), "details") or {}

    def _long(self, table: str, key: tuple[str, ...], column: str) -> Any:
        return self._read(lambda rows: rows.long(table, key, column))

    def _read(self, query: Callable[[StoredRows], Result]) -> Result:
        return self.file.read(lambda database: query(StoredRows(database, self.path)))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()


def _run_row(key: tuple[str, str], run: Mapping[str, Any]) -> dict[str, Value]:
    """A run as its table stores it, without its digest."""
    recipe: Recipe | EnsembleRecipe = run["recipe"]
    traces = run.get("traces")
    return {
        "bank": key[0],
        "recipe": key[1],
        "id": recipe.id,
        "name": recipe.name,
        "seed": recipe.seed,
        "parameters": json.dumps(recipe.parameters),
        "status": run["status"],
        "selected_epoch": run["selected_epoch"],
        "seconds": float(run["seconds"]),
        "device": run["device"],
        "versions": json.dumps(run["versions"]),
        "finished": time.time(),
        "curves": json.dumps(run["curves"]),
        "traces": packed(traces) if traces else None,
    }


def _evaluation_rows(
    key: tuple[str, str], evaluations: Mapping[tuple[str, str], Evaluation]
) -> list[dict[str, Value]]:
    """A run's evaluations as their table stores them, in the order of the run's digest."""
    return [
        {
            "bank": key[0],
            "recipe": key[1],
            "split": split,
            "epoch": epoch,
            "metrics": json.dumps(evaluation.metrics),
            "per_class": evaluation.per_class.astype("<f8").tobytes(),
            "correct": _correct(evaluation.correct),
            "details": packed(evaluation.details),
        }
        for (split, epoch), evaluation in sorted(evaluations.items())
    ]


def _correct(correct: np.ndarray) -> bytes:
    """Bits of the rows [N] bool, or the right rows of each part [M]."""
    bits = correct.dtype == bool
    return np.packbits(correct).tobytes() if bits else correct.astype("<i4").tobytes()


def insertion(table: str, row: Mapping[str, Value]) -> tuple[str, tuple[Value, ...]]:
    """The statement that inserts a row, given with its digest, and its values."""
    places = ", ".join("?" * len(row))
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", (*row.values(),)


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as safetensors, made contiguous: it takes memory as is, which scrambles a view."""
    return save({name: np.asarray(values, order="C") for name, values in arrays.items()})
