"""Predictions of an exported head on features of a bank or in arrays."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from featbank import errors
from featbank.bank import Bank
from featbank.bank.class_names import ClassMatch, match_classes
from featbank.bank.expressions import Part, parts_of
from featbank.characters import in_csv, visible
from featbank.files import replacing
from featbank.wording import number
from stage2.export.arrays import read_features, read_labels
from stage2.export.facts import HeadFacts
from stage2.export.headfile import LoadedHead, LoadedHeads
from stage2.export.inputs import Input
from stage2.export.logits import check_count, check_shape, checked_features, logits_of

FORMATS = (".npz", ".csv")

BLOCK_BYTES = 1 << 24
"""Features, or logits, of a block of rows."""


@dataclass(frozen=True)
class Predictions:
    """The output of a head for N rows.

    Attributes
    ----------
    logits, probabilities
        [N, K] float32.
    classes
        Class of the largest logit, [N] int64.
    class_names
        K names.
    labels
        True classes [N] int64, numbered as the head's by their names; K and more stand for the
        classes of `unknown`. None where they are not known.
    notes
        Ways in which the bank differs from the head's.
    unknown
        Names of classes that the head does not have.
    given
        The head's classes that are among those of the rows' bank, or of the names given with
        them, ascending; None where neither is known.
    among
        The head's classes that the K are, where they are `restricted`.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray
    class_names: list[str]
    labels: np.ndarray | None
    notes: list[str]
    unknown: Sequence[str] = ()
    given: np.ndarray | None = None
    among: np.ndarray | None = None

    @property
    def foreign(self) -> np.ndarray:
        """Whether each row [N] is of a class that the head does not have; rows need labels."""
        assert self.labels is not None
        return self.labels >= len(self.class_names)

    def labelled(self, y: np.ndarray | None, match: ClassMatch) -> Predictions:
        """The same with labels [N] of the given classes of a match, and what differs noted."""
        return replace(
            self,
            labels=None if y is None else match.labels(y),
            unknown=match.unknown,
            given=match.present,
            notes=[*self.notes, *([match.note] if match.note else [])],
        )

    def restricted(self) -> Predictions:
        """The same among the classes `given` alone: those of other classes do not compete."""
        assert self.given is not None
        places = np.full(len(self.class_names) + len(self.unknown), -1)
        kept = [*self.given, *range(len(self.class_names), len(places))]
        places[kept] = np.arange(len(kept))
        logits = torch.from_numpy(self.logits[:, self.given])
        return replace(
            self,
            logits=logits.numpy(),
            probabilities=logits.softmax(1).numpy(),
            classes=logits.argmax(1).numpy(),
            class_names=[self.class_names[k] for k in self.given],
            labels=None if self.labels is None else places[self.labels],
            among=self.given,
        )

    def write(self, path: str | os.PathLike[str], *, top: int | None = None) -> None:
        """Write ``.npz`` with these arrays, or ``.csv`` with one line per row.

        A line has the probabilities of all K classes, or the `top` most likely classes with theirs.

        Raises
        ------
        ConfigError
            For another suffix, or a missing folder.
        """
        path = Path(path)
        check_output(path)
        with replacing(path) as part:
            if path.suffix == ".csv":
                self._write_csv(part, top)
            else:
                arrays = {
                    "logits": self.logits,
                    "probabilities": self.probabilities,
                    "classes": self.classes,
                    "class_names": np.array(self.class_names),
                    **({} if self.labels is None else {"labels": self.labels}),
                    **({"unknown_names": np.array(self.unknown)} if self.unknown else {}),
                }
                with part.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)

    def _write_csv(self, path: Path, top: int | None) -> None:
        names = list(map(in_csv, [*self.class_names, *self.unknown]))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            label = ["label"] if self.labels is not None else []
            columns = ["class", *(f"p({visible(name)})" for name in self.class_names)]
            if top is not None:
                places = range(2, min(top, len(self.class_names)) + 1)
                others = [text for n in places for text in (f"class {n}", f"confidence {n}")]
                columns = ["class", "confidence", *others]
            writer.writerow(["row", *label, *columns])
            for row, (k, p) in enumerate(zip(self.classes, self.probabilities, strict=True)):
                own = [names[self.labels[row]]] if self.labels is not None else []
                cells = [names[k], *(f"{value:.7g}" for value in p)]
                if top is not None:
                    order = np.argsort(-self.logits[row], kind="stable")[:top]
                    cells = [text for c in order for text in (names[c], f"{p[c]:.4f}")]
                writer.writerow([row, *own, *cells])


def check_output(path: Path) -> None:
    """Raise `ConfigError` if predictions cannot be written to `path`."""
    if path.suffix not in FORMATS:
        raise errors.ConfigError(
            f"{path} does not end in a format of predictions. Choose from: {', '.join(FORMATS)}."
        )
    if not path.parent.is_dir():
        raise errors.ConfigError(f"{path.parent} is not a folder. Create it first.")


