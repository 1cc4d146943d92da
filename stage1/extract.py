"""Extraction: a checkpoint and its data set become a bank."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from featbank import errors
from featbank.bank import BankWriter
from featbank.devices import find_device
from featbank.settings import Setting, wrong_values
from stage1.augment import normalise
from stage1.backbones import CifarResNet
from stage1.batchnorm import BATCH as BALANCED_BATCH
from stage1.batchnorm import batchnorm_statistics, default_batches, rebalanced
from stage1.checkpoint import Checkpoint, file_digest, load_checkpoint, versions
from stage1.datasets import load_dataset
from stage1.evaluate import BATCH
from stage1.images import ImageDataset
from stage1.repeatable import repeatable

VIEWS = ("instance", "balanced")

_SETTINGS = (
    Setting("balanced_batches", 64, "class-balanced batches M", low=1),
    Setting("seed", 0, "seed of the balanced batches", low=0, high=2**63 - 1),
)


def extract(
    run: str | os.PathLike[str],
    bank: str | os.PathLike[str],
    *,
    views: Sequence[str] = VIEWS,
    dtype: str = "float32",
    root: str | None = None,
    balanced_batches: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the features of every split to `bank`, in the order of the data set.

    Images are decoded once and normalised once for all views. The classifier is stored under
    ``instance`` and serves ``balanced`` too: re-estimation changes BatchNorm statistics only.

    Parameters
    ----------
    run
        A run folder of `stage1.train.train`, or its checkpoint file.
    bank
        The target file.
    views
        Of ``instance`` (the checkpoint's own BatchNorm statistics) and ``balanced``
        (`stage1.batchnorm.rebalanced`).
    dtype
        ``float32`` or ``float16``.
    root
        Where the data set is now, if it has moved since training.
    balanced_batches
        M ≥ 1 class-balanced batches; by default one pass over the training images, at least 64.
    seed
        Seed of the balanced batches.
    device
        ``auto``, ``cpu``, ``cuda``, …
    overwrite
        Replace an existing target.
    report
        Takes a line for each stage of the work.
    progress
        Takes (images done, images in all).

    Raises
    ------
    OutputExists, ConfigError, DataError
    Mismatch
        Where the data set is not the one of the checkpoint.
    """
    views = _checked_views(views)
    where = find_device(device)
    path, checkpoint = load_checkpoint(run)
    model = checkpoint.model().to(where)
    settings = checkpoint.settings.dataset
    if root is not None:
        settings = dataclasses.replace(settings, root=root)
    M = balanced_batches
    if M is None:
        M = default_batches(sum(checkpoint.train_counts))
    given = {"balanced_batches": M, "seed": seed}
    if problems := wrong_values(_SETTINGS, given, "extraction"):
        raise errors.ConfigError(" ".join(problems))
    how = {"instance": {}, "balanced": {"batches": M, "batch_size": BALANCED_BATCH, "seed": seed}}
    writer = BankWriter(
        bank,
        checkpoint.class_names,
        dim=model.dim,
        dtype=dtype,
        overwrite=overwrite,
        provenance={
            "made_by": "featbank extract",
            "run": str(run),
            "checkpoint_sha256": file_digest(path),
            "stage1": _plain(checkpoint),
            "dataset": dataclasses.asdict(settings),
            "views": {view: how[view] for view in views},
            "dtype": dtype,
            "device": str(where),
            "versions": versions(),
        },
    )
    with writer, repeatable():
        report(f"Loading {settings.name}")
        dataset = load_dataset(settings)
        _check_same_data(dataset, checkpoint, path)
        models = {"instance": model}
        if "balanced" in views:
            report(f"Re-estimating BatchNorm over {M} class-balanced batches")
            models["balanced"] = rebalanced(
                model,
                dataset.splits["train"],
                preprocessing=checkpoint.preprocessing,
                batches=M,
                seed=seed,
            )
        chosen = {view: models[view] for view in views}
        _write_features(writer, dataset, checkpoint, chosen, report=report, progress=progress)
        classifier = model.classifier
        writer.classifier(
            "instance",
            classifier.weight.detach().cpu().numpy(),
            classifier.bias.detach().cpu().numpy(),
        )
        for view in views:
            writer.batchnorm(view, batchnorm_statistics(models[view]))


@torch.inference_mode()
def _write_features(
    writer: BankWriter,
    dataset: ImageDataset,
    checkpoint: Checkpoint,
    models: dict[str, CifarResNet],
    *,
    report: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    total = sum(len(split.labels) for split in dataset.splits.values())
    device = next(iter(models.values())).classifier.weight.device
    done = 0
    for name, split in dataset.splits.items():
        report(f"Extracting {len(split.labels)} {name} images: {', '.join(models)}")
        writer.split(name, split.labels.numpy(), index=split.index, paths=split.paths)
        rows = {view: writer.features(name, view) for view in models}
        for images in split.images.split(BATCH):
            x = normalise(images.to(device), checkpoint.preprocessing)
            for view, model in models.items():
                rows[view].append(model.features(x).cpu().numpy())
            done += len(images)
            progress(done, total)


def _checked_views(views: Sequence[str]) -> tuple[str, ...]:
    for view in views:
        if view not in VIEWS:
            raise errors.ConfigError(f"Unknown view {view!r}. {errors.closest(view, [*VIEWS])}")
    if not views:
        raise errors.ConfigError(f"No view was given. Choose from: {', '.join(VIEWS)}.")
    return tuple(view for view in VIEWS if view in views)


def _check_same_data(dataset: ImageDataset, checkpoint: Checkpoint, path: Path) -> None:
    """The data set must be the one the checkpoint was trained on, as far as can be told."""
    for what, here, there in (
        ("image shape", dataset.image_shape, checkpoint.image_shape),
        ("class names", dataset.class_names, checkpoint.class_names),
        ("training counts", tuple(dataset.train_counts.tolist()), checkpoint.train_counts),
        # Rounded, because decoders of lossy images differ a little between versions.
        ("channel means", _rounded(dataset), _rounded(checkpoint)),
    ):
        if here != there:
            raise errors.Mismatch(
                f"The data set's {what} differ from those that {path} was trained with "
                f"({_short(here)}, not {_short(there)}). Give the data of that run."
            )


def _rounded(source: ImageDataset | Checkpoint) -> tuple[int, ...]:
    return tuple(round(mean) for mean in source.preprocessing.mean)


def _plain(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(checkpoint.settings),
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "accuracy": checkpoint.accuracy,
        "versions": checkpoint.versions,
    }


def _short(values: Sequence[object]) -> str:
    told = ", ".join(str(value) for value in values[:4])
    return f"{told}, … ({len(values)})" if len(values) > 4 else told
