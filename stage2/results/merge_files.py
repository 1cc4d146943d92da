"""Results files joined into one: the shards of a sweep, or sweeps of several machines.

A run that several files have is kept once, as the first of them has it; the output counts as the
first file. Figures of one run must agree as far as rounding allows (`stage2.results.agreement`).
What one file measured of a run on folds and another on all rows stays together
(`stage2.results.merging`).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from featbank import errors
from stage2.features.folds import is_folds
from stage2.results import content
from stage2.results.agreement import agree
from stage2.results.database import Database
from stage2.results.marks import Mark, check_plans, gaps, read, write
from stage2.results.merging import StoredRow, joined, only_folds
from stage2.results.naming import bank_names
from stage2.results.record import united
from stage2.results.rows import digest_of
from stage2.results.store import insertion
from stage2.results.whole import Whole, WholeRows

PREFER = ("first", "last")
"""The file whose figures of a run are kept where files contradict each other."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge.

    Attributes
    ----------
    runs
        Runs of the inputs.
    repeated
        Runs among them that the output had already, or an input before.
    contradictions
        A line on each run with other figures there.
    gaps
        A line on shards that are missing or were not swept to their end.
    """

    runs: int = 0
    repeated: int = 0
    contradictions: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


def merge_files(
    inputs: Sequence[Path],
    output: Path,
    *,
    prefer: str | None = None,
    any_sweep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Join results files, all or none.

    Parameters
    ----------
    inputs
        Results files of any schema; they are only read.
    output
        The results file to write; what it has already is kept.
    prefer
        Where files have other figures of a run, keep those of the ``first`` file, or the ``last``.
    any_sweep
        Join shards of several sweeps on a bank as well.
    progress
        Called with (runs done, runs to do).

    Raises
    ------
    ConfigError
        For an output among the inputs, a file that is damaged, shards of several sweeps without
        `any_sweep`, and figures of a run that contradict each other without `prefer`.
    OutputBusy, OSError
        Where the output cannot be written.
    """
    _check_names(inputs, output)
    known = [output] if output.exists() else []
    held = {path: _read(path, _held) for path in (*known, *inputs)}
    total = sum(held[path][0] for path in inputs)
    if not any_sweep:
        check_plans({path: marks for path, (_, marks) in held.items()})
    with _written(output) as rows:
        merge = _Merge(rows, inputs, prefer, lambda done: progress and progress(done, total))
        for number in range(len(inputs)):
            merge.add(number)
        lines = gaps(read(rows.database, output), bank_names(rows.banks()))
    return replace(merge.merged, gaps=tuple(lines))


def _check_names(inputs: Sequence[Path], output: Path) -> None:
    for path in inputs:
        with contextlib.suppress(OSError):
            if os.path.samefile(path, output):
                raise errors.ConfigError(
                    f"{output} is an input and the output. Leave it out of the inputs: what the "
                    "output has is kept."
                )


def _held(rows: WholeRows) -> tuple[int, list[Mark]]:
    """The number of runs in a file, and its marks of shards."""
    if unchecked := rows.unchecked():
        warnings.warn(unchecked)
    runs = rows.database.execute("SELECT count(*) FROM run").fetchone()[0]
    return runs, read(rows.database, rows.path)


def _read(path: Path, query: Callable[[WholeRows], Result]) -> Result:
    """The result of a query on a file."""
    with closing(Database(path, create=False)) as source:
        return source.read(lambda database: query(WholeRows(database, path)))


@contextlib.contextmanager
def _written(output: Path) -> Iterator[WholeRows]:
    """The rows of a file that is to be written, all changes or none; on an error a file that was
    not there is removed."""
    absent = not output.exists()
    try:
        with closing(Database(output, create=True)) as target, target.write() as database:
            yield WholeRows(database, output)
    except BaseException:
        if absent:
            output.unlink(missing_ok=True)
        raise


