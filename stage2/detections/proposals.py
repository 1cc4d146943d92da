"""Boxes that a detector proposes, with the image, the features and perhaps a score of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.exchange.coco import read_entries
from featbank.exchange.formats import open_arrays
from featbank.exchange.integers import as_integers

_GIVE = (
    "Give .npz or .h5 with image_ids [N], boxes [N, 4] as x1, y1, x2, y2 and features [N, D], or "
    "a json list with image_id, bbox and score."
)

OTHERS = ("features", "class_boxes")
"""Arrays that are read in blocks: features [N, D]; the detector's box for each class of a head, the
background included, [N, K, 4], by its corners."""


@dataclass(frozen=True)
class Proposals:
    """N boxes.

    Attributes
    ----------
    path
        The file, for messages.
    image_ids
        [N] int64.
    boxes
        Corners x1, y1, x2, y2 in pixels, [N, 4] float64.
    scores
        The detector's, [N] float64; None where the file has none.
    arrays
        Those of `OTHERS` that the file has, by name, as `featbank.exchange.formats.open_arrays`
        gives them.
    """

    path: Path
    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None
    arrays: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def areas(self) -> np.ndarray:
        """Width times height [N]; 0 where a side is not positive, or not finite."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.where((sides > 0).all(1) & np.isfinite(sides).all(1), sides.prod(1), 0)


def read_proposals(path: Path) -> Proposals:
    """Read proposals: arrays ``image_ids``, ``boxes`` and perhaps ``scores``, or a json list of
    objects with ``image_id``, ``bbox`` (x, y, width, height) and perhaps ``score``, as detectron2
    and mmdetection write their results.

    Raises
    ------
    DataError
        For a missing file, another content, or arrays of different lengths.
    """
    if path.suffix.lower() == ".json":
        return _from_json(path)
    arrays = open_arrays(path)
    for name in ("image_ids", "boxes"):
        if name not in arrays:
            raise errors.DataError(f"{path} has no array {name}. {_GIVE}")
    others = {name: arrays[name] for name in OTHERS if name in arrays}
    boxes = np.asarray(arrays["boxes"][:], np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise errors.DataError(f"{path}: boxes are {list(boxes.shape)}. {_GIVE}")
    scores = np.asarray(arrays["scores"][:], np.float64) if "scores" in arrays else None
    found = Proposals(path, as_integers(arrays["image_ids"][:], "image_ids"), boxes, scores, others)
    given = {"boxes": boxes, **({} if scores is None else {"scores": scores}), **others}
    for name, array in given.items():
        if not array.shape or array.shape[0] != len(found):
            raise errors.DataError(
                f"{path}: {name} are {list(array.shape)} for {len(found)} image_ids. {_GIVE}"
            )
    return found


def _from_json(path: Path) -> Proposals:
    entries = read_entries(path, ("image_id", "bbox"), _GIVE)
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = None
    if entries and "score" in entries[0]:
        read_entries(path, ("score",), _GIVE)
        scores = np.array([entry["score"] for entry in entries], np.float64)
    ids = np.array([entry["image_id"] for entry in entries], np.int64)
    return Proposals(path, ids, boxes, scores, {})
