"""Tables in text, one row per image: CSV and TSV. The columns are the keys."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.columns import arrange, parsed, stacked

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LONGEST_CELL = 1 << 26


def csv_table(path: Path) -> ArrayFile:
    """Open ``.csv`` or ``.tsv``; the first line names the columns.

    Vectors are texts, ``[0.1, 0.2]`` or ``0.1 0.2``, or spread over numbered columns.
    """
    header = next(_csv_lines(path), [])
    keys = arrange(path, header)
    place_of = {column: place for place, column in enumerate(header)}

    def read(name: str) -> np.ndarray:
        places = [place_of[column] for column in keys[name]]
        if len(places) > 1:
            return stacked(f"{path}:{name}", ([row[i] for i in places] for row in _csv_rows(path)))
        return parsed(f"{path}:{name}", [row[places[0]] for row in _csv_rows(path)])

    return ArrayFile(path, tuple(keys), read)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from filter(None, csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()]))


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows below the header; raise unless each is as long as the header."""
    lines = _csv_lines(path)
    header = next(lines)
    for n, row in enumerate(lines):
        if len(row) != len(header):
            raise errors.DataError(
                f"{path}: row {n} has {len(row)} cells, the header {len(header)}. Repair it; "
                "a cell that contains the delimiter needs quotes."
            )
        yield row
