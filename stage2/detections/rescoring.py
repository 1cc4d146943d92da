"""Detections: proposals that a head scores, without the background and duplicates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from featbank import errors
from featbank.exchange.coco import Annotations
from featbank.files import replacing
from featbank.wording import listed, number
from stage2.detections.proposals import Proposals
from stage2.export.headfile import LoadedHead, LoadedHeads
from stage2.export.logits import checked_features, logits_of

BLOCK_ROWS = 2048
"""Rows that are scored at once, about: whole images."""


@dataclass(frozen=True)
class Settings:
    """Choice among scored boxes.

    Attributes
    ----------
    score_threshold
        Scores up to it are dropped, 0…1.
    overlap
        Intersection over union above which the lower of two boxes of a class is dropped, 0…1.
    most
        Detections of an image.
    score_weight
        w of the score p^(1 − w)·s^w for a probability p and a detector's score s, 0…1.
    """

    score_threshold: float = 0.05
    overlap: float = 0.5
    most: int = 100
    score_weight: float = 0.0

    @classmethod
    def of(cls, annotations: Annotations | None, **given: Any) -> Settings:
        """The settings of detectron2's baselines on COCO, or on LVIS for annotations as LVIS'; in
        place of them those `given`, None where they are not."""
        usual = {}
        if annotations is not None and annotations.federated:
            usual = {"score_threshold": 1e-4, "most": 300}
        return cls(
            **{**usual, **{name: value for name, value in given.items() if value is not None}}
        )


@dataclass
class Detections:
    """Detections of one head.

    Attributes
    ----------
    entries
        One list for each image, by descending score: ``image_id``, ``category_id``, ``bbox`` (x, y,
        width, height in pixels) and ``score``.
    notes
        Rows and images that were left out, in words.
    """

    entries: list[list[dict[str, Any]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.entries))

    def write(self, path: Path) -> None:
        """Write the json that the evaluators of COCO and LVIS take, a line per image."""
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            file.write("[")
            rest = ""
            for entries in filter(None, self.entries):
                file.write(rest + ",".join(map(json.dumps, entries)))
                rest = ",\n"
            file.write("]\n")


def rescore(
    head: LoadedHead | LoadedHeads,
    proposals: Proposals,
    features: Mapping[str, Any],
    categories: np.ndarray,
    *,
    settings: Settings,
    annotations: Annotations | None = None,
) -> Detections:
    """Detections of the softmax of a head over all K classes, in images by ascending id.

    Parameters
    ----------
    features
        Arrays [N, D] by a name for messages, in the order of the head's views.
    categories
        As of `stage2.detections.categories.category_ids`.
    annotations
        Proposals of other images are left out.

    Raises
    ------
    ConfigError
        If the head takes other features, or a weight is given for scores that there are none of.
    DataError
        For boxes of classes that are not K, or where no proposal is left.
    NotFinite
        For features, or logits of them, that are not finite.
    """
    if settings.score_weight and proposals.scores is None:
        raise errors.ConfigError(
            f"{proposals.path} has no scores to weigh. Add them, or leave --score-weight out."
        )
    of_class = proposals.arrays.get("class_boxes")
    if of_class is not None and of_class.shape[1:] != (len(categories), 4):
        raise errors.DataError(
            f"{proposals.path} has class_boxes {list(of_class.shape)}, the head has "
            f"{len(categories)} classes. Give a box for each of them, [N, K, 4], or none."
        )
    arrays = checked_features(head.facts, list(features), list(features.values()))
    if len(arrays[0]) != len(proposals):
        raise errors.DataError(
            f"{proposals.path} has {len(proposals)} boxes for {len(arrays[0])} rows of features. "
            "Give the features of each box, in the same order."
        )
    detections = Detections()
    rows = _usable(proposals, annotations, detections.notes)
    rows = rows[np.argsort(proposals.image_ids[rows], kind="stable")]
    if not len(rows):
        raise errors.DataError(
            f"No proposal of {proposals.path} is left. Check its images, boxes and scores."
        )
    blocks = list(_blocks(proposals.image_ids[rows]))
    read = ([_rows(x, rows[start:stop]) for x in arrays] for start, stop in blocks)
    for (start, stop), logits in zip(blocks, logits_of(head, read, rows), strict=True):
        own = rows[start:stop]
        scores = logits.double().softmax(1)
        if settings.score_weight and proposals.scores is not None:
            objectness = torch.from_numpy(proposals.scores[own]).clamp(min=0)[:, None]
            scores = scores ** (1 - settings.score_weight) * objectness**settings.score_weight
        scores[:, categories < 0] = -1
        ids, corners = proposals.image_ids[own], proposals.boxes[own]
        boxes = torch.from_numpy(corners if of_class is None else _rows(of_class, own)).double()
        ends = [*np.flatnonzero(np.diff(ids)) + 1, len(own)]
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            chosen = choose(scores[first:end], boxes[first:end], settings)
            detections.entries.append(_entries(int(ids[first]), *chosen, categories))
    return detections


def choose(scores: Tensor, boxes: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of an image: scores above the threshold, after suppression within each class,
    the `most` largest.

    Parameters
    ----------
    scores
        [n, K] float64; −1 where a box must not be of a class.
    boxes
        [n, 4] float64 for all classes, or [n, K, 4], of which those without area are dropped.

    Returns
    -------
    scores [m], classes [m], boxes [m, 4], by descending score.
    """
    row, k = (scores > max(settings.score_threshold, 0)).nonzero(as_tuple=True)
    p, corners = scores[row, k], boxes[row] if boxes.ndim == 2 else boxes[row, k]
    wide = (corners[:, 2:] > corners[:, :2]).all(1)
    p, k, corners = p[wide], k[wide], corners[wide]
    order, size = p.argsort(descending=True, stable=True), 8 * settings.most
    while True:  # lower scores cannot suppress higher ones, so most images need few of them
        top = order[:size]
        # batched_nms moves the classes apart: in float32 that would round the boxes of many.
        kept = top[batched_nms(corners[top], p[top], k[top], settings.overlap)][: settings.most]
        if len(kept) == settings.most or size >= len(order):
            return p[kept], k[kept], corners[kept]
        size *= 4


