"""The facts about classes that a bank states beside its rows: counts, background, groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featbank.bank import ClassGroups


@dataclass(frozen=True, eq=False)
class ClassFacts:
    """The facts about K classes that no row says.

    Rows are counted where something is estimated from them: class means, covariances, samplers.
    Class weights, priors and margins take n_k from `prior_counts` instead, which are those of the
    whole data where the rows are a sample of it.

    Attributes
    ----------
    outside
        Class counts from outside [K], such as the pixels of a whole data set, ≥ 1 for a class with
        rows; None where the rows are all there is.
    background
        A class with weight 1, outside the normalisation of class weights; None for none.
    groups
        The bank's own class groups; None for the usual ones by training counts.
    """

    outside: np.ndarray | None = None
    background: int | None = None
    groups: ClassGroups | None = None

    def prior_counts(self, rows: np.ndarray) -> np.ndarray:
        """n_k [K] float64 of weights, priors and margins, where `rows` [K] are those trained on."""
        return np.asarray(rows if self.outside is None else self.outside, np.float64)

    def groups_of(self, rows: np.ndarray) -> ClassGroups:
        """The class groups, where classes have these training rows [K]."""
        return self.groups or ClassGroups.usual(rows, self.background)

    def members(self, names: str, rows: np.ndarray) -> np.ndarray:
        """The classes [K] bool of the groups `names`, keys of `featbank.bank.GROUPS` joined by +,
        where classes have these training rows [K]."""
        masks = self.groups_of(rows).masks
        return np.any([masks[name] for name in names.split("+")], axis=0)


ROWS_ALONE = ClassFacts()
"""The facts of a bank that states none."""
