"""Text embeddings of an import: read, brought into the order of the classes, and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import checks
from featbank.bank.class_names import match_classes
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.formats import locate, open_arrays
from featbank.exchange.integers import as_texts
from featbank.texts import read_class_names
from featbank.wording import listed, number

LOGIT_SCALE = 100.0
"""That of CLIP, for text without one."""

NAMES, FACTOR = ("class_names", "names"), "logit_scale"
"""Keys that a file may have beside the embeddings."""

_NAMES = "Give --text-names FILE with the bank's names, one per row of the text."


@dataclass(frozen=True)
class Embeddings:
    """Text as it was read.

    Attributes
    ----------
    features
        [P, K, D], of P prompts for each class.
    names
        The K classes, if they are known.
    given_scale
        Factor of the cosines, None where none was given.
    place
        Where the features were read.
    """

    features: np.ndarray
    names: Sequence[str] | None
    given_scale: float | None
    place: str

    @property
    def logit_scale(self) -> float:
        """The factor that was given, or else `LOGIT_SCALE`."""
        return LOGIT_SCALE if self.given_scale is None else self.given_scale

    def of_classes(self, class_names: Sequence[str] | None, num_classes: int) -> Embeddings:
        """The embeddings of a bank's classes, in their order: by name where both have names.

        Raises
        ------
        DataError
            For a class without text; where there are no names, for another number of classes.
        Mismatch
            For names of which none is known, or that are those of several classes.
        """
        prompts, count, _ = self.features.shape
        if self.names is not None and class_names is not None:
            match = match_classes(self.names, class_names, self.place, _NAMES, among="the bank")
            if missing := match.absent:
                raise errors.DataError(
                    f"{self.place} has no text of {number(len(missing), 'class', 'classes')}: "
                    f"{listed(missing, 5)}. {errors.closest(missing[0], self.names)} Classes and "
                    "text are matched by name."
                )
            rows = np.flatnonzero(match.places >= 0)
            order = rows[match.places[rows].argsort()]
            return replace(self, features=self.features[:, order], names=class_names)
        if count == num_classes:
            return self
        remedy = "Give --text-names FILE, a name for each of its rows"
        if prompts == num_classes:
            remedy = "It looks like [K, P, D]: save it as x.swapaxes(0, 1)"
        elif self.names is not None:
            remedy = "Give --class-names FILE, so that they are matched by name"
        raise errors.DataError(
            f"{self.place} has text of {number(count, 'class', 'classes')}, the bank has K = "
            f"{num_classes}. {remedy}."
        )

    def checked(self, view: str, dim: int) -> tuple[np.ndarray, float]:
        """Features [P, K, D] float32 and logit scale; raise unless they fit a view of size `dim`.

        Raises
        ------
        DataError, NotFinite
            For another D, a value that is not finite, or an embedding of 0.
        """
        *lead, width = self.features.shape
        if width != dim:
            raise errors.DataError(
                f"{self.place} has D = {width}, the features of {view} have D = {dim}. Text and "
                "features must come from one model."
            )
        return checks.as_text(self.features, f"text/{view}", (*lead, dim)), self.logit_scale


def read_text(
    place: str, *, names: Path | None = None, logit_scale: float | None = None
) -> Embeddings:
    """Read text embeddings [K, D] or [P, K, D] at ``FILE`` or ``FILE:KEY``.

    Parameters
    ----------
    place
        The array; a file that has `NAMES` and `FACTOR` beside it needs no key.
    names
        A file of class names, one per row; by default those beside the array, if there are as many.
    logit_scale
        By default that beside the array.

    Raises
    ------
    DataError
        For an array that cannot be read, of other axes or type, names that repeat or do not have
        one for each row, and a logit scale that is not > 0.
    """
    path, key = locate(place)
    file = open_arrays(path)
    if not key:
        others = [name for name in file.names if name not in (*NAMES, FACTOR)]
        key = others[0] if len(others) == 1 else ""
    return as_embeddings(file, key, place, names=names, logit_scale=logit_scale)


def as_embeddings(
    file: ArrayFile,
    key: str,
    place: str,
    *,
    names: Path | None = None,
    logit_scale: float | None = None,
) -> Embeddings:
    """The embeddings at a key of an open file, as of `read_text`."""
    features = np.asarray(file[key])
    if features.ndim not in (2, 3) or features.dtype.kind not in "fiu" or not features.size:
        raise errors.DataError(
            f"{place} has type {features.dtype} and shape {list(features.shape)}. Text must be "
            "numbers [K, D], or [P, K, D] of P prompts."
        )
    features = features[None] if features.ndim == 2 else features
    rows = features.shape[1]
    known = read_class_names(names) if names else _names_beside(file, rows)
    if known is not None and len(known) != rows:
        raise errors.DataError(
            f"{names} has {number(len(known), 'name')}, {place} has text of {rows} classes. Give "
            "a name for each."
        )
    if known is not None and len(set(known)) < rows:
        repeated = next(name for name in known if known.count(name) > 1)
        raise errors.DataError(
            f"{place}: {repeated!r} names two classes. Give each class once, and several prompts "
            "as [P, K, D]."
        )
    return Embeddings(features, known, _factor(file, place, logit_scale), place)


def _names_beside(file: ArrayFile, rows: int) -> list[str] | None:
    for name in NAMES:
        if name in file and not file.single:
            array = np.asarray(file[name])
            if array.shape == (rows,) and array.dtype.kind in "SU":
                return as_texts(array, file.place(name)).tolist()
    return None


def _factor(file: ArrayFile, place: str, given: float | None) -> float | None:
    if given is None and FACTOR in file and not file.single:
        array = np.asarray(file[FACTOR])
        given = float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else math.nan
    if given is not None and not 0 < given < math.inf:
        raise errors.DataError(
            f"{place}: the logit scale is {given:g}. It must be > 0; give --logit-scale, CLIP's is "
            f"{LOGIT_SCALE:g}."
        )
    return given
