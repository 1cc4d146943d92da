"""Average precision of detections, by pycocotools; under the rules of LVIS for its annotations.

LVIS' own evaluator, in its last release 0.5.3, needs ``numpy.float``, which NumPy 1.24 removed:
its rules are here, around pycocotools' matching and accumulation:

- A detection counts only in an image whose category is annotated as present, or listed as absent
  (``neg_category_ids``).
- A detection without a match is ignored where not every object of the category is annotated
  (``not_exhaustive_category_ids``).
- The 300 largest scores of an image count, whatever their categories; COCO takes 100 of each.
- AP_r, AP_c and AP_f are means over the categories of a ``frequency``: in up to 10, up to 100 and
  more images of train.

Sources: Lin et al., *Microsoft COCO* (ECCV 2014); Gupta, Dollár & Girshick, *LVIS* (CVPR 2019).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.characters import in_markdown
from featbank.exchange.coco import Annotations, Entry, read_entries
from featbank.wording import listed, number
from stage2.results.tables import Table, csv_text

MOST = 300
"""Detections of an image that count in LVIS."""

MOST_PER_CATEGORY = 100
"""Detections of a category in an image that count in COCO."""

FREQUENCIES = ("r", "c", "f")
"""Rare, common and frequent."""

METRICS = ("AP", "AP50", "AP75", *(f"AP_{frequency}" for frequency in FREQUENCIES))

_GIVE = "Give a json list with image_id, category_id, bbox and score, as featbank predict writes."


@dataclass
class Precision:
    """The average precision of detections.

    Attributes
    ----------
    metrics
        By the names of `METRICS`, in %: the mean over the IoU thresholds 0.5, 0.55, … 0.95 and the
        categories; at 0.5 and at 0.75; by frequency. None where there is nothing to detect, and by
        frequency where the categories have none.
    categories
        AP of each category by name, in %.
    notes
        Peculiarities of detections and annotations, in words.
    """

    metrics: dict[str, float | None]
    categories: dict[str, float | None]
    notes: list[str] = field(default_factory=list)


def read_detections(path: Path) -> list[Entry]:
    """Read detections.

    Raises
    ------
    DataError
        For a missing file, or one that is no list of detections.
    """
    return read_entries(path, ("image_id", "category_id", "bbox", "score"), _GIVE)


def average_precision(
    annotations: Annotations, detections: Sequence[Entry], whose: str = "The detections"
) -> Precision:
    """The average precision of boxes.

    Parameters
    ----------
    detections
        With ``image_id``, ``category_id``, ``bbox`` and ``score``.
    whose
        What the detections are, for messages.

    Raises
    ------
    ConfigError
        Without pycocotools, or for detections of no image of the annotations.
    """
    if find_spec("pycocotools") is None:
        raise errors.ConfigError(
            "AP needs the package pycocotools. Run pip install 'featbank[detection]'."
        )
    notes: list[str] = []
    truth = _truth(annotations, notes)
    counted = _counted(annotations, detections, whose, notes)
    if annotations.federated:
        truth = [entry for entry in truth if entry["area"] > 0]
        counted = _federated(annotations, truth, counted)
    evaluator = _evaluated(annotations, truth, counted)
    precision = evaluator.eval["precision"][:, :, :, 0, 0]  # [thresholds, recalls, categories]
    thresholds = evaluator.params.iouThrs
    by_id = {category["id"]: category for category in annotations.categories}
    categories = [by_id[k] for k in evaluator.params.catIds]
    metrics = {
        "AP": _mean(precision),
        "AP50": _mean(precision[np.isclose(thresholds, 0.5)]),
        "AP75": _mean(precision[np.isclose(thresholds, 0.75)]),
    }
    for frequency in FREQUENCIES:
        chosen = [k for k, each in enumerate(categories) if each.get("frequency") == frequency]
        metrics[f"AP_{frequency}"] = _mean(precision[:, :, chosen])
    each = {c["name"]: _mean(precision[:, :, k]) for k, c in enumerate(categories)}
    return Precision(metrics, each, notes)


def _mean(precision: np.ndarray) -> float | None:
    """The mean in %; −1 stands for a category without a box."""
    valid = precision[precision > -1]
    return 100 * float(valid.mean()) if valid.size else None


def _truth(annotations: Annotations, notes: list[str]) -> list[Entry]:
    """The annotated boxes, numbered from 1: pycocotools takes the number 0 for no match."""
    truth = [
        {
            "area": entry["bbox"][2] * entry["bbox"][3],
            "iscrowd": 0,
            **entry,
            "id": place,
        }
        for place, entry in enumerate(annotations.annotations, 1)
    ]
    flat = sum(min(entry["bbox"][2:]) <= 0 for entry in truth)
    if flat:
        notes.append(
            f"{annotations.path} has {number(flat, 'box', 'boxes')} without area, which nothing "
            "can match"
        )
    labelled = {entry["image_id"] for entry in truth}
    if empty := [i for i in annotations.image_ids if i not in labelled]:
        notes.append(
            f"{number(len(empty), 'image')} of {annotations.path} without a label: "
            f"{listed(empty, 3)}"
        )
    return truth


def _counted(
    annotations: Annotations, detections: Sequence[Entry], whose: str, notes: list[str]
) -> list[Entry]:
    """The detections that can count, as pycocotools takes them."""
    images = set(annotations.image_ids)
    categories = {category["id"] for category in annotations.categories}
    left_out: dict[str, int] = defaultdict(int)
    counted: list[Entry] = []
    flat = 0
    for entry in detections:
        x, y, width, height = entry["bbox"]
        flat += min(width, height) <= 0
        if entry["image_id"] not in images:
            left_out[f"of images that {annotations.path} does not have"] += 1
        elif entry["category_id"] not in categories:
            left_out[f"of categories that {annotations.path} does not have"] += 1
        elif math.isnan(entry["score"]):
            left_out["with the score NaN"] += 1
        elif not math.isfinite(x + y + width + height):
            left_out["with a side that is not finite"] += 1
        elif min(width, height) <= 0 and annotations.federated:
            left_out["without area"] += 1
        else:
            own = {"id": len(counted) + 1, "area": width * height, "iscrowd": 0}
            counted.append({**entry, **own})
    if detections and not any(entry["image_id"] in images for entry in detections):
        raise errors.ConfigError(
            f"{whose} are of no image of {annotations.path}. Give the annotations of their split."
        )
    for reason, count in left_out.items():
        notes.append(f"{whose}: {number(count, 'detection')} {reason} left out")
    if flat and not annotations.federated:
        notes.append(f"{whose}: {number(flat, 'detection')} without area, which can only be wrong")
    return counted


def _federated(
    annotations: Annotations, truth: Sequence[Entry], detections: Sequence[Entry]
) -> list[Entry]:
    """The detections of categories that are annotated in their image, at most `MOST` of each."""
    judged = {image["id"]: set(image.get("neg_category_ids", ())) for image in annotations.images}
    for entry in truth:
        judged[entry["image_id"]].add(entry["category_id"])
    by_image = defaultdict(list)
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    most = [
        entry
        for entries in by_image.values()
        for entry in sorted(entries, key=lambda e: -e["score"])[:MOST]
    ]
    return [entry for entry in most if entry["category_id"] in judged[entry["image_id"]]]


def _evaluated(
    annotations: Annotations, truth: Sequence[Entry], detections: Sequence[Entry]
) -> Any:
    """pycocotools' evaluator of boxes of all areas, after accumulation."""
    from pycocotools.coco import COCO  # an extra: featbank[detection]
    from pycocotools.cocoeval import COCOeval

    shared: dict[str, Any] = {"images": annotations.images, "categories": annotations.categories}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = []
        for entries in (truth, detections):
            side = COCO()
            side.dataset = {**shared, "annotations": list(entries)}
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, iouType="bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [MOST if annotations.federated else MOST_PER_CATEGORY]
        evaluator.evaluate()
        partial = {
            image["id"]: set(image.get("not_exhaustive_category_ids", ()))
            for image in annotations.images
        }
        for each in filter(None, evaluator.evalImgs):
            if each["category_id"] in partial[each["image_id"]]:
                each["dtIgnore"] |= each["dtMatches"] == 0
        evaluator.accumulate()
    return evaluator


def precision_table(found: Mapping[str, Precision], title: str) -> Table:
    """A line of metrics for each file of detections; those that none has are left out."""
    shown = [m for m in METRICS if any(each.metrics[m] is not None for each in found.values())]
    lines = [[name, *(_text(each.metrics[m]) for m in shown)] for name, each in found.items()]
    return Table(title, ["detections", *shown], lines)


def render_precision(found: Mapping[str, Precision], form: str, title: str) -> str:
    """The same as ``json``, with every category, ``csv``, ``md`` or ``latex``."""
    if form == "json":
        rows = [
            {"detections": name, **each.metrics, "categories": each.categories}
            for name, each in found.items()
        ]
        return json.dumps(rows, indent=1, allow_nan=False)
    if form == "csv":
        values = ((name, *each.metrics.values()) for name, each in found.items())
        return csv_text(["detections", *METRICS], values).rstrip("\n")
    table = precision_table(found, title)
    return table.latex() if form == "latex" else f"{table.markdown()}\n\n{in_markdown(title)}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
