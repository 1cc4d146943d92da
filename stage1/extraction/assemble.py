"""The assembly of a bank from shards: those that are there are taken, the others made."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from featbank.bank import BankWriter
from featbank.bank.rows import FeatureRows, as_stored
from featbank.bank.shards import Shards
from stage1.backbones import Backbone
from stage1.data.images import ImageDataset, Preprocessing, batches_of, on_device
from stage1.inference.batchnorm import batchnorm_statistics, rebalanced
from stage1.inference.features import Part, features_of, parts_of, view_names
from stage1.inference.options import VIEWS, FeatureOptions
from stage1.processes.behind import Behind
from stage1.processes.distributed import ProcessGroup

Report = Callable[[str], None]


@dataclass(frozen=True)
class Extraction:
    """What is extracted: the features of `dataset` under `model` and `options`."""

    dataset: ImageDataset
    model: Backbone
    preprocessing: Preprocessing
    options: FeatureOptions

    @property
    def views(self) -> list[str]:
        """Views of the bank."""
        return [view for name in self.options.views for view in view_names(self.model, name)]

    @property
    def parts(self) -> list[Part]:
        """All parts, in a bank's order."""
        width = len(self.views) * self.model.dim
        return parts_of(self.dataset.splits, self.options, width=width)


def begin(work: Extraction, shards: Shards, writer: BankWriter, *, report: Report) -> None:
    """Look for room, and estimate the BatchNorm statistics of the balanced view: a shard too.

    Raises
    ------
    NoSpace
        Where the disk cannot hold shards and bank side by side.
    """
    parts, balanced = work.parts, "balanced" in work.options.views
    images = sum(part.images for part in parts)
    size = images * len(work.views) * work.model.dim * writer.dtype.itemsize
    writer.reserve(max(0, 2 * size - shards.size))
    if there := len(shards.names):
        report(f"Resuming: {there} of {len(parts) + balanced} shards are there")
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
    """The bank's splits, open for their parts in order."""

    def __init__(self, work: Extraction, writer: BankWriter) -> None:
        self._rows: dict[str, dict[str, FeatureRows]] = {}
        for name, split in work.dataset.splits.items():
            writer.split(
                name,
                split.labels.numpy(),
                index=split.index,
                paths=split.paths,
                source=split.source,
            )
            copies = work.options.copies(name)
            self._rows[name] = {
                view: writer.features(name, view, copies=copies) for view in work.views
            }

    def append(self, part: Part, features: Mapping[str, np.ndarray]) -> None:
        """Add a part's features [A, rows, D] by view."""
        for view, rows in self._rows[part.split].items():
            rows.append(features[view])


def compute(
    work: Extraction,
    shards: Shards,
    models: Mapping[str, Backbone],
    *,
    group: ProcessGroup,
    bank: BankRows | None,
    report: Report,
    progress: Callable[[int, int], None],
) -> None:
    """Make this process's shards that are missing, and add all of them to `bank`, if given.

    Reading, computing and writing go on at the same time: files are decoded ahead, and a thread
    checks, rounds, digests and writes what is computed.

    Raises
    ------
    DataError, OSError
    """
    parts = work.parts
    mine = parts[group.rank :: group.size]
    elsewhere = [part for part in parts if part not in mine]
    missing = {part.name for part in mine if shards.read(part.name) is None}
    total, own, others = sum(part.images for part in parts), 0, 0

    def advance(images: int) -> None:
        nonlocal own
        own += images
        progress(own + others, total)

    def keep(part: Part, arrived: Callable[[], dict[str, np.ndarray]]) -> None:
        features = {
            view: _stored(block, work.options, f"{part.split}/{view}/feature", part.start)
            for view, block in arrived().items()
        }
        shards.write(part.name, features)
        if bank:
            bank.append(part, features)

    def take(part: Part) -> None:
        if bank:
            bank.append(part, finished(shards, part))

    with Behind() as behind:
        for name, split in work.dataset.splits.items():
            seed, copies = work.options.augmentation_seed(name), work.options.copies(name)
            what = "" if seed is None else f"{copies} augmented copies of "
            report(f"Extracting {what}{len(split.labels)} {name} images: {', '.join(work.views)}")
            here = [part for part in mine if part.split == name]
            rows = (rows for part in here if part.name in missing for rows in part.batches)
            device = work.model.device
            images = batches_of(on_device(split.images, device), rows, device)
            with contextlib.closing(images):
                for part in here:
                    if group.size > 1:
                        there = shards.names
                        others = sum(p.images for p in elsewhere if p.name in there)
                    if part.name not in missing:
                        advance(part.images)
                        behind.call(take, part)
                        continue
                    arrived = features_of(
                        part,
                        images,
                        models,
                        preprocessing=work.preprocessing,
                        augmentation_seed=seed,
                        progress=advance,
                    )
                    behind.call(keep, part, arrived)


def finished(shards: Shards, part: Part) -> dict[str, np.ndarray]:
    """A part's features by view, from its shard.

    Raises
    ------
    OSError
        Where the shard was there, and is no more.
    """
    features = shards.read(part.name)
    if features is None:
        raise OSError(f"Shard {part.name} of {shards.folder} was changed meanwhile. Run again.")
    return features


def models_of(work: Extraction, shards: Shards) -> dict[str, Backbone]:
    """The model under each BatchNorm statistics, those of ``balanced`` from their shard."""
    models = {name: work.model for name in work.options.views}
    if "balanced" in models:
        statistics = shards.read("batchnorm")
        assert statistics is not None
        models["balanced"] = copy.deepcopy(work.model)
        tensors = {name: torch.from_numpy(array) for name, array in statistics.items()}
        models["balanced"].load_state_dict(tensors, strict=False)
    return models


def write_models(writer: BankWriter, models: Mapping[str, Backbone], *, classifiers: bool) -> None:
    """Write BatchNorm statistics and, where they are trained, classifiers.

    Re-estimation leaves the classifier as it is, so one under ``instance`` serves both views of a
    model of one branch; those of experts have it under each view.
    """
    pairs = {}
    for name, model in models.items():
        views = view_names(model, name)
        for view, branch, pair in zip(
            views, model.branches, model.linear_classifiers(), strict=True
        ):
            pairs["instance" if view in VIEWS else view] = pair
            writer.batchnorm(view, batchnorm_statistics(branch))
    for view, (weight, bias) in pairs.items() if classifiers else ():
        writer.classifier(view, weight.cpu().numpy(), bias.cpu().numpy())


def _stored(block: np.ndarray, options: FeatureOptions, name: str, first: int) -> np.ndarray:
    dtype = np.dtype(options.dtype)
    return np.stack([as_stored(rows, dtype, name, first_row=first) for rows in block])