@dataclass
class _Merge:
    """A merge of inputs into the rows of the output."""

    into: WholeRows
    inputs: Sequence[Path]
    prefer: str | None
    progress: Callable[[int], object]
    merged: Merged = field(default_factory=Merged)

    def add(self, number: int) -> None:
        """Copy an input."""
        database, before = self.into.database, self.merged
        database.execute("SAVEPOINT input")

        def copy(rows: WholeRows) -> bool:
            database.execute("ROLLBACK TO input")  # a file that is written to is read once more
            self.merged, self.into = before, replace(self.into)
            for fingerprint in rows.banks():
                self._add_bank(rows, fingerprint)
                self.into = replace(self.into)  # which remembers the records that it has read
                self._add_probes(rows, fingerprint)
                for whole in rows.each_run(fingerprint):
                    self._add_run(number, whole)
                    self.progress(self.merged.runs)
            self._add_marks(rows)
            return True

        _read(self.inputs[number], copy)
        database.execute("RELEASE input")

    def _add_bank(self, rows: WholeRows, fingerprint: str) -> None:
        """Add the record of a bank, or its folds to that which is there."""
        theirs = rows.row("bank", fingerprint)
        assert theirs
        ours = self.into.row("bank", fingerprint)
        if ours is None:
            self._insert("bank", theirs)
            return
        try:
            both = united(ours, theirs)
        except errors.Mismatch as problem:
            raise errors.ConfigError(
                f"{rows.path} and {self.into.path}: bank {fingerprint[:12]} has {problem}. Leave "
                "out the file that is wrong."
            ) from None
        if both != ours:
            self.into.database.execute(
                "UPDATE bank SET about = ?, labels = ?, digest = ? WHERE fingerprint = ?",
                (both["about"], both["labels"], digest_of("bank", both), fingerprint),
            )

    def _add_probes(self, rows: WholeRows, fingerprint: str) -> None:
        """Add the probes of a bank that are not there yet."""
        for settings in rows.probes(fingerprint).keys() - self.into.probes(fingerprint).keys():
            probe = rows.row("probe", fingerprint, settings)
            assert probe
            self._insert("probe", probe)

    def _add_marks(self, rows: WholeRows) -> None:
        """Add the marks of shards; one is done where any file says so."""
        done = {
            replace(mark, done=0) for mark in read(self.into.database, self.into.path) if mark.done
        }
        for mark in read(rows.database, rows.path):
            if mark.done or replace(mark, done=0) not in done:
                write(self.into.database, mark)

    def _insert(self, table: str, row: StoredRow) -> None:
        digest = digest_of(table, row)
        self.into.database.execute(*insertion(table, {**row, "digest": digest}))

    def _add_run(self, number: int, theirs: Whole) -> None:
        """Add a run, or join it to that which is there."""
        key = str(theirs[0]["bank"]), str(theirs[0]["recipe"])
        run, evaluations = self.into.stored(*key)
        self.merged = replace(self.merged, runs=self.merged.runs + 1)
        if run is None:
            self._write(key, theirs)
            return
        self.merged = replace(self.merged, repeated=self.merged.repeated + 1)
        if run["digest"] == theirs[0]["digest"]:
            return
        ours = run, evaluations
        theirs_first = _is_stopped(ours) and not _is_stopped(theirs)
        if difference := _difference(ours, theirs, self.into.bank(key[0])):
            self._contradict(number, key, run, difference)
            theirs_first = self.prefer == "last"
        both = joined(*theirs, *ours) if theirs_first else joined(*ours, *theirs)
        if both[0]["digest"] != run["digest"]:
            self._write(key, both)

    def _write(self, key: tuple[str, str], whole: Whole) -> None:
        """Write a run and its evaluations in place of what is there of it."""
        run, evaluations = whole
        self.into.database.execute("DELETE FROM run WHERE bank = ? AND recipe = ?", key)
        self.into.database.execute(*insertion("run", run))
        for evaluation in evaluations:
            self.into.database.execute(*insertion("evaluation", evaluation))

    def _contradict(
        self, number: int, key: tuple[str, str], run: StoredRow, difference: str
    ) -> None:
        """Note that an input has other figures of a run; raise where no file is preferred."""

        def has(rows: WholeRows) -> bool:
            there = "SELECT count(*) FROM run WHERE bank = ? AND recipe = ?"
            return rows.database.execute(there, key).fetchone()[0] > 0

        first = next((p for p in self.inputs[:number] if _read(p, has)), self.into.path)
        name = bank_names(self.into.banks())[key[0]]
        line = (
            f"{run['id']!s}, seed {run['seed']!s}, on {name} has other figures in {first} than in "
            f"{self.inputs[number]}: {difference}"
        )
        if self.prefer is None:
            raise errors.ConfigError(
                f"{line}. Keep those of one file with --prefer first or last, or leave one out."
            )
        self.merged = replace(self.merged, contradictions=(*self.merged.contradictions, line))


def _difference(ours: Whole, theirs: Whole, record: Mapping[str, Any]) -> str:
    """The difference between two trainings of a run beyond rounding, in words; empty where there is
    none. `record` is that of the bank.

    A run that halving stopped contradicts none, and epochs are compared where both selected the
    same one.
    """
    (run, evaluations), (other, others) = ours, theirs
    stopped = _is_stopped(ours) or _is_stopped(theirs)
    whole = not any(only_folds(str(row["split"]) for row in each) for each in (evaluations, others))
    if whole and not stopped and run["status"] != other["status"]:
        return f"{run['status']!s} and {other['status']!s}"
    there = {(row["split"], row["epoch"]): row for row in others}
    for row in evaluations:
        split, epoch = str(row["split"]), row["epoch"]
        second = there.get((split, epoch))
        unlike = epoch == "selected" and run["selected_epoch"] != other["selected_epoch"]
        if second is None or unlike or (stopped and not is_folds(split)):
            continue
        correct = [content.correct(each["correct"], record, split) for each in (row, second)]
        nll = [content.metrics(each["metrics"])["nll"] for each in (row, second)]
        rows = record["rows"][split]
        same, changed = agree((correct[0], correct[1]), (nll[0], nll[1]), rows)
        if not same:
            figures = " and ".join("none" if each is None else f"{each:.5g}" for each in nll)
            return (
                f"{changed} of {rows} rows of {split} classified otherwise at the "
                f"{epoch!s} epoch, NLL {figures}"
            )
    return ""


def _is_stopped(whole: Whole) -> bool:
    return whole[0]["status"] == "stopped"
