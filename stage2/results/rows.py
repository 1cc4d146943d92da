"""The rows of a results file, checked as they are read: content first, then digest.

A damaged row is one error that names the run, the column and the remedy. Rows from before schema 5
have no digest: of them the content is checked, and that a run's hashes are those of its settings.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from featbank import errors
from featbank.bank.schema import EVALUATED
from stage2.results import content
from stage2.results.digests import HALF, Value, heavy_digest, light_digest
from stage2.results.schema import HEAVY, KEYS, LIGHT, has, schema_of

_CHANGED = "is not what was written"
_COPY = "opy the file again from where it came from"

_RUN: dict[str, Callable[[Any], Any]] = {
    "recipe": content.digits,
    "id": content.text,
    "name": content.text,
    "seed": content.seed,
    "parameters": content.parameters,
    "status": content.status,
    "selected_epoch": content.epoch,
    "seconds": content.number,
    "device": content.text,
    "versions": content.versions,
    "finished": content.number,
}
"""What the columns of a run may hold."""


_IDENTITY = ("recipe", "id", "name", "seed", "parameters")
_BY_PLACE = "ORDER BY recipe, split, epoch"


class Evaluated(NamedTuple):
    """Where a run was evaluated, its metrics there, and the row's digest."""

    place: tuple[str, str]
    metrics: dict[str, float | None]
    digest: Value


@dataclass(frozen=True)
class RunRow:
    """The columns of a run that tables need; `recipe` hashes settings and seed, `versions` names
    the libraries that had a part in it."""

    recipe: str
    id: str
    name: str
    seed: int
    parameters: dict[str, Any]
    status: str
    versions: Mapping[str, str]


def digest_of(table: str, row: Mapping[str, Value], evaluations: Sequence[Value] = ()) -> bytes:
    """The digest of a row [64 bytes], given by column; of a run with those of its `evaluations`."""
    light = [row[column] for column in LIGHT[table]]
    heavy = heavy_digest(table, light[: KEYS[table]], [row[column] for column in HEAVY[table]])
    return light_digest(table, light, heavy, evaluations) + heavy


