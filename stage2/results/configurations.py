"""A stored configuration by its id, the beginning of one, or the name of its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from featbank import errors
from stage2.results.store import Run, Store
from stage2.results.tables import leaderboard, why_unranked


@dataclass(frozen=True)
class Configuration:
    """One configuration of a results file, all its seeds.

    Attributes
    ----------
    id, name, parameters
        ``crt-1a2b3c4d``, the recipe's name, and every setting but the seed.
    runs
        Its runs on one bank, by seed.
    fingerprint, about
        Of that bank: its fingerprint, and what the results know of it.
    """

    id: str
    name: str
    parameters: dict[str, Any]
    runs: tuple[Run, ...]
    fingerprint: str
    about: dict[str, Any]

    @property
    def unfinished(self) -> str:
        """What kept seeds from an end, in words; empty where all are done."""
        ends = {"diverged": "diverged", "stopped": "was stopped by halving"}
        told = []
        for status, words in ends.items():
            if seeds := [str(run.seed) for run in self.runs if run.status == status]:
                told.append(f"{words} with seed {', '.join(seeds)}")
        return " and ".join(told)

    @classmethod
    def of(cls, runs: Sequence[Run], fingerprint: str, about: dict[str, Any]) -> Self:
        """The configuration of all its runs on a bank."""
        first = runs[0]
        return cls(first.id, first.name, first.parameters, tuple(runs), fingerprint, about)


def find_configuration(
    store: Store, name: str, *, bank: str | None = None, select_on: str | None = None
) -> Configuration:
    """The configuration that `name` means.

    Parameters
    ----------
    store
        The results.
    name
        An id such as ``crt-1a2b3c4d``, the beginning of just one id, or the name of a recipe: its
        best configuration under the protocol of `stage2.results.tables.leaderboard`.
    bank
        Beginning of a fingerprint; needed where the file holds results of several banks.
    select_on
        The split that ranks; by default the leaderboard's.

    Raises
    ------
    ConfigError
        Where `name` means none or several; where every configuration of that recipe diverged or
        was stopped by halving.
    """
    fingerprint, about = store.one_bank(bank)
    by_id = store.configurations(fingerprint)
    names = {runs[0].name for runs in by_id.values()}
    found = [name] if name in by_id else [own for own in by_id if own.startswith(name)]
    if name in names:
        found = [_best(store, name, fingerprint, about, select_on)]
    if not found:
        raise errors.ConfigError(
            f"{store.path} has no configuration {name!r}. "
            f"{errors.closest(name, sorted(names) if '-' not in name else sorted(by_id))}"
        )
    if len(found) > 1:
        told = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        raise errors.ConfigError(
            f"{len(found)} configurations of {store.path} begin with {name!r}. "
            f"Write more of one: {told}."
        )
    return Configuration.of(by_id[found[0]], fingerprint, about)


def _best(
    store: Store, name: str, fingerprint: str, about: dict[str, Any], select_on: str | None
) -> str:
    """Id of the first configuration of a recipe on the leaderboard."""
    rows = leaderboard(store, bank=fingerprint, select_on=select_on).rows
    own = [row for row in rows if row["name"] == name]
    if own[0]["selection"] is None:
        raise errors.ConfigError(
            f"Every configuration of {name!r} in {store.path} {why_unranked(own)}"
        )
    return own[0]["recipe"]
