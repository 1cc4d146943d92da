"""Facts of the classes of a bank: counts from outside, the background, and groups."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.checked import CheckedFile
from featbank.bank.grouping import ClassGroups

CLASS_FACTS = ("outside_counts", "background", "class_groups")
"""Facts that a bank may store of its classes, as its properties and its writer call them."""


class ClassTable:
    """Facts of the classes of a bank; part of `featbank.bank.Bank`."""

    _file: CheckedFile
    num_classes: int

    @cached_property
    def outside_counts(self) -> np.ndarray | None:
        """Counts [K] int64 of the data that the rows are a sample of, pixels or images for example;
        None if the rows are the data."""
        name = "classes/full_count"
        return self._not_negative(name) if name in self._file.datasets else None

    @cached_property
    def background(self) -> int | None:
        """The background class: in no class group, and outside sums over classes; None without."""
        name = "classes/background"
        if name not in self._file.datasets:
            return None
        k = int(self._file.read(name)[0])
        if not 0 <= k < self.num_classes:
            raise self._file.corrupt(f"{name} is {k}, the classes are 0…{self.num_classes - 1}")
        return k

    def class_fact(self, name: str) -> Any:
        """One of `CLASS_FACTS` as it is stored; None if it is not."""
        return self._stored_groups() if name == "class_groups" else getattr(self, name)

    def _stored_groups(self) -> ClassGroups | None:
        """The class groups of the file, if it has any."""
        if "classes/group" not in self._file.datasets:
            return None
        names, rules = (self._file.texts(f"classes/group_{part}") for part in ("name", "rule"))
        try:
            groups = ClassGroups(tuple(names), tuple(rules), self._file.read("classes/group"))
        except (errors.ConfigError, errors.DataError) as error:
            reason = str(error).partition(". ")[0]
            raise self._file.corrupt(f"classes/group: {reason}") from None
        if self.background is not None and groups.member[self.background] >= 0:
            raise self._file.corrupt(
                f"classes/group has the background, class {self.background}, in a group"
            )
        return groups

    def _not_negative(self, name: str) -> np.ndarray:
        """The dataset `name` of integers ≥ 0."""
        values = self._file.read(name)
        if values.min(initial=0) < 0:
            row = int(np.flatnonzero((values < 0).reshape(len(values), -1).any(axis=1))[0])
            raise self._file.corrupt(f"{name}: {values[row].min()} in row {row} is negative")
        return values