def predict_bank(
    head: LoadedHead | LoadedHeads,
    bank: Bank,
    *,
    split: str | None = None,
    views: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    labelled: bool = False,
) -> Predictions:
    """Predictions on a split of a bank, from `views` in place of the head's own.

    The default split is ``test``, or else ``val``, as in a leaderboard. Classes of the bank are
    found among the head's by name (`featbank.bank.class_names.match_classes`); where none is, there
    are no labels.

    Parameters
    ----------
    class_names
        Names of the bank's classes in place of its own.
    labelled
        Raise rather than leave the labels out.

    Raises
    ------
    ConfigError
        If D or the number of views differs, or the bank lacks the split or a view.
    DataError
        For other than K `class_names`.
    Mismatch
        For classes of which none is known by name, of `class_names` or to be `labelled`.
    """
    facts = head.facts
    if split is None and not bank.evaluated:
        raise errors.ConfigError(
            f"{bank.path} has no rows of test or val. Choose others with --split train."
        )
    places = places_of(facts, bank, views, split or bank.evaluated[-1])
    notes = []
    if split is None:
        split = bank.evaluated[-1]
        if split != "test":
            notes.append(f"{bank.path} has no rows of test: {split} is classified")
    notes += bank_notes(facts, bank, views)
    match: ClassMatch | None = None
    try:
        match = matched(bank, facts.class_names, class_names)
    except errors.Mismatch as error:
        if class_names is not None or labelled:
            raise
        notes.append(f"labels are left out: {error}")
    rows, step = bank.rows(split), bank.block_rows(split, places[0])
    blocks = (
        [bank.read(split, place, start, min(start + step, rows)) for place in places]
        for start in range(0, rows, step)
    )
    predictions = _predictions(head, blocks, notes)
    return predictions.labelled(bank.labels(split), match) if match else predictions


def places_of(facts: HeadFacts, bank: Bank, views: Sequence[str] | None, split: str) -> list[str]:
    """The views of a bank that a head reads, in place of its own those of `views`.

    Raises
    ------
    ConfigError
        If D or the number of views differs, or the bank lacks the split or a view.
    """
    parts = [part for view in views or facts.views for part in parts_of(view)]
    check_count(facts, [part.view for part in parts])
    places = [_place(facts, *pair) for pair in zip(parts, facts.arrays, strict=True)]
    for place, own in zip(places, facts.arrays, strict=True):
        check_shape(f"{bank.path}: view {place!r}", bank.shape(split, place)[2:], own)
    return places


def bank_notes(facts: HeadFacts, bank: Bank, views: Sequence[str] | None) -> list[str]:
    """Ways in which a bank, or the views of it that are read, differ from those of a head."""
    notes = []
    if bank.fingerprint != facts.bank:
        notes.append(
            f"the head was trained on bank {facts.bank[:12]}, {bank.path} is "
            f"{bank.fingerprint[:12]}"
        )
    if views is not None and list(views) != facts.views:
        notes.append(f"the head was trained on {'+'.join(facts.views)}, not {'+'.join(views)}")
    return notes


def matched(bank: Bank, known: Sequence[str], names: Sequence[str] | None) -> ClassMatch:
    """The classes of a bank among the `known` ones, by its own names or those given in their place.

    Raises
    ------
    DataError
        For other than K names.
    Mismatch
        Where none is known.
    """
    if names is not None and len(names) != bank.num_classes:
        raise errors.DataError(
            f"{number(len(names), 'class name')} are given, {bank.path} has {bank.num_classes} "
            "classes. Give one name per line, in the order of the bank's classes."
        )
    return match_classes(names or list(bank.class_names), known, str(bank.path))


def predict_arrays(
    head: LoadedHead | LoadedHeads,
    paths: Sequence[Path],
    *,
    labels: Path | None = None,
    class_names: Sequence[str] | None = None,
) -> Predictions:
    """Predictions on features in arrays, [N, D] or of tokens [N, T, D], one for each that the head
    takes.

    Parameters
    ----------
    paths
        As for `stage2.export.arrays.read_features`.
    labels, class_names
        True classes, as for `stage2.export.arrays.read_labels`.

    Raises
    ------
    ConfigError
        If D or the number of files differs.
    DataError
        For a file that is not such an array.
    NotFinite
        For features, or logits of them, that are not finite.
    """
    owns, names = head.facts.arrays, list(map(str, paths))
    check_count(head.facts, names)
    given = zip(paths, owns, strict=True)
    read = [read_features(path, tokens=len(own.shape) == 2) for path, own in given]
    arrays = checked_features(head.facts, names, read)
    widest = max(*(math.prod(x.shape[1:]) for x in arrays), len(head.facts.class_names))
    size = max(1, BLOCK_BYTES // (4 * widest))
    starts = range(0, len(arrays[0]), size)
    blocks = ([x[start : start + size] for x in arrays] for start in starts)
    predictions, known = _predictions(head, blocks, []), head.facts.class_names
    if labels is not None:
        return predictions.labelled(*read_labels(labels, len(arrays[0]), known, class_names))
    if class_names is not None:
        return predictions.labelled(None, match_classes(class_names, known, "--class-names"))
    return predictions


def _place(facts: HeadFacts, part: Part, own: Input) -> str:
    """The view of a bank to read for an array that a head takes; a head that makes its views does
    its own pooling and weighting."""
    if facts.inputs:
        part = replace(part, factor=None, pool=None if own.pool else part.pool)
    return str(part)


def _predictions(
    head: LoadedHead | LoadedHeads,
    blocks: Iterator[list[np.ndarray]],
    notes: list[str],
) -> Predictions:
    """Classify blocks of rows [n, D], one array per view."""
    names = head.facts.class_names
    parts = [torch.empty(0, len(names)), *logits_of(head, blocks)]
    logits = torch.cat(parts)
    return Predictions(
        logits=logits.numpy(),
        probabilities=logits.softmax(1).numpy(),
        classes=logits.argmax(1).numpy(),
        class_names=names,
        labels=None,
        notes=notes,
    )
