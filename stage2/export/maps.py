"""Whole maps classified by an exported head, at the resolution of their labels.

Axes: K classes, H and W height and width of labels, h and w those of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from featbank import errors
from featbank.bank import Bank
from featbank.bank.class_names import ClassMatch
from featbank.bank.maps import IGNORED, Maps
from featbank.files import replacing
from featbank.wording import listed
from stage2.export.headfile import LoadedHead, LoadedHeads
from stage2.export.logits import logits_of
from stage2.export.prediction import BLOCK_BYTES, bank_notes, matched, places_of
from stage2.export.target import known_prior, read_prior, transductive
from stage2.methods.priors import log_shift


@dataclass(frozen=True)
class ClassifiedMap:
    """A map with its predictions.

    Attributes
    ----------
    image
        Its source group.
    truth
        Labels [H, W] as the head numbers its classes; K and more for classes that it does not
        have, `IGNORED` for pixels that count in no figure.
    predicted
        Classes [H, W] of the largest logits.
    """

    image: int
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def right(self) -> float:
        """Share of the pixels with a label that are right, in percent; NaN without any."""
        known = self.truth != IGNORED
        with np.errstate(invalid="ignore"):
            return float(100 * np.divide((self.truth == self.predicted)[known].sum(), known.sum()))


class MapClassifier:
    """The maps of a split of a bank, classified by a head one after another.

    Logits are made cell by cell and upsampled bilinearly to the labels, corners not aligned.

    Parameters
    ----------
    head, bank
        The head, and an open bank with maps.
    split
        By default test, or else val.
    views, class_names
        As for `stage2.export.prediction.predict_bank`.
    prior
        Class prior that the logits are moved to, as `stage2.export.target.read_prior` takes it.
    restricted
        Whether only the bank's classes compete.

    Attributes
    ----------
    split, maps
        The maps.
    match
        The bank's classes among the head's.
    notes
        Ways in which the bank differs from the head's.

    Raises
    ------
    ConfigError
        If D or the number of views differs, the bank lacks maps or a view, or the prior is to be
        estimated from rows.
    Mismatch
        For classes of which none is known by name.
    """

    def __init__(
        self,
        head: LoadedHead | LoadedHeads,
        bank: Bank,
        *,
        split: str | None = None,
        views: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        prior: str | None = None,
        restricted: bool = False,
    ) -> None:
        facts = head.facts
        self.split = split or next((s for s in ("test", "val") if s in bank.mapped), "test")
        if (maps := bank.maps(self.split)) is None:
            raise errors.ConfigError(
                f"{bank.path} has no whole maps of {self.split}. Import some with --maps."
            )
        self.maps: Maps = maps
        self._head, self._places = head, places_of(facts, bank, views, "train")
        self.notes = bank_notes(facts, bank, views)
        self.match: ClassMatch = matched(bank, facts.class_names, class_names)
        self.notes += [self.match.note] if self.match.note else []
        self._kept = self.match.present if restricted else np.arange(len(facts.class_names))
        self._shift = None
        if prior is not None:
            if transductive(prior):
                raise errors.ConfigError(
                    f"A prior is not estimated from whole maps, and {prior} would. Give uniform, "
                    "values or a file."
                )
            source = np.array(known_prior(facts).source)
            self._shift = log_shift(read_prior(prior, facts.class_names), source)

    def __len__(self) -> int:
        return len(self.maps)

    def __iter__(self) -> Iterator[ClassifiedMap]:
        return map(self.one, range(len(self)))

    def one(self, m: int) -> ClassifiedMap:
        """Classify map m."""
        labels = self.maps.labels(m)
        truth, known = np.full(labels.shape, IGNORED), labels != IGNORED
        truth[known] = self.match.labels(labels[known])
        best = largest(self.logits(m)[self._kept], labels.shape)
        return ClassifiedMap(int(self.maps.images[m]), truth, self._kept[best])

    def logits(self, m: int) -> Tensor:
        """Logits [K, h, w] of map m."""
        xs = [self.maps.features(m, place) for place in self._places]
        height, width = xs[0].shape[:2]
        rows = [x.reshape(height * width, *x.shape[2:]) for x in xs]
        widest = max(*(x[0].size for x in rows), len(self._head.facts.class_names))
        step = max(1, BLOCK_BYTES // (4 * widest))
        blocks = ([x[i : i + step] for x in rows] for i in range(0, height * width, step))
        z = torch.cat(list(logits_of(self._head, blocks)))
        if self._shift is not None:
            z = z + torch.from_numpy(self._shift).float()
        return z.t().unflatten(1, (height, width))


def largest(logits: Tensor, size: Sequence[int]) -> np.ndarray:
    """The class [H, W] of the largest of logits [K, h, w] upsampled to a size (H, W).

    Classes are upsampled some at a time, as K maps of labels may not fit into memory; the first of
    equal logits wins, as of all at once.
    """
    height, width = size
    step = max(1, BLOCK_BYTES // (4 * height * width))
    best = torch.full((height, width), -torch.inf)
    classes = torch.zeros((height, width), dtype=torch.int64)
    for start in range(0, len(logits), step):
        z = logits[None, start : start + step]
        z = interpolate(z, (height, width), mode="bilinear", align_corners=False)[0]
        value, place = z.max(0)
        higher = value > best
        best = torch.where(higher, value, best)
        classes = torch.where(higher, start + place, classes)
    return classes.numpy()


def write_label_map(path: Path, classes: np.ndarray, ids: np.ndarray) -> None:
    """Write classes [H, W] as a PNG of their numbers `ids` [K], of 8 bits or else 16.

    Raises
    ------
    ConfigError
        For numbers of more than 16 bits.
    """
    from PIL import Image

    if ids.max(initial=0) >= 1 << 16:
        raise errors.ConfigError(
            f"Class numbers go up to {ids.max()}, a PNG holds 16 bits. Import the bank with labels "
            "below 65,536."
        )
    depth = np.uint8 if ids.max(initial=0) < 1 << 8 else np.uint16
    with replacing(path) as part, part.open("wb") as file:
        Image.fromarray(ids[classes].astype(depth)).save(file, "PNG")


def ids_of(bank: Bank, match: ClassMatch, *, restricted: bool) -> np.ndarray:
    """Number [K] of each class of a head in the label maps of a bank.

    Raises
    ------
    ConfigError
        For classes that the bank does not have, unless predictions are `restricted` to its own.
    """
    if match.absent and not restricted:
        raise errors.ConfigError(
            f"{bank.path} has no number for {listed(match.absent, 3)} of the head. "
            "Give --restrict-classes."
        )
    ids = np.zeros(len(match.known), np.int64)
    known = match.places >= 0
    ids[match.places[known]] = bank.map_ids[known]
    return ids
