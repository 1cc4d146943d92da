"""Labels of proposals by their overlap with annotated boxes, and a sample of each image.

Source: Girshick, *Fast R-CNN* (ICCV 2015), section 2.3, with the figures of detectron2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from featbank import errors
from featbank.exchange.coco import Annotations, Entry
from featbank.wording import listed, number
from stage2.detections.proposals import Proposals

CROWDED = 0.7
"""Share of a proposal in a box of a crowd (``iscrowd``) from which on it is not sampled, as in
Detectron."""


@dataclass(frozen=True)
class Sampling:
    """Labels and sample of the proposals of an image.

    Attributes
    ----------
    foreground_iou
        Least overlap (intersection over union) with an annotated box to be of its class, 0…1.
    background_iou
        The largest overlap from which on a proposal is background, 0…1, below `foreground_iou`;
        0.1 in Fast R-CNN.
    rows_per_image
        Proposals of an image, at most.
    foreground_share
        Share of these that may be foreground: 0.25 is 1 to 3 of background, which takes the places
        of foreground that is missing.
    seed
        Of the sample.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.0
    rows_per_image: int = 512
    foreground_share: float = 0.25
    seed: int = 0


def matched(
    boxes: np.ndarray,
    truth: np.ndarray,
    classes: np.ndarray,
    crowds: np.ndarray,
    *,
    background: int,
    sampling: Sampling,
) -> np.ndarray:
    """Class of each of n proposals of an image, [n] int64; −1 for one that is neither of a class
    nor background.

    Parameters
    ----------
    boxes
        [n, 4] corners.
    truth, classes
        Annotated boxes [m, 4] and their classes [m].
    crowds
        Boxes of crowds, [c, 4].
    background
        The class of the background.
    """
    best, place = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    if len(truth):
        overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(truth)).numpy()
        best, place = overlaps.max(1), overlaps.argmax(1)
    labels = np.where(best >= sampling.background_iou, background, -1)
    if len(crowds):
        low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
        inside = (high - low).clip(0).prod(-1).max(1)
        labels[inside >= CROWDED * (boxes[:, 2:] - boxes[:, :2]).prod(-1)] = -1
    if len(truth):
        labels = np.where(best >= sampling.foreground_iou, classes[place], labels)
    return labels


def sample(labels: np.ndarray, background: int, sampling: Sampling, image: int) -> np.ndarray:
    """Rows of a sample of an image's proposals, ascending; labels [n] as of `matched`. The same
    for the same seed and image."""
    rng = np.random.default_rng([sampling.seed, image])
    foreground = np.flatnonzero((labels >= 0) & (labels != background))
    rest = np.flatnonzero(labels == background)
    most = min(len(foreground), int(sampling.foreground_share * sampling.rows_per_image))
    chosen = [
        rng.permutation(rows)[:count]
        for rows, count in ((foreground, most), (rest, sampling.rows_per_image - most))
    ]
    return np.sort(np.concatenate(chosen))


def labelled_rows(
    proposals: Proposals,
    annotations: Annotations,
    classes: Mapping[int, int],
    background: int,
    sampling: Sampling,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of the proposals of all images, labels, and what was left out in words.

    Parameters
    ----------
    classes
        The class of each category.
    background, sampling
        As of `matched` and `sample`.

    Returns
    -------
    rows [M] ascending by image, labels [M], notes.

    Raises
    ------
    DataError
        For proposals of no annotated image, or without area.
    """
    notes: list[str] = []
    usable = proposals.areas > 0
    if count := int((~usable).sum()):
        if count == len(proposals):
            raise errors.DataError(
                f"No box of {proposals.path} has an area. Give x1 < x2 and y1 < y2 in pixels."
            )
        first = int((~usable).argmax())
        notes.append(f"{number(count, 'box', 'boxes')} without area left out, first in row {first}")
    truth = _by_image(annotations, notes)
    if images := [image for image in annotations.image_ids if image not in truth]:
        notes.append(
            f"{number(len(images), 'image')} of {annotations.path} without a label left out: "
            f"{listed(images, 3)}"
        )
    order = np.argsort(proposals.image_ids, kind="stable")
    order = order[usable[order]]
    ids, starts = np.unique(proposals.image_ids[order], return_index=True)
    rows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for image, own in zip(ids.tolist(), np.split(order, starts[1:]), strict=True):
        if image not in truth:
            continue
        entries = truth.pop(image)
        plain = [entry for entry in entries if not entry.get("iscrowd")]
        found = matched(
            proposals.boxes[own],
            _corners(plain),
            np.array([classes[entry["category_id"]] for entry in plain], np.int64),
            _corners([entry for entry in entries if entry.get("iscrowd")]),
            background=background,
            sampling=sampling,
        )
        chosen = sample(found, background, sampling, image)
        rows.append(own[chosen])
        labels.append(found[chosen])
    if len(rows) == 1:
        raise errors.DataError(
            f"{proposals.path} has no proposal of an annotated image of {annotations.path}. Give "
            "the annotations of its images."
        )
    if truth:
        notes.append(f"{number(len(truth), 'image')} without a proposal: {listed(truth, 3)}")
    return np.concatenate(rows), np.concatenate(labels), notes


def _by_image(annotations: Annotations, notes: list[str]) -> dict[int, list[Entry]]:
    """The annotated boxes of each image that has any."""
    truth = defaultdict(list)
    flat = 0
    for entry in annotations.annotations:
        if min(entry["bbox"][2:]) > 0:
            truth[entry["image_id"]].append(entry)
        else:
            flat += 1
    if flat:
        notes.append(f"{number(flat, 'box', 'boxes')} of {annotations.path} without area left out")
    return dict(truth)


def _corners(entries: list[Entry]) -> np.ndarray:
    """Boxes [m, 4] by their corners."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
