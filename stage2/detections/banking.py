"""A bank of the regions of a detector: labelled proposals as rows, with a background class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import BankWriter
from featbank.bank.grouping import ClassGroups
from featbank.exchange.coco import Annotations, read_annotations
from featbank.settings import shortened
from featbank.wording import listed, number
from stage2.detections.matching import Sampling, labelled_rows
from stage2.detections.proposals import Proposals, read_proposals

BACKGROUND = "background"
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Regions:
    """Labelled proposals of a split.

    Attributes
    ----------
    proposals
        All of them.
    features
        [N, D], one row for each.
    rows, labels
        The sample, [M] each.
    notes
        What was left out, in words.
    """

    proposals: Proposals
    features: Any
    rows: np.ndarray
    labels: np.ndarray
    notes: list[str]


def read_regions(
    pairs: Mapping[str, tuple[Path, Path]],
    features: Mapping[str, Any],
    sampling: Sampling,
) -> tuple[dict[str, Regions], list[str], ClassGroups | None]:
    """Labelled proposals of each split, class names and class groups.

    The classes are the categories of train by ascending id, and the background last: the order of
    the classifiers of detectron2 and mmdetection.

    Parameters
    ----------
    pairs
        Proposals and annotations by split, train among them.
    features
        Features [N, D] of splits whose proposals have none.

    Raises
    ------
    ConfigError
        For proposals without features.
    DataError
        For files that are not such, do not fit together, or categories that train does not have.
    """
    truth = {split: read_annotations(path) for split, (_, path) in pairs.items()}
    categories = sorted(truth["train"].categories, key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    if twice := next((n for k, n in enumerate([*names, BACKGROUND]) if n in names[:k]), None):
        raise errors.DataError(
            f"{truth['train'].path} has several categories named {shortened(twice)}, or one like "
            "the background. Rename them."
        )
    groups = None
    if categories and all("frequency" in category for category in categories):
        listed_groups = [category["frequency"] for category in categories]
        groups = ClassGroups.by_list([*listed_groups, "-"])
    regions = {}
    for split, (path, _) in pairs.items():
        proposals = read_proposals(path)
        classes = _classes(truth[split], names)
        rows, labels, notes = labelled_rows(proposals, truth[split], classes, len(names), sampling)
        x = _features(proposals, split, features.get(split))
        regions[split] = Regions(proposals, x, rows, labels, [f"{split}: {n}" for n in notes])
    return regions, [*names, BACKGROUND], groups


def write_regions(
    output: Path,
    regions: Mapping[str, Regions],
    names: Sequence[str],
    groups: ClassGroups | None,
    *,
    sampling: Sampling,
    classifier: tuple[np.ndarray, np.ndarray] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the bank: images as source groups, the last class as the background.

    Parameters
    ----------
    classifier
        Weight [K, D] and bias [K] of the detector, in the order of the names.

    Raises
    ------
    OutputExists, NoSpace
        If the bank cannot be written.
    DataError
        For features or a classifier that do not fit.
    """
    x = regions["train"].features
    dtype = "float16" if x.dtype == np.float16 else "float32"
    files = {split: each.proposals.path.name for split, each in regions.items()}
    provenance = {"made_by": "featbank import-regions", "files": files, **asdict(sampling)}
    with BankWriter(
        output, names, dim=x.shape[1], dtype=dtype, provenance=provenance, overwrite=overwrite
    ) as writer:
        writer.background(len(names) - 1)
        if groups is not None:
            writer.class_groups(groups)
        for split, each in regions.items():
            images = each.proposals.image_ids[each.rows]
            writer.split(split, each.labels, index=each.rows, source_group=images)
        if classifier is not None:
            writer.classifier("instance", *classifier)
        for split, each in regions.items():
            stored = writer.features(split, "instance", dim=each.features.shape[1])
            for start in range(0, len(each.rows), BLOCK_ROWS):
                rows = each.rows[start : start + BLOCK_ROWS]
                ascending, back = np.unique(rows, return_inverse=True)
                stored.append(each.features[ascending].astype(dtype)[back])


def _classes(annotations: Annotations, names: Sequence[str]) -> dict[int, int]:
    """The class of each category that annotations have, by name."""
    numbers = {name: k for k, name in enumerate(names)}
    strange = [c["name"] for c in annotations.categories if c["name"] not in numbers]
    if strange:
        raise errors.DataError(
            f"{annotations.path} has {number(len(strange), 'category', 'categories')} that train "
            f"does not have ({listed(map(shortened, strange), 3)}). Give annotations of the same "
            "categories."
        )
    classes = {c["id"]: numbers[c["name"]] for c in annotations.categories}
    unknown = {entry["category_id"] for entry in annotations.annotations} - classes.keys()
    if unknown:
        raise errors.DataError(
            f"{annotations.path} has boxes of category {min(unknown)}, which is not among its "
            "categories. Add it there, or remove them."
        )
    return classes


def _features(proposals: Proposals, split: str, given: Any) -> Any:
    """Features [N, D] of proposals, their own or those given."""
    x = proposals.arrays.get("features") if given is None else given
    if x is None:
        raise errors.ConfigError(
            f"{proposals.path} has no array features. Give it: --features {split} X.npy."
        )
    if len(x.shape) != 2 or len(x) != len(proposals):
        raise errors.DataError(
            f"The features of {split} are {list(x.shape)} for {len(proposals)} boxes. Give "
            "[N, D], a row for each box in the same order."
        )
    return x
