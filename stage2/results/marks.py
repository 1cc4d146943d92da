"""Marks of shards in a results file: of which sweep on a bank it holds which parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from featbank import errors
from featbank.wording import listed
from stage2.results.database import Database
from stage2.results.digests import Value
from stage2.results.rows import digest_of
from stage2.results.schema import LIGHT, has, schema_of
from stage2.results.store import insertion


@dataclass(frozen=True)
class Mark:
    """A shard of a sweep on a bank.

    Attributes
    ----------
    bank
        The bank's fingerprint.
    plan
        Digest of the sweep and its partition (`stage2.executors.shards.Part`).
    number, count
        It is the `number`-th of `count`, from 1.
    done
        1 where it was swept to its end, else 0.
    """

    bank: str
    plan: str
    number: int
    count: int
    done: int = 0


def write(database: sqlite3.Connection, mark: Mark) -> None:
    """Write a mark in place of an earlier one of the shard."""
    key = (mark.bank, mark.plan, mark.number)
    database.execute("DELETE FROM shard WHERE bank = ? AND plan = ? AND number = ?", key)
    row: dict[str, Value] = asdict(mark)
    database.execute(*insertion("shard", {**row, "digest": digest_of("shard", row)}))


def read(database: sqlite3.Connection, path: Path) -> list[Mark]:
    """The marks of a file, in order; none before schema 7.

    Raises
    ------
    ConfigError
        Where a mark is damaged; `path` names the file.
    """
    if not has(schema_of(database), "shard", "digest"):
        return []
    columns = LIGHT["shard"]
    rows = database.execute(f"SELECT {', '.join(columns)}, digest FROM shard ORDER BY 1, 2, 3")
    marks = []
    for *values, digest in rows:
        row = dict(zip(columns, values, strict=True))
        numbers = [row[name] for name in ("number", "count", "done")]
        whole = all(type(value) is int for value in numbers)
        if not whole or not 1 <= row["number"] <= row["count"] or digest != digest_of("shard", row):
            raise errors.ConfigError(
                f"{path} is damaged: a row of its table 'shard' is not what was written. Copy the "
                "file again from where it came from, or sweep the shard again."
            )
        marks.append(Mark(**row))
    return marks


def check_plans(marks: Mapping[Path, Sequence[Mark]]) -> None:
    """Raise where files, by path, have shards of several sweeps on one bank."""
    first: dict[str, tuple[Path, Mark]] = {}
    for path, mark in ((path, mark) for path, of_file in marks.items() for mark in of_file):
        place, other = first.setdefault(mark.bank, (path, mark))
        if mark.plan != other.plan:
            raise errors.ConfigError(
                f"{path} has shard {mark.number} of {mark.count} of another sweep than shard "
                f"{other.number} of {other.count} in {place}: its recipes, search, folds or number "
                "of shards differ. Merge the shards of one sweep, or join the files all the same "
                "with --any."
            )


def gaps(marks: Sequence[Mark], names: Mapping[str, str]) -> list[str]:
    """A line on the shards of each sweep that are missing, or were not swept to their end; `names`
    are those of the banks by fingerprint. Nothing where no shard is."""
    sweeps: dict[tuple[str, str, int], dict[int, int]] = {}
    for mark in marks:
        sweeps.setdefault((mark.bank, mark.plan, mark.count), {})[mark.number] = mark.done
    lines = []
    for (bank, _, count), done in sweeps.items():
        numbers = {
            "missing": [n for n in range(1, count + 1) if n not in done],
            "not swept to the end": [n for n, whole in done.items() if not whole],
        }
        for problem, of in numbers.items():
            if of:
                are = "shard" if len(of) == 1 else "shards"
                lines.append(f"{names[bank]}: {are} {listed(of, 10)} of {count} {problem}")
    return lines


@contextmanager
def marked(file: Database, mark: Mark | None) -> Iterator[None]:
    """Mark a file as a shard's, and as done at the end unless there is an error; without a mark it
    is left as it is.

    Marks of other sweeps on the bank are removed: the file is this sweep's from now on.
    """
    if mark is None:
        yield
        return
    with file.write() as database:
        others = "DELETE FROM shard WHERE bank = ? AND plan <> ?"
        database.execute(others, (mark.bank, mark.plan))
        write(database, replace(mark, done=0))
    yield
    with file.write() as database:
        write(database, replace(mark, done=1))
