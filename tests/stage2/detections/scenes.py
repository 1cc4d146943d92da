"""Annotations and detections drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np


def scene(
    seed: int = 0, *, federated: bool = False, images: int = 12, categories: int = 9
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations as COCO's or LVIS', and detections: annotated boxes that are moved, missed, found
    twice or under another name, and boxes of nothing. The last image has no annotation, the last
    category no box."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images):
        for _ in range(rng.integers(1, 7)):
            k = int(rng.integers(1, categories))
            x, y, w, h = (rng.uniform(5, 120, 4)).tolist()
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": k}
            entry |= {"bbox": [x, y, w, h], "area": 0.7 * w * h}
            truth.append(entry if federated else entry | {"iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.integers(0, 4)):
                moved = (np.array([x, y, w, h]) + rng.normal(0, 4, 4) * rng.random()).clip(1)
                other = int(rng.integers(1, categories)) if rng.random() < 0.2 else k
                found.append((image, other, moved.tolist()))
    found += [
        (int(rng.integers(1, images + 1)), int(rng.integers(1, categories + 1)), box)
        for box in rng.uniform(5, 90, (30, 4)).tolist()
    ]
    scores = rng.choice(np.arange(1, 60) / 64, len(found))  # with ties
    names: list[dict[str, Any]] = [{"id": k, "name": f"c{k}"} for k in range(1, categories + 1)]
    pictures: list[dict[str, Any]] = [
        {"id": i, "width": 300, "height": 300} for i in range(1, images + 1)
    ]
    if federated:
        for category in names:
            category["frequency"] = "rcf"[category["id"] % 3]
        for picture in pictures:
            own = {e["category_id"] for e in truth if e["image_id"] == picture["id"]}
            others = [k for k in range(1, categories + 1) if k not in own]
            picture["neg_category_ids"] = [k for k in others if rng.random() < 0.5]
            picture["not_exhaustive_category_ids"] = [k for k in own if rng.random() < 0.4]
    detections = [
        {"image_id": i, "category_id": k, "bbox": box, "score": float(s)}
        for (i, k, box), s in zip(found, scores, strict=True)
    ]
    return {"images": pictures, "annotations": truth, "categories": names}, detections
