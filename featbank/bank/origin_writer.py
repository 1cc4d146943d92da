"""Writing where the rows of a bank come from: source groups, their names, and cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featbank import errors
from featbank.bank import checks, schema
from featbank.bank.map_writer import MapWriter


class OriginWriter(MapWriter):
    """Source groups and cells of rows; part of `featbank.bank.BankWriter`."""

    _group_names: int | None = None

    def source_group_names(self, names: Sequence[str]) -> None:
        """Store the names of the source groups 0 … G − 1, G different texts."""
        stored = checks.as_bytes(names, schema.GROUP_NAMES)
        again = checks.first_repeated(stored)
        if again is not None:
            raise errors.DataError(
                f"{schema.GROUP_NAMES}: {names[again]!r} in row {again} comes twice. Give rows of "
                "one name the same source group."
            )
        self._group_names = len(stored)
        self._put_new(schema.GROUP_NAMES, stored)
        self._require_schema(schema.PIXELS)

    def _put_places(self, split: str, column: str, places: np.ndarray, rows: int) -> None:
        """Store a column of `schema.PLACES` of a split."""
        name, shape = f"{split}/{column}", (rows, *schema.PLACES[column])
        stored = checks.not_negative(places, name, shape)
        if column == "source_group":
            self._last_group = max(self._last_group, int(stored.max(initial=-1)))
        self._put(name, stored)
        self._require_schema(schema.PIXELS)

    def _check_origins(self) -> None:
        """Raise unless names that are given are those of all source groups."""
        if self._group_names is not None and self._last_group >= self._group_names:
            raise errors.DataError(
                f"{self.path}: there is a source group {self._last_group}, and names of "
                f"{self._group_names}. Give a name for each from 0 on."
            )