@dataclass(frozen=True)
class Rows:
    """The rows of a results file.

    Parameters
    ----------
    database
        Its connection.
    path
        What errors call it.
    """

    database: sqlite3.Connection
    path: Path

    def banks(self) -> dict[str, dict[str, Any]]:
        """What is known of every bank, by fingerprint."""
        found = {}
        for *light, digest in self._select("bank", (*LIGHT["bank"], "digest"), "ORDER BY rowid"):
            column = "fingerprint"
            try:
                fingerprint = content.digits(light[0])
                column = "about"
                found[fingerprint] = content.about(light[1])
                column = ""
                _compare("bank", light, digest)
            except content.Unexpected as wrong:
                self._refuse_bank(light[0], column, wrong)
        return found

    def bank(self, fingerprint: str) -> dict[str, Any]:
        """What is known of one bank."""
        banks = self.banks()
        if fingerprint not in banks:
            raise self._absent(f"bank {fingerprint[:12]}")
        return banks[fingerprint]

    def labels(self, fingerprint: str, split: str) -> np.ndarray | None:
        """The labels of val or test of a bank, int32 [N]; None where written before schema 4."""
        known = self.bank(fingerprint)
        row = self._row("bank", ("labels", "digest"), (fingerprint,))
        try:
            _compare_heavy("bank", (fingerprint,), row[:1], row[1])
            labels = None if row[0] is None else content.labels(row[0], known)
        except content.Unexpected as wrong:
            self._refuse_bank(fingerprint, "labels", wrong)
        if labels is not None and split not in labels:
            raise self._absent(f"{split} of bank {fingerprint[:12]}")
        return None if labels is None else labels[split]

    def evaluations(self, fingerprint: str) -> dict[str, list[Evaluated]]:
        """The metrics of every evaluation on a bank, by recipe, in the order of their places."""
        found: dict[str, list[Evaluated]] = {}
        columns = (*LIGHT["evaluation"], "digest")
        for row in self._select("evaluation", columns, f"WHERE bank = ? {_BY_PLACE}", fingerprint):
            light, digest = row[:-1], row[-1]
            _, recipe, split, epoch, metrics = light
            try:
                own = content.metrics(metrics)
                if split not in EVALUATED or epoch not in content.EPOCHS:
                    raise content.Unexpected("has no split and epoch that are measured")
                _compare("evaluation", light, digest)
            except content.Unexpected as wrong:
                self._refuse_evaluation(row[:4], "metrics", wrong)
            found.setdefault(recipe, []).append(Evaluated((split, epoch), own, digest))
        return found

    def digests(self, fingerprint: str) -> dict[str, list[Value]]:
        """The digests of every recipe's evaluations on a bank, in the order of their places."""
        found: dict[str, list[Value]] = {}
        for recipe, digest in self._select(
            "evaluation", ("recipe", "digest"), f"WHERE bank = ? {_BY_PLACE}", fingerprint
        ):
            found.setdefault(recipe, []).append(digest)
        return found

    def runs(self, fingerprint: str, digests: Mapping[str, Sequence[Value]]) -> list[RunRow]:
        """The runs on a bank, by name, id and seed; `digests` are those of their evaluations."""
        found = []
        columns = (*LIGHT["run"], "digest")
        rest = "WHERE bank = ? ORDER BY name, id, seed"
        for *light, digest in self._select("run", columns, rest, fingerprint):
            row = dict(zip(LIGHT["run"], light, strict=True))
            evaluations = digests.get(row["recipe"], ())
            column = ""
            try:
                for column, check in _RUN.items():
                    row[column] = check(row[column])
                column = "status"
                if row["status"] == "done" and not evaluations:
                    raise content.Unexpected("is done, but no evaluation is there")
                column = "recipe"
                if digest is None:
                    content.identity(*(row[column] for column in _IDENTITY))
                column = ""
                _compare("run", light, digest, evaluations)
            except content.Unexpected as wrong:
                self._refuse_run(light[2], light[4], column, wrong)
            found.append(RunRow(**{name: row[name] for name in RunRow.__annotations__}))
        return found

    def of_run(self, fingerprint: str, recipe: str, column: str) -> Any:
        """The ``curves`` or ``traces`` of a run."""
        key = (fingerprint, recipe)
        *heavy, digest, id_, seed = self._row("run", (*HEAVY["run"], "digest", "id", "seed"), key)
        value = heavy[HEAVY["run"].index(column)]
        try:
            _compare_heavy("run", key, heavy, digest)
            if column == "curves":
                return content.curves(value)
            return {} if value is None else content.traces(value, self.bank(fingerprint))
        except content.Unexpected as wrong:
            self._refuse_run(id_, seed, column, wrong)

    def of_evaluation(self, place: tuple[str, str, str, str], column: str) -> Any:
        """The ``per_class``, ``correct`` or ``details`` of an evaluation."""
        *heavy, digest = self._row("evaluation", (*HEAVY["evaluation"], "digest"), place)
        value = heavy[HEAVY["evaluation"].index(column)]
        known = self.bank(place[0])
        try:
            _compare_heavy("evaluation", place, heavy, digest)
            if column == "per_class":
                return content.per_class(value, known)
            if column == "correct":
                return content.correct(value, known["rows"].get(place[2], 0))
            return {} if value is None else content.details(value, known)
        except content.Unexpected as wrong:
            self._refuse_evaluation(place, column, wrong)

    def check(self) -> None:
        """Raise for the first row of a table that is damaged, and for rows that belong to none."""
        for fingerprint in self.banks():
            found = self.evaluations(fingerprint)
            self.runs(fingerprint, {r: [each.digest for each in own] for r, own in found.items()})

    def check_references(self) -> None:
        """Raise for a run of a bank, or an evaluation of a run, that the file does not have."""
        found = self.database.execute("PRAGMA foreign_key_check").fetchone()
        if not found:
            return
        self.check()  # a key that was changed: its row says more
        table, rowid, parent, _ = found
        row = self.database.execute(
            f"SELECT bank, {'id, seed' if table == 'run' else 'recipe, split'} FROM {table} "
            "WHERE rowid = ?",
            (rowid,),
        ).fetchone()
        raise errors.ConfigError(
            f"{self.path} is damaged: it has a row of {table} ({', '.join(map(_told, row))}) whose "
            f"{parent} is not there. C{_COPY}, or sweep into another one."
        )

    def unchecked(self) -> int:
        """How many runs have no digest, as they were written before schema 5."""
        where = "WHERE digest IS NULL" if self._has("run", "digest") else ""
        return self.database.execute(f"SELECT count(*) FROM run {where}").fetchone()[0]

    def _has(self, table: str, column: str) -> bool:
        return has(schema_of(self.database), table, column)

    def _select(
        self, table: str, columns: Sequence[str], rest: str, *values: Value
    ) -> sqlite3.Cursor:
        """Rows of a table; columns that its schema lacks are None."""
        known = [name if self._has(table, name) else "NULL" for name in columns]
        return self.database.execute(f"SELECT {', '.join(known)} FROM {table} {rest}", values)

    def _row(self, table: str, columns: Sequence[str], key: Sequence[str]) -> tuple[Any, ...]:
        """The one row of a key."""
        where = " AND ".join(f"{name} = ?" for name in LIGHT[table][: len(key)])
        row = self._select(table, columns, f"WHERE {where}", *key).fetchone()
        if row is None:
            raise self._absent(f"{table} {', '.join(part[:12] for part in key)}")
        return row

    def _absent(self, what: str) -> errors.ConfigError:
        return errors.ConfigError(f"{self.path} has no results of {what}. Sweep it first.")

    def _refuse_bank(self, fingerprint: Any, column: str, wrong: Exception) -> NoReturn:
        again = "weep into another one" if column == "fingerprint" else "weep this bank again"
        raise errors.ConfigError(
            f"{self.path}: the row of bank {_told(fingerprint)[:12]} is damaged: "
            f"{_column(column)}{wrong}. S{again}, or c{_COPY}."
        )

    def _refuse_run(
        self, id_: Any, seed: Any, column: str, wrong: Exception, *, of: str = ""
    ) -> NoReturn:
        raise errors.ConfigError(
            f"{self.path}: run {_told(id_)}, seed {_told(seed)}, is damaged: "
            f"{_column(column)}{of}{wrong}. Sweep it again with --force, or c{_COPY}."
        )

    def _refuse_evaluation(self, place: Sequence[Any], column: str, wrong: Exception) -> NoReturn:
        bank, recipe, split, epoch = place
        id_, seed = self.database.execute(
            "SELECT id, seed FROM run WHERE bank = ? AND recipe = ?", (bank, recipe)
        ).fetchone() or (f"of recipe {_told(recipe)[:12]}", "unknown")
        of = f"of {_told(split)}, {_told(epoch)} epoch, "
        self._refuse_run(id_, seed, column, wrong, of=of)


def _compare(
    table: str, light: Sequence[Value], digest: Any, evaluations: Sequence[Value] = ()
) -> None:
    """Compare a row with the first half of its digest; one without has evaluations without."""
    if digest is None:
        same = not any(evaluations)
    else:
        same = all(map(_is_digest, (digest, *evaluations))) and digest[:HALF] == light_digest(
            table, light, digest[HALF:], evaluations
        )
    if not same:
        raise content.Unexpected(_CHANGED)


def _compare_heavy(table: str, key: Sequence[str], heavy: Sequence[Value], digest: Any) -> None:
    """Compare a row's arrays with the second half of its digest, where it has one."""
    if digest is not None and not (
        _is_digest(digest) and digest[HALF:] == heavy_digest(table, key, heavy)
    ):
        raise content.Unexpected(_CHANGED)


def _is_digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 2 * HALF


def _column(name: str) -> str:
    return f"column {name} " if name else "its row "


def _told(value: Any) -> str:
    """A value that may be anything, on one line."""
    plain = isinstance(value, str) and value.isprintable() and len(value) < 100
    return value if plain else ascii(value)[:60]
