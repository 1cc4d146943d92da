"""The rows of a results file, checked as they are read: content first, then digest.

A damaged row is one error that names the run, the column and the remedy. Rows from before schema 5
have no digest: their content is checked, and that a run's hashes are those of its settings.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from featbank import errors
from stage2.methods.recipe import settings_hash
from stage2.results import content
from stage2.results.batches import Values, batches, metrics_of, one_metrics, settings_of
from stage2.results.columns import LONG, PROBE, RUN
from stage2.results.digests import Value, heavy_digest, light_digest, same_heavy, same_light
from stage2.results.schema import HEAVY, KEYS, LIGHT, has, schema_of

_CHANGED = "is not what was written"
_COPY = "opy the file again from where it came from"

_IDENTITY = ("recipe", "id", "name", "seed", "parameters")
_BY_PLACE = "ORDER BY recipe, split, epoch"


class StoredEvaluation(NamedTuple):
    """The split and epoch of an evaluation, its metrics, and the digest of its row."""

    place: tuple[str, str]
    metrics: Values
    digest: Value


@dataclass(frozen=True)
class RunRow:
    """The columns of a run that tables need; `recipe` hashes settings and seed, `seconds` are its
    share of its group's, `versions` has the libraries that took part."""

    recipe: str
    id: str
    name: str
    seed: int
    parameters: dict[str, Any]
    status: str
    seconds: float
    device: str
    versions: Mapping[str, str]


_OF_RUN = tuple(RunRow.__annotations__)


def digest_of(table: str, row: Mapping[str, Value], evaluations: Sequence[Value] = ()) -> bytes:
    """The digest of a row [64 bytes], given by column; of a run with those of its `evaluations`."""
    light = [row[column] for column in LIGHT[table]]
    heavy = heavy_digest(table, light[: KEYS[table]], [row[column] for column in HEAVY[table]])
    return light_digest(table, light, heavy, evaluations) + heavy


