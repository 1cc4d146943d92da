"""Which class is which where two lists of names meet: by name, never by position."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featbank import errors
from featbank.settings import shortened
from featbank.wording import listed, number

_APART = re.compile(r"[\s_\-\u2010-\u2015]+")
_GIVE = (
    "Give --class-names FILE with the head's names, a line per class in the order of the labels."
)


@dataclass(frozen=True)
class ClassMatch:
    """The J classes of labels, a bank or a file among the K of a head.

    Attributes
    ----------
    whose
        What the J are of, for messages.
    given, known
        Their names, J and K.
    places
        The head's class of each given one [J] int64; −1 for one that it does not know.
    """

    whose: str
    given: Sequence[str]
    known: Sequence[str]
    places: np.ndarray

    @property
    def same(self) -> bool:
        """Whether they are the same classes in the same order."""
        return np.array_equal(self.places, np.arange(len(self.known)))

    @property
    def unknown(self) -> list[str]:
        """The given classes that are not known, in their order."""
        return [self.given[j] for j in np.flatnonzero(self.places < 0).tolist()]

    @property
    def present(self) -> np.ndarray:
        """The known classes that are given, ascending."""
        return np.unique(self.places[self.places >= 0])

    @property
    def absent(self) -> list[str]:
        """The known classes that are not given, in their order."""
        missing = np.ones(len(self.known), bool)
        missing[self.present] = False
        return [self.known[k] for k in np.flatnonzero(missing).tolist()]

    def labels(self, y: np.ndarray) -> np.ndarray:
        """Labels [N] of given classes as those of known ones; the j-th of `unknown` becomes
        K + j."""
        places = self.places.copy()
        new = places < 0
        places[new] = len(self.known) + np.arange(new.sum())
        return places[y]

    @property
    def note(self) -> str:
        """The differences of the two in words; empty where there are none."""
        parts = []
        if lacking := self.absent:
            parts.append(f"{self.whose} lacks {_classes(lacking)} of the head")
        if strange := self.unknown:
            parts.append(f"the head does not know {_classes(strange)} of {self.whose}")
        if (np.diff(self.places[self.places >= 0]) < 0).any():
            parts.append(f"{self.whose} has its classes in another order, they are matched by name")
        pairs = [(self.given[j], self.known[k]) for j, k in enumerate(self.places) if k >= 0]
        if respelt := [f"{shortened(a)} as {shortened(b)}" for a, b in pairs if a != b]:
            parts.append(f"taken for the same: {listed(respelt, 3)}")
        return "; ".join(parts)


def match_classes(
    given: Sequence[str],
    known: Sequence[str],
    whose: str,
    remedy: str = _GIVE,
    *,
    among: str = "the head",
) -> ClassMatch:
    """Find the classes of labels, a bank or a file among those of a head or another bank, by name.

    Lists that are equal match place by place. Otherwise a name matches the same name, or else the
    only one that differs from it by no more than case, the form of its Unicode characters, blanks,
    hyphens, underscores and invisible characters.

    Parameters
    ----------
    given, known
        Names.
    whose
        What the given classes are of, for messages.
    remedy
        A sentence for errors.
    among
        What the known classes are of, for messages.

    Raises
    ------
    Mismatch
        If the given classes are only numbered, none of them is known, or a name that both have is
        that of several classes.
    """
    if list(given) == list(known):
        return ClassMatch(whose, given, known, np.arange(len(known)))
    if are_numbers(given):
        raise errors.Mismatch(
            f"{whose} has no names for its {number(len(given), 'class', 'classes')}, {among} has "
            f"{len(known)} ({_first(known)}): nothing says which is which. {remedy}"
        )
    exact = {name: k for k, name in enumerate(known)}
    both = exact.keys() & set(given)
    for names, of in ((given, whose), (known, among)):
        if twice := next((n for n, c in Counter(names).items() if c > 1 and n in both), None):
            raise errors.Mismatch(
                f"{of} has several classes named {shortened(twice)}: nothing says which is which. "
                f"{remedy}"
            )
    places = np.array([exact.get(name, -1) for name in given], np.int64)
    taken = set(places.tolist())
    free, wanted = _by_key(known), _by_key(given)
    for j in np.flatnonzero(places < 0).tolist():
        key = _key(given[j])
        k = free.get(key, -1)
        if wanted[key] == j and k not in taken:
            places[j] = k
    if (places < 0).all():
        raise errors.Mismatch(
            f"No class of {whose} ({_first(given)}) is one of {among} ({_first(known)}). {remedy}"
        )
    return ClassMatch(whose, given, known, places)


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names are 0, 1, 2, …: those of classes without any."""
    return all(name == str(k) for k, name in enumerate(names))


def _by_key(names: Sequence[str]) -> dict[str, int]:
    """The place of the only name with each key; −1 for several."""
    places: dict[str, int] = {}
    for k, key in enumerate(map(_key, names)):
        places[key] = -1 if key in places else k
    return places


def _key(name: str) -> str:
    """A name without case, blanks at its ends, invisible characters and forms of Unicode."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(
        letter for letter in folded if letter.isspace() or unicodedata.category(letter)[0] != "C"
    )
    return _APART.sub(" ", visible).strip()


def _first(names: Sequence[str]) -> str:
    return listed(map(shortened, names), 3)


def _classes(names: Sequence[str]) -> str:
    return f"{number(len(names), 'class', 'classes')} ({_first(names)})"
