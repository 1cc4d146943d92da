"""The assembly of a bank from shards: those that are there are taken, the others made."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from featbank.bank import BankWriter
from featbank.bank.shards import Shards
from stage1.backbones import Backbone
from stage1.batchnorm import batchnorm_statistics, rebalanced
from stage1.features import FeatureOptions, features_of, parts_of
from stage1.images import ImageDataset, Preprocessing


def assemble(
    writer: BankWriter,
    shards: Shards,
    dataset: ImageDataset,
    model: Backbone,
    options: FeatureOptions,
    *,
    preprocessing: Preprocessing,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Write splits, features, classifier and BatchNorm statistics, in a bank's order.

    Raises
    ------
    NoSpace
        At the beginning, where the disk cannot hold shards and bank side by side.
    DataError, OSError
    """
    copies = {name: options.copies(name) for name in dataset.splits}
    parts = parts_of(dataset.splits, copies=copies, rows=options.shard_rows)
    total = sum(part.stop - part.start for part in parts)
    size = total * len(options.views) * model.dim * writer.dtype.itemsize
    writer.reserve(max(0, 2 * size - shards.size))
    if there := len(shards.names):
        every = len(parts) + ("balanced" in options.views)
        report(f"Resuming: {there} of {every} shards are there")
    models = {}
    for view in options.views:
        models[view] = model
        if view == "balanced":
            models[view] = _balanced(
                model, dataset, shards, options, preprocessing=preprocessing, report=report
            )
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    for name, split in dataset.splits.items():
        augmented = name == "train" and options.augmentations > 0
        what = f"{copies[name]} augmented copies of " if augmented else ""
        report(f"Extracting {what}{len(split.labels)} {name} images: {', '.join(models)}")
        writer.split(
            name, split.labels.numpy(), index=split.index, paths=split.paths, source=split.source
        )
        rows = {view: writer.features(name, view, copies=copies[name]) for view in models}
        for part in (part for part in parts if part.split == name):
            finished = shards.read(part.name)
            if finished is not None:
                advance(part.stop - part.start)
            features = finished or features_of(
                part,
                split.images,
                models,
                preprocessing=preprocessing,
                augmentation_seed=options.seed if augmented else None,
                progress=advance,
            )
            # Into the bank first: it checks them before they are rounded.
            for view in models:
                rows[view].append(features[view])
            if finished is None:
                shards.write(part.name, {v: x.astype(writer.dtype) for v, x in features.items()})
    weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach()
    writer.classifier("instance", weight.cpu().numpy(), bias.cpu().numpy())
    for view, seen in models.items():
        writer.batchnorm(view, batchnorm_statistics(seen))


def _balanced(
    model: Backbone,
    dataset: ImageDataset,
    shards: Shards,
    options: FeatureOptions,
    *,
    preprocessing: Preprocessing,
    report: Callable[[str], None],
) -> Backbone:
    """The balanced view's model; its statistics are a shard too, estimated once for all runs."""
    statistics = shards.read("batchnorm")
    if statistics is None:
        report(f"Re-estimating BatchNorm over {options.balanced_batches} class-balanced batches")
        fresh = rebalanced(
            model,
            dataset.splits["train"],
            preprocessing=preprocessing,
            batches=options.balanced_batches,
            seed=options.seed,
        )
        state = {name: value.cpu().numpy() for name, value in fresh.state_dict().items()}
        statistics = {name: state[name] for name in state if ".running_" in name}
        shards.write("batchnorm", statistics)
    balanced = copy.deepcopy(model)
    tensors = {name: torch.from_numpy(array) for name, array in statistics.items()}
    balanced.load_state_dict(tensors, strict=False)
    return balanced
