"""Assembly of a bank from shards: existing ones are reused, the others computed."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from featbank.bank import BankWriter
from featbank.bank.rows import FeatureRows, as_stored
from featbank.bank.shards import Shards
from featbank.wording import listed, number
from stage1.backbones import Backbone
from stage1.backbones.layers import Layers
from stage1.data.images import ImageDataset, Preprocessing, batches_of, on_device
from stage1.extraction.subject import seen_rows
from stage1.inference.batchnorm import batchnorm_statistics, rebalanced
from stage1.inference.features import (
    RowRange,
    crops_of,
    features_of,
    row_ranges,
    row_shapes,
    view_names,
)
from stage1.inference.options import VIEWS, FeatureOptions
from stage1.processes.behind import Behind
from stage1.processes.distributed import ProcessGroup

Report = Callable[[str], None]


@dataclass(frozen=True)
class Extraction:
    """Request for the features of `dataset` under `model` and `options`.

    `trained_on` are the splits of `dataset` that the model was trained on.
    """

    dataset: ImageDataset
    model: Backbone
    preprocessing: Preprocessing
    options: FeatureOptions
    trained_on: tuple[str, ...]
    layers: Layers | None = None

    @property
    def views(self) -> dict[str, tuple[int, ...]]:
        """Shapes (D,) of a row, (T, D) of tokens, by view of the bank."""
        return row_shapes(self.options.views, self.model, self.layers)

    @property
    def width(self) -> int:
        """Features of an image, over all views."""
        return sum(map(math.prod, self.views.values()))

    @property
    def ranges(self) -> list[RowRange]:
        """All ranges of rows, in the order of a bank."""
        return row_ranges(self.dataset.splits, self.options, width=self.width)


def begin(work: Extraction, shards: Shards, writer: BankWriter, *, report: Report) -> None:
    """Reserve disk space; estimate the BatchNorm statistics of the balanced view, a shard too.

    Raises
    ------
    NoSpace
        Where the disk cannot hold shards and bank side by side.
    """
    ranges, balanced = work.ranges, "balanced" in work.options.views
    images = sum(rows.images for rows in ranges)
    size = images * work.width * writer.dtype.itemsize
    writer.reserve(max(0, 2 * size - shards.size))
    if there := len(shards.names):
        report(f"Resuming: {there} of {len(ranges) + balanced} shards are there")
    if not balanced or shards.read("batchnorm") is not None:
        return
    batches = work.options.balanced_batches
    assert batches is not None
    report(f"Re-estimating BatchNorm over {batches} class-balanced batches")
    fresh = rebalanced(
        work.model,
        work.dataset.splits["train"],
        preprocessing=work.preprocessing,
        batches=batches,
        seed=work.options.seed,
    )
    state = {name: value.cpu().numpy() for name, value in fresh.state_dict().items()}
    shards.write("batchnorm", {name: state[name] for name in state if ".running_" in name})


class BankRows:
    """Splits of a bank, open for ranges of rows in order."""

    def __init__(self, work: Extraction, writer: BankWriter) -> None:
        self._rows: dict[str, dict[str, FeatureRows]] = {}
        seen = seen_rows(work.dataset, work.trained_on)
        for name, split in work.dataset.splits.items():
            writer.split(
                name,
                split.labels.numpy(),
                index=split.index,
                paths=split.paths,
                source=split.source,
                seen=seen[name],
            )
            copies = work.options.copies(name)
            self._rows[name] = {
                view: writer.features(
                    name, view, copies=copies, dim=dim, tokens=next(iter(tokens), None)
                )
                for view, (*tokens, dim) in work.views.items()
            }

    def append(self, rows: RowRange, features: Mapping[str, np.ndarray]) -> None:
        """Add the features [A, rows, D] or [A, rows, T, D] of a range by view."""
        for view, stored in self._rows[rows.split].items():
            stored.append(features[view])


def compute(
    work: Extraction,
    shards: Shards,
    models: Mapping[str, Backbone],
    *,
    group: ProcessGroup,
    bank: BankRows | None,
    report: Report,
    progress: Callable[[int, int], None],
) -> int:
    """Compute the missing shards of this process; add all of its shards to `bank`, if given.

    Reading, computing and writing overlap: files are decoded ahead, and a thread checks, rounds,
    digests and writes computed features.

    Returns
    -------
    The images that were last reported as done; other processes may still be at work.

    Raises
    ------
    DataError, OSError
    """
    mine = work.ranges[group.rank :: group.size]
    others = [rows for rows in work.ranges if rows not in mine]
    missing = {rows.name for rows in mine if shards.read(rows.name) is None}
    total, done, done_by_others = sum(rows.images for rows in work.ranges), 0, 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(done + done_by_others, total)

    def keep(rows: RowRange, features: Callable[[], dict[str, np.ndarray]]) -> None:
        stored = {
            view: _stored(block, work.options, f"{rows.split}/{view}/feature", rows.start)
            for view, block in features().items()
        }
        shards.write(rows.name, stored)
        if bank:
            bank.append(rows, stored)

    def reuse(rows: RowRange) -> None:
        if bank:
            bank.append(rows, finished(shards, rows))

    with Behind() as behind:
        for name, split in work.dataset.splits.items():
            seed, copies = work.options.augmentation_seed(name), work.options.copies(name)
            kind = "" if seed is None else f"{copies} augmented copies of "
            count = number(len(split.labels), f"{name} image")
            report(f"Extracting {kind}{count}: {listed(work.views, 6)}")
            here = [rows for rows in mine if rows.split == name]
            batches = (batch for rows in here if rows.name in missing for batch in rows.batches)
            device = work.model.device
            cuts = crops_of(split.images, work.preprocessing, seed, copies)
            images = batches_of(on_device(split.images, device), batches, device, cuts)
            with contextlib.closing(images):
                for rows in here:
                    if group.size > 1:
                        there = shards.names
                        done_by_others = sum(r.images for r in others if r.name in there)
                    if rows.name not in missing:
                        advance(rows.images)
                        behind.call(reuse, rows)
                        continue
                    features = features_of(
                        rows,
                        images,
                        models,
                        preprocessing=work.preprocessing,
                        layers=work.layers,
                        augmentation_seed=seed,
                        progress=advance,
                    )
                    behind.call(keep, rows, features)
    return done + done_by_others


def finished(shards: Shards, rows: RowRange) -> dict[str, np.ndarray]:
    """Features of a range by view, from its shard.

    Raises
    ------
    OSError
        For a shard that has disappeared.
    """
    features = shards.read(rows.name)
    if features is None:
        raise OSError(f"Shard {rows.name} of {shards.folder} was changed meanwhile. Run again.")
    return features


def models_of(work: Extraction, shards: Shards) -> dict[str, Backbone]:
    """The model by BatchNorm statistics; those of ``balanced`` are read from their shard."""
    models = {name: work.model for name in work.options.views}
    if "balanced" in models:
        statistics = shards.read("batchnorm")
        assert statistics is not None
        models["balanced"] = copy.deepcopy(work.model)
        tensors = {name: torch.from_numpy(array) for name, array in statistics.items()}
        models["balanced"].load_state_dict(tensors, strict=False)
    return models


def write_models(writer: BankWriter, models: Mapping[str, Backbone], *, classifiers: bool) -> None:
    """Write BatchNorm statistics, weights of experts and, with `classifiers`, the classifiers.

    Re-estimation does not change the classifier, so the one under ``instance`` serves both views of
    a model of one branch; experts have one under each view.
    """
    pairs = {}
    for name, model in models.items():
        views = view_names(model, name)
        for view, branch, pair in zip(
            views, model.branches, model.linear_classifiers(), strict=True
        ):
            pairs["instance" if view in VIEWS else view] = pair
            writer.batchnorm(view, batchnorm_statistics(branch), ordered=True)
        for view, epsilon in zip(views, model.branch_weights, strict=False):  # () where all are 1
            if epsilon != 1:
                writer.expert_weight(view, epsilon)
    for view, (weight, bias) in pairs.items() if classifiers else ():
        writer.classifier(view, weight.cpu().numpy(), bias.cpu().numpy())


def _stored(block: np.ndarray, options: FeatureOptions, name: str, first: int) -> np.ndarray:
    dtype = np.dtype(options.dtype)
    return np.stack([as_stored(rows, dtype, name, first_row=first) for rows in block])
