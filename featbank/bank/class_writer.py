"""Writing what a bank says of its classes beside names and training counts."""

from __future__ import annotations

import numpy as np

from featbank import errors
from featbank.bank import checks, schema
from featbank.bank.grouping import ClassGroups
from featbank.bank.model_writer import ModelWriter


class ClassWriter(ModelWriter):
    """Counts from outside, background and groups of classes; part of `featbank.bank.BankWriter`."""

    _outside: np.ndarray | None = None
    _background: int | None = None
    _groups: ClassGroups | None = None

    def outside_counts(self, counts: np.ndarray) -> None:
        """Store counts [K] ≥ 0 of the data that the rows are a sample of: class groups, priors and
        weights of classes follow them."""
        stored = checks.not_negative(np.asarray(counts), "the class counts", (self.num_classes,))
        self._outside = stored
        self._put_class("full_count", stored)

    def background(self, k: int) -> None:
        """Store the number 0…K−1 of the background class."""
        if not 0 <= k < self.num_classes:
            raise errors.ConfigError(
                f"{self.path}: the background is class {k}, the classes are 0…"
                f"{self.num_classes - 1}. Give one of them."
            )
        self._background = k
        self._put_class("background", np.array([k], np.int64))

    def class_groups(self, groups: ClassGroups) -> None:
        """Store groups of the K classes; by default readers make many / medium / few of counts."""
        if len(groups.member) != self.num_classes:
            raise errors.DataError(
                f"{self.path}: class groups cover {len(groups.member)} classes of "
                f"{self.num_classes}. Give a group, or none, for each class."
            )
        self._groups = groups
        self._put_class("group", groups.member)
        for part, texts in (("name", groups.names), ("rule", groups.rules)):
            self._put_class(f"group_{part}", checks.as_bytes(texts, f"the {part} of class groups"))

    def _put_class(self, name: str, array: np.ndarray) -> None:
        self._put_new(f"classes/{name}", array)
        self._require_schema(schema.PIXELS)

    def _check_classes(self, train_counts: np.ndarray) -> None:
        """Raise unless what is known of the classes fits together and to train [K]."""
        if self._groups is not None and self._background is not None:
            group = self._groups.member[self._background]
            if group >= 0:
                raise errors.DataError(
                    f"{self.path}: the background, class {self._background}, is in the class group "
                    f"{self._groups.names[group]}. Leave it out of the groups: --groups makes them "
                    "anew."
                )
        if self._outside is not None:
            none = np.flatnonzero((self._outside == 0) & (train_counts > 0))
            if none.size:
                raise errors.DataError(
                    f"{self.path}: the class counts say 0 for class {none[0]}, train has "
                    f"{train_counts[none[0]]} rows of it. Give the counts of the data that the "
                    "rows are taken from."
                )