@dataclass(frozen=True)
class StoredRows:
    """The rows of a results file.

    Parameters
    ----------
    database
        Its connection.
    path
        Its name in errors.
    """

    database: sqlite3.Connection
    path: Path

    def banks(self) -> dict[str, dict[str, Any]]:
        """The records of all banks by fingerprint."""
        records = {}
        for *light, digest in self._select("bank", (*LIGHT["bank"], "digest"), "ORDER BY rowid"):
            column = "fingerprint"
            try:
                fingerprint = content.digits(light[0])
                column = "about"
                records[fingerprint] = content.about(light[1])
                column = ""
                _require(same_light("bank", light, digest))
            except content.Unexpected as problem:
                self._refuse_bank(light[0], column, problem)
        return records

    def bank(self, fingerprint: str) -> dict[str, Any]:
        """The record of one bank."""
        if fingerprint not in self._records:
            raise self._absent(f"bank {fingerprint[:12]}")
        return self._records[fingerprint]

    def earlier(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of a bank; None where it is not there or damaged."""
        for (text,) in self._select("bank", ("about",), "WHERE fingerprint = ?", fingerprint):
            with contextlib.suppress(content.Unexpected):
                return content.about(text)
        return None

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        """`banks`, once for all rows of a query."""
        return self.banks()

    def evaluations(self, fingerprint: str) -> dict[str, list[StoredEvaluation]]:
        """The evaluations on a bank by recipe, in the order of their places."""
        by_recipe: dict[str, list[StoredEvaluation]] = {}
        columns = (*LIGHT["evaluation"], "digest")
        rows = self._select("evaluation", columns, f"WHERE bank = ? {_BY_PLACE}", fingerprint)
        places: dict[tuple[str, str], tuple[str, str]] = {}
        for batch in batches(rows, columns.index("metrics")):
            decoded = metrics_of([row[4] for row in batch])
            for row, known in zip(batch, decoded, strict=True):
                _, recipe, split, epoch, text, digest = row
                try:
                    metrics = one_metrics(text) if known is None else known
                    if (place := places.get((split, epoch))) is None:
                        if not content.measurable(split) or epoch not in content.EPOCHS:
                            raise content.Unexpected("has no split and epoch that are measured")
                        place = places[split, epoch] = (split, epoch)
                    _require(same_light("evaluation", row[:-1], digest))
                except content.Unexpected as problem:
                    self.refuse("evaluation", row[:4], "metrics", problem)
                evaluation = StoredEvaluation(place, metrics, digest)
                by_recipe.setdefault(recipe, []).append(evaluation)
        return by_recipe

    def digests(self, fingerprint: str) -> dict[str, list[Value]]:
        """The digests of the evaluations on a bank by recipe, in the order of their places."""
        by_recipe: dict[str, list[Value]] = {}
        for recipe, digest in self._select(
            "evaluation", ("recipe", "digest"), f"WHERE bank = ? {_BY_PLACE}", fingerprint
        ):
            by_recipe.setdefault(recipe, []).append(digest)
        return by_recipe

    def runs(self, fingerprint: str, digests: Mapping[str, Sequence[Value]]) -> list[RunRow]:
        """The runs on a bank, by name, id and seed; `digests` are those of their evaluations."""
        runs = []
        columns = (*LIGHT["run"], "digest")
        rows = self._select("run", columns, "WHERE bank = ? ORDER BY name, id, seed", fingerprint)
        place = columns.index("parameters")
        for batch in batches(rows, place):
            decoded = settings_of([row[place] for row in batch])
            runs += [
                self._run(light, digest, digests, settings)
                for (*light, digest), settings in zip(batch, decoded, strict=True)
            ]
        return runs

    def _run(
        self,
        light: list[Value],
        digest: Value,
        digests: Mapping[str, Sequence[Value]],
        settings: dict[str, Any] | None,
    ) -> RunRow:
        """A run from its columns and digest, and its settings where they are decoded already."""
        row: dict[str, Any] = dict(zip(LIGHT["run"], light, strict=True))
        evaluations = digests.get(row["recipe"], ())
        column = ""
        try:
            for column, check in RUN.items():
                if column != "parameters" or settings is None:
                    row[column] = check(row[column])
                else:
                    row[column] = settings
            column = "status"
            if row["status"] == "done" and not evaluations:
                raise content.Unexpected("is done, but no evaluation is there")
            column = "recipe"
            if digest is None:
                content.identity(*(row[column] for column in _IDENTITY))
            column = ""
            _require(same_light("run", light, digest, evaluations))
        except content.Unexpected as problem:
            self._refuse_run(light[2], light[4], column, problem)
        return RunRow(*(row[name] for name in _OF_RUN))

    def probes(self, fingerprint: str) -> dict[str, dict[str, Any]]:
        """The short columns of the probes of a bank by the hash of their settings."""
        if not self._has("probe", "digest"):
            return {}
        by_hash = {}
        columns = (*LIGHT["probe"], "digest")
        for *light, digest in self._select("probe", columns, "WHERE bank = ?", fingerprint):
            row = dict(zip(LIGHT["probe"], light, strict=True))
            column = ""
            try:
                for column, check in PROBE.items():
                    row[column] = check(row[column])
                column = "probe"
                if row["probe"] != settings_hash("probe", row["settings"]):
                    raise content.Unexpected("is not that of its settings")
                column = ""
                _require(same_light("probe", light, digest))
            except content.Unexpected as problem:
                self.refuse("probe", light[:2], column, problem)
            by_hash[row["probe"]] = row
        return by_hash

    def splits(self, fingerprint: str) -> dict[str, set[str]]:
        """The splits that each run on a bank was measured on, by recipe."""
        by_recipe: dict[str, set[str]] = {}
        rest = "WHERE bank = ?"
        for recipe, split in self._select("evaluation", ("recipe", "split"), rest, fingerprint):
            by_recipe.setdefault(recipe, set()).add(split)
        return by_recipe

    def stored(
        self, fingerprint: str, recipe: str
    ) -> tuple[dict[str, Value] | None, list[dict[str, Value]]]:
        """A run and its evaluations, every column as it is stored, in the order of their places.

        None and nothing where there is none, or where any of it is damaged.
        """
        found = {
            table: [
                dict(zip((*columns, "digest"), row, strict=True))
                for row in self._select(
                    table,
                    (*columns, "digest"),
                    f"WHERE bank = ? AND recipe = ? {order}",
                    fingerprint,
                    recipe,
                )
            ]
            for table, columns, order in (
                ("run", (*LIGHT["run"], *HEAVY["run"]), ""),
                ("evaluation", (*LIGHT["evaluation"], *HEAVY["evaluation"]), _BY_PLACE),
            )
        }
        evaluations = found["evaluation"]
        digests = [row["digest"] for row in evaluations]
        try:
            for table, rows in found.items():
                for row in rows:
                    light = [row[name] for name in LIGHT[table]]
                    heavy = [row[name] for name in HEAVY[table]]
                    of = digests if table == "run" else ()
                    _require(same_light(table, light, row["digest"], of))
                    _require(same_heavy(table, light[: KEYS[table]], heavy, row["digest"]))
        except content.Unexpected:
            return None, []
        return next(iter(found["run"]), None), evaluations

    def long(self, table: str, key: tuple[str, ...], column: str) -> Any:
        """Decode a long column of the row with a key; None where older schemas lacked it."""
        value = self.heavy(table, key, column)[column]
        if value is None and not has(1, table, column):
            return None
        try:
            return LONG[column](value, key, lambda: self.bank(key[0]))
        except content.Unexpected as problem:
            self.refuse(table, key, column, problem)

    def heavy(self, table: str, key: tuple[str, ...], column: str = "") -> dict[str, Value]:
        """The long columns of the row with a key, by name, as they were written; `column` in errors
        is the one that is wanted."""
        *values, digest = self._row(table, (*HEAVY[table], "digest"), key)
        if not same_heavy(table, key, values, digest):
            self.refuse(table, key, column or HEAVY[table][-1], content.Unexpected(_CHANGED))
        return dict(zip(HEAVY[table], values, strict=True))

    def check(self) -> None:
        """Raise for the first row of a table that is damaged, and for rows that belong to none."""
        for fingerprint in self.banks():
            evaluations = self.evaluations(fingerprint).items()
            self.runs(fingerprint, {r: [each.digest for each in rows] for r, rows in evaluations})
            self.probes(fingerprint)

    def check_references(self) -> None:
        """Raise for a run of a bank, or an evaluation of a run, that the file does not have."""
        orphan = self.database.execute("PRAGMA foreign_key_check").fetchone()
        if not orphan:
            return
        self.check()  # where a key was changed, the error of its row says more
        table, rowid, parent, _ = orphan
        shown = {"run": "id, seed", "evaluation": "recipe, split", "probe": "probe"}[table]
        row = self.database.execute(
            f"SELECT bank, {shown} FROM {table} WHERE rowid = ?", (rowid,)
        ).fetchone()
        raise errors.ConfigError(
            f"{self.path} is damaged: it has a row of {table} ({', '.join(map(_shown, row))}) "
            f"whose {parent} is not there. C{_COPY}, or sweep into another one."
        )

    def unchecked(self) -> str:
        """A line on runs without a digest, which were written before schema 5; empty without."""
        where = "WHERE digest IS NULL" if self._has("run", "digest") else ""
        (count,) = self.database.execute(f"SELECT count(*) FROM run {where}").fetchone()
        if not count:
            return ""
        return (
            f"{self.path}: runs written before results had digests are read unchecked; it has "
            f"{count} of them."
        )

    @cached_property
    def _schema(self) -> int:
        return schema_of(self.database)

    def _has(self, table: str, column: str) -> bool:
        return has(self._schema, table, column)

    def _select(
        self, table: str, columns: Sequence[str], rest: str, *values: Value
    ) -> sqlite3.Cursor:
        """Rows of a table; columns that its schema lacks are None."""
        return self.database.execute(self._sql(table, (*columns,), rest), values)

    @cached_property
    def _sql(self) -> Callable[[str, tuple[str, ...], str], str]:
        """The statement of a selection, by table, columns and the rest of it."""

        @cache
        def sql(table: str, columns: tuple[str, ...], rest: str) -> str:
            known = [name if self._has(table, name) else "NULL" for name in columns]
            return f"SELECT {', '.join(known)} FROM {table} {rest}"

        return sql

    def _row(self, table: str, columns: Sequence[str], key: Sequence[str]) -> tuple[Any, ...]:
        """The one row of a key."""
        where = " AND ".join(f"{name} = ?" for name in LIGHT[table][: len(key)])
        row = self._select(table, columns, f"WHERE {where}", *key).fetchone()
        if row is None:
            raise self._absent(f"{table} {', '.join(part[:12] for part in key)}")
        return row

    def _absent(self, row: str) -> errors.ConfigError:
        return errors.ConfigError(f"{self.path} has no results of {row}. Sweep it first.")

    def _refuse_bank(self, fingerprint: Any, column: str, problem: Exception) -> NoReturn:
        again = "weep into another one" if column == "fingerprint" else "weep this bank again"
        raise errors.ConfigError(
            f"{self.path}: the row of bank {_shown(fingerprint)[:12]} is damaged: "
            f"{_column(column)}{problem}. S{again}, or c{_COPY}."
        )

    def _refuse_run(
        self, id_: Any, seed: Any, column: str, problem: Exception, *, of: str = ""
    ) -> NoReturn:
        raise errors.ConfigError(
            f"{self.path}: run {_shown(id_)}, seed {_shown(seed)}, is damaged: "
            f"{_column(column)}{of}{problem}. Sweep it again with --force, or c{_COPY}."
        )

    def refuse(self, table: str, key: Sequence[Any], column: str, problem: Exception) -> NoReturn:
        """Raise for a row that is damaged."""
        if table == "bank":
            self._refuse_bank(key[0], column, problem)
        if table == "probe":
            raise errors.ConfigError(
                f"{self.path}: the row of probe {_shown(key[1])[:12]} is damaged: "
                f"{_column(column)}{problem}. Sweep its bank again to train it anew, or c{_COPY}."
            )
        id_, seed = self.database.execute(
            "SELECT id, seed FROM run WHERE bank = ? AND recipe = ?", key[:2]
        ).fetchone() or (f"of recipe {_shown(key[1])[:12]}", "unknown")
        of = f"of {_shown(key[2])}, {_shown(key[3])} epoch, " if table == "evaluation" else ""
        self._refuse_run(id_, seed, column, problem, of=of)


def _require(same: bool) -> None:
    """Raise where a row is not as its digest says."""
    if not same:
        raise content.Unexpected(_CHANGED)


def _column(name: str) -> str:
    return f"column {name} " if name else "its row "


def _shown(value: Any) -> str:
    """A value that may be anything, on one line."""
    plain = isinstance(value, str) and value.isprintable() and len(value) < 100
    return value if plain else ascii(value)[:60]
