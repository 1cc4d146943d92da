"""A run that is trained on all rows and on folds: what was measured of it on both stays together.

A run on all rows is measured on val and test, one on folds on the rows that these hold out. Either
may come first, and be trained again, without losing what the other measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stage2.features.folds import is_folds
from stage2.results.digests import Value
from stage2.results.rows import StoredRows, digest_of
from stage2.results.schema import HEAVY, LIGHT

StoredRow = dict[str, Value]
"""Columns of a row by name, its digest among them."""


def only_folds(splits: Iterable[str]) -> bool:
    """Whether a run, given by the splits it was measured on, was trained on folds alone."""
    names = list(splits)
    return bool(names) and all(map(is_folds, names))


def merged(
    run: StoredRow, evaluations: Sequence[StoredRow], rows: StoredRows
) -> tuple[StoredRow, list[StoredRow]]:
    """Join a run that is to be stored to what the file has of it.

    Parameters
    ----------
    run, evaluations
        The run and its evaluations, without digests.
    rows
        The file. A row of it that is damaged is not kept.

    Returns
    -------
    The run and all its evaluations, in the order of the run's digest, with digests.
    """
    new = [{**row, "digest": digest_of("evaluation", row)} for row in evaluations]
    return joined(run, new, *rows.stored(str(run["bank"]), str(run["recipe"])))


def joined(
    run: StoredRow,
    evaluations: Sequence[StoredRow],
    earlier: StoredRow | None,
    kept: Sequence[StoredRow],
) -> tuple[StoredRow, list[StoredRow]]:
    """Join a run and its evaluations, these with digests, to an `earlier` one of the same recipe
    and those `kept` of it; of what both measured, the first is taken."""
    places = {(row["split"], row["epoch"]) for row in evaluations}
    of_folds = [row for row in kept if is_folds(str(row["split"]))]
    if not only_folds(str(row["split"]) for row in evaluations):
        kept = of_folds
    elif earlier and earlier["status"] == "stopped":
        kept = of_folds  # what halving measured before it stopped the run ranks nothing
    elif earlier and (len(kept) > len(of_folds) or not kept or run["status"] != "done"):
        run = earlier  # on all rows, or on other folds
    kept = [row for row in kept if (row["split"], row["epoch"]) not in places]
    together = sorted([*evaluations, *kept], key=lambda row: (str(row["split"]), str(row["epoch"])))
    plain = {name: run[name] for name in (*LIGHT["run"], *HEAVY["run"])}
    digest = digest_of("run", plain, [row["digest"] for row in together])
    return {**plain, "digest": digest}, together
