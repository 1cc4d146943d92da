"""Groups of classes from most to least frequent: by counts, by shares, or as a list gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.bank.schema import is_name
from featbank.wording import listed

GROUPS = {"many": "n > 100", "medium": "20 ≤ n ≤ 100", "few": "n < 20"}
"""The usual groups by training count n, with their thresholds as tables state them. Their names are
the keys of every three groups, whatever a bank calls these."""

BY_SHARE = ("head", "body", "tail")
BY_LIST = ("frequent", "common", "rare")
"""Names of groups by share of all samples, as of ADE20K, and of listed groups, as of LVIS."""

LONGEST_NAME, LONGEST_RULE = 20, 60
"""Characters of the name and of the rule of a group."""


@dataclass(frozen=True, eq=False)
class ClassGroups:
    """Three groups of classes, from most to least frequent.

    Attributes
    ----------
    names
        Names of the three, as tables show them.
    rules
        What makes a class a member, such as ``n > 100``, as tables state it.
    member
        [K] int64, the group of each class, 0…2; −1 for none, as of the background.

    Raises
    ------
    ConfigError
        For names that are unusable, equal, or the key of another group.
    DataError
        For members outside −1…2, or where no class is in a group.
    """

    names: tuple[str, ...]
    rules: tuple[str, ...]
    member: np.ndarray

    def __post_init__(self) -> None:
        for field, length in (("names", LONGEST_NAME), ("rules", LONGEST_RULE)):
            texts = tuple(getattr(self, field))
            object.__setattr__(self, field, texts)
            if len(texts) != len(GROUPS):
                raise errors.ConfigError(
                    f"There are {len(texts)} {field} of class groups ({', '.join(texts)}). Give "
                    "three, from the most to the least frequent classes."
                )
            if bad := next((t for t in texts if not t.isprintable() or len(t) > length), None):
                raise errors.ConfigError(
                    f"{bad[:length]!r} cannot be one of the {field} of class groups. Give at most "
                    f"{length} printable characters."
                )
        for name, key in zip(self.names, GROUPS, strict=True):
            if not is_name(name):
                raise errors.ConfigError(
                    f"{name!r} cannot name a class group. Use letters, digits, '_', '-' and '.'."
                )
            if self.names.count(name) > 1 or (name in GROUPS and name != key):
                raise errors.ConfigError(
                    f"{', '.join(self.names)} cannot name class groups from most to least "
                    f"frequent. Give three different names; {listed(GROUPS, 3)} keep this order."
                )
        member = np.asarray(self.member)
        if member.ndim != 1 or member.dtype.kind not in "iu":
            raise errors.DataError(
                f"Members of class groups have type {member.dtype} and shape {list(member.shape)}."
                " They must be integers [K]."
            )
        object.__setattr__(self, "member", member.astype(np.int64))
        outside = np.flatnonzero((self.member < -1) | (self.member > 2))
        if outside.size:
            raise errors.DataError(
                f"Class {outside[0]} is in group {self.member[outside[0]]}. Give 0, 1 or 2, or −1 "
                "for a class in none."
            )
        if not (self.member >= 0).any():
            raise errors.DataError("No class is in a group. Give thresholds that fit the counts.")

    @classmethod
    def usual(cls, counts: np.ndarray, background: int | None = None) -> ClassGroups:
        """The groups `GROUPS` by training counts [K], without the `background` class."""
        member = _members(counts, 100, 20, background)
        return cls(tuple(GROUPS), tuple(GROUPS.values()), member)

    @classmethod
    def by_thresholds(
        cls,
        counts: np.ndarray,
        high: float,
        low: float,
        names: Sequence[str] = tuple(GROUPS),
        background: int | None = None,
    ) -> ClassGroups:
        """Groups by counts [K]: n > `high`, `low` ≤ n ≤ `high`, n < `low`, with high ≥ low > 0."""
        _check_bounds(high, low)
        rules = (f"n > {high:g}", f"{low:g} ≤ n ≤ {high:g}", f"n < {low:g}")
        return cls(tuple(names), rules, _members(counts, high, low, background))

    @classmethod
    def by_shares(
        cls,
        counts: np.ndarray,
        high: float = 0.01,
        low: float = 0.001,
        names: Sequence[str] = BY_SHARE,
        background: int | None = None,
    ) -> ClassGroups:
        """Groups by the share of each class in the sum of counts [K], as ADE20K's, which are the
        default; the `background` is no part of the sum.

        Parameters
        ----------
        counts
            [K] samples, pixels for example.
        high, low
            Shares in 0…1, high ≥ low > 0.
        names
            As of the class.
        background
            The class that is in no group.
        """
        _check_bounds(high, low, most=1)
        share = np.asarray(counts, np.float64)
        others = np.arange(len(share)) != (-1 if background is None else background)
        total = share[others].sum()
        rules = (
            f"share > {_percent(high)}",
            f"{_percent(low)} ≤ share ≤ {_percent(high)}",
            f"share < {_percent(low)}",
        )
        return cls(tuple(names), rules, _members(share, high * total, low * total, background))

    @classmethod
    def by_list(
        cls,
        groups: Sequence[str | int],
        names: Sequence[str] = BY_LIST,
        background: int | None = None,
    ) -> ClassGroups:
        """Groups as they are listed, such as LVIS's r, c and f.

        Parameters
        ----------
        groups
            [K] the group of each class: its name or the name's first letter, in any case; its
            number 0…2; or ``-`` or −1 for a class in none.
        names
            Names of the three, from most to least frequent.
        background
            The class that is in no group, whatever is listed.
        """
        known = {"-": -1, "": -1, "-1": -1} | {str(g): g for g in range(len(names))}
        initials = [name[:1].casefold() for name in names]
        if len(set(initials)) == len(names):
            known |= {letter: g for g, letter in enumerate(initials)}
        known |= {name.casefold(): g for g, name in enumerate(names)}
        member = np.empty(len(groups), np.int64)
        for k, group in enumerate(groups):
            found = known.get(str(group).strip().casefold())
            if found is None:
                raise errors.DataError(
                    f"Class {k} is listed in group {str(group)[:LONGEST_NAME]!r}, the groups are "
                    f"{', '.join(names)}. Name these, or give the names that the list has."
                )
            member[k] = found
        if background is not None:
            member[background] = -1
        return cls(tuple(names), tuple("as listed" for _ in names), member)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Masks [K] of the members by the keys of `GROUPS`, many / medium / few."""
        return {key: self.member == g for g, key in enumerate(GROUPS)}

    @property
    def shown(self) -> dict[str, str]:
        """Names by the keys of `GROUPS`."""
        return dict(zip(GROUPS, self.names, strict=True))

    @property
    def stated(self) -> dict[str, str]:
        """Rules by the keys of `GROUPS`."""
        return dict(zip(GROUPS, self.rules, strict=True))

    @property
    def described(self) -> str:
        """``many: n > 100, medium: …``: names and rules, for people."""
        pairs = zip(self.names, self.rules, strict=True)
        return ", ".join(f"{name}: {rule}" for name, rule in pairs)

    def key(self, name: str) -> str:
        """The key of the group that is called `name`; a key, or any other word, as it is."""
        return next((key for key, own in self.shown.items() if own == name), name)

    def of_classes(self, none: str = "") -> list[str]:
        """The key of each class's group, K texts; `none` for a class in no group."""
        return np.array([*GROUPS, none])[self.member].tolist()

    def equals(self, other: ClassGroups) -> bool:
        """Whether names, rules and members are the same."""
        named = self.names == other.names and self.rules == other.rules
        return named and np.array_equal(self.member, other.member)


def class_groups(train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Boolean masks [K] of the groups `GROUPS`, from the training counts [K]."""
    return ClassGroups.usual(train_counts).masks


def _members(counts: np.ndarray, high: float, low: float, background: int | None) -> np.ndarray:
    """0 where n > high, 1 between, 2 where n < low: [K] int64; −1 for the background."""
    n = np.asarray(counts)
    member = np.where(n > high, 0, np.where(n >= low, 1, 2)).astype(np.int64)
    if background is not None:
        member[background] = -1
    return member


def _check_bounds(high: float, low: float, most: float = np.inf) -> None:
    if not 0 < low <= high <= most:
        limit = "" if most == np.inf else f", at most {most:g}"
        raise errors.ConfigError(
            f"Class groups cannot be bounded by {high:g} and {low:g}. Give the higher bound first, "
            f"both > 0{limit}."
        )


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