def _usable(proposals: Proposals, annotations: Annotations | None, notes: list[str]) -> np.ndarray:
    """The rows of proposals that may be detections; what is left out is noted, a line each."""
    flat = proposals.areas <= 0
    usable = ~flat
    if count := int(flat.sum()):
        first = int(flat.argmax())
        notes.append(f"{number(count, 'box', 'boxes')} without area left out, first in row {first}")
    if proposals.scores is not None and (bad := np.isnan(proposals.scores)).any():
        notes.append(
            f"{number(int(bad.sum()), 'proposal')} with the score NaN left out, first in row "
            f"{int(bad.argmax())}"
        )
        usable &= ~bad
    if annotations is not None:
        known = np.isin(proposals.image_ids, annotations.image_ids)
        if count := int((~known).sum()):
            notes.append(
                f"{number(count, 'proposal')} of images that {annotations.path} does not have left "
                f"out, first of image {proposals.image_ids[(~known).argmax()]}"
            )
            usable &= known
        empty = sorted(set(annotations.image_ids) - set(proposals.image_ids.tolist()))
        if empty:
            notes.append(
                f"{len(empty)} of {number(len(annotations.images), 'image')} without a proposal: "
                f"{listed(empty, 3)}"
            )
    return np.flatnonzero(usable)


def _blocks(image_ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """Blocks of whole images in sorted ids [N]."""
    ends = [*np.flatnonzero(np.diff(image_ids)) + 1, len(image_ids)]
    start = 0
    for end in ends:
        if end - start >= BLOCK_ROWS or end == len(image_ids):
            yield start, int(end)
            start = int(end)


def _rows(x: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array, which may be on disk, as a slice where they are one."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return x[int(rows[0]) : int(rows[-1]) + 1]
    return x[rows]


def _entries(
    image: int, scores: Tensor, classes: Tensor, boxes: Tensor, categories: np.ndarray
) -> list[dict[str, Any]]:
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    ids = categories[classes.numpy()].tolist()
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(ids, sides, scores.tolist(), strict=True)
    ]
