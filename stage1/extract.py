"""Extraction: a checkpoint and its data set become a bank.

The work is cut into parts, and each is on disk beside the target as soon as it is done
(`featbank.bank.shards`). A run that ends early, however it ends, leaves them; the same call goes on
from there, to the bank of an uninterrupted run, bit by bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from featbank import errors
from featbank.bank import BankWriter
from featbank.bank.fingerprint import array_digest
from featbank.bank.shards import Shards
from featbank.files import file_digest
from featbank.settings import Setting, wrong_values
from stage1.assemble import (
    BankRows,
    Extraction,
    begin,
    compute,
    finished,
    models_of,
    write_models,
)
from stage1.batchnorm import default_batches
from stage1.checkpoint import Checkpoint, load_checkpoint, versions
from stage1.datasets import DATASETS, load_dataset
from stage1.distributed import Group, leader_first, process_group
from stage1.evaluate import BATCH
from stage1.features import VIEWS, FeatureOptions
from stage1.images import DatasetSettings, ImageDataset, images_digest
from stage1.repeatable import repeatable
from stage1.together import meet, together

SHARD_ROWS = 4096
"""Most images a shard holds the features of, each copy counted, under all views."""

_SETTINGS = (
    Setting("balanced_batches", 64, "class-balanced batches M", low=1),
    Setting("augmentations", 0, "augmented copies A of the training images", low=0),
    Setting("seed", 0, "seed of balanced batches and augmented copies", low=0, high=2**63 - 1),
    Setting("shard_rows", SHARD_ROWS, "most images in a shard, copies counted", low=BATCH),
)


def extract(
    run: str | os.PathLike[str],
    bank: str | os.PathLike[str],
    *,
    views: Sequence[str] = VIEWS,
    dtype: str = "float32",
    augmentations: int = 0,
    root: str | None = None,
    balanced_batches: int | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    shard_rows: int = SHARD_ROWS,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the features of every split to `bank`, in the order of the data set.

    Images are decoded once for all views and copies; they are decoded, computed on and written at
    the same time. The processes of `torchrun` share the work, and the leading one writes the bank:
    the bank of one process, where all round alike (on CPUs: have as many threads).

    The classifier is stored under ``instance`` and serves ``balanced`` too: re-estimation changes
    BatchNorm statistics only. Experts have each view once per branch, ``expert0/instance``, with
    its classifier.

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
    augmentations
        A ≥ 1 copies of the train split, each image augmented as in training; 0 for one plain copy.
        The other splits are always plain.
    root
        Where the data set is now, if it has moved since training.
    balanced_batches
        M ≥ 1 class-balanced batches; by default one pass over the training images, at least 64.
    seed
        Seed of the balanced batches and of the augmented copies.
    device
        ``auto``, ``cpu``, ``cuda``, …
    overwrite
        Replace an existing target.
    shard_rows
        Most images in a shard, each copy counted, a multiple of `BATCH`. It has fewer where their
        features take more than `stage1.features.SHARD_BYTES`, but at least `BATCH` of each copy.
    report
        Takes a line for each stage of the work.
    progress
        Takes (images done, images in all), each copy of an image counted.

    Raises
    ------
    SystemExit
        In processes of `torchrun`, where another failed and tells why.
    OutputExists, OutputBusy, NoSpace, ConfigError, DataError
    Mismatch
        Where the data set is not the one of the checkpoint.
    OSError
        Where the disk does not take what is written; finished shards stay.
    """
    with contextlib.ExitStack() as stack:
        with leader_first():
            group = stack.enter_context(process_group(device))
        if not group.leads:
            report, progress = (lambda line: None), (lambda done, total: None)
        stack.enter_context(repeatable())
        with together(group):
            path, checkpoint = load_checkpoint(run)
            if balanced_batches is None:
                balanced_batches = default_batches(sum(checkpoint.train_counts))
            options = FeatureOptions(
                views=_checked_views(views),
                dtype=dtype,
                augmentations=augmentations,
                balanced_batches=balanced_batches,
                seed=seed,
                shard_rows=shard_rows,
            )
            _check(options)
            settings = _settings(checkpoint, root)
            model = checkpoint.model().to(group.device)
            digest = file_digest(path)
            if group.leads:
                provenance = {
                    "made_by": "featbank extract",
                    "run": str(run),
                    "checkpoint_sha256": digest,
                    "stage1": _plain(checkpoint),
                    "dataset": dataclasses.asdict(settings),
                    "views": {name: options.view(name) for name in options.views},
                    "augmentations": (
                        {"copies": augmentations, "seed": seed} if augmentations else None
                    ),
                    "dtype": dtype,
                    "device": str(group.device),
                    "versions": versions(),
                }
                writer = stack.enter_context(
                    BankWriter(
                        bank,
                        checkpoint.class_names,
                        dim=model.dim,
                        dtype=dtype,
                        overwrite=overwrite,
                        provenance=provenance,
                    )
                )
            report(f"Loading {settings.name}")
            dataset = load_dataset(settings)
            _check_same_data(dataset, checkpoint, path)
            work = Extraction(dataset, model, checkpoint.preprocessing, options)
            key = {"checkpoint": digest, **_shaped_by(options, dataset, group.device)}
            if group.leads:
                shards = Shards(writer.path, key, report=report)
                with _keeping(shards, group, report):
                    begin(work, shards, writer, report=report)
        if not group.leads:
            shards = Shards(Path(bank), key, join=True)
        with _keeping(shards, group, report):
            models = models_of(work, shards)
            rows = BankRows(work, writer) if group.leads else None
            compute(
                work,
                shards,
                models,
                group=group,
                bank=rows if group.size == 1 else None,
                report=report,
                progress=progress,
            )
            meet(group)
            if rows and group.size > 1:
                for part in work.parts:
                    rows.append(part, finished(shards, part))
            if group.leads:
                write_models(writer, models)
        leads = group.leads
    if leads:
        shards.remove()


def _settings(checkpoint: Checkpoint, root: str | None) -> DatasetSettings:
    """Those of training, with the images' place now; streamed, as each image is used once."""
    settings = checkpoint.settings.dataset
    if root is not None:
        settings = dataclasses.replace(settings, root=root)
    if "stream" in DATASETS[settings.name].options:
        settings = dataclasses.replace(settings, stream=True)
    return settings


def _shaped_by(
    options: FeatureOptions, dataset: ImageDataset, device: torch.device
) -> dict[str, Any]:
    """What the features depend on beside the checkpoint, by field: the rest of the shards' key.

    Devices round differently, and CPUs by their vector width and number of threads.
    """
    if device.type == "cuda":
        computer = f"cuda, {torch.cuda.get_device_name(device)}"
    else:
        cpu = torch.backends.cpu.get_cpu_capability()
        computer = f"cpu, {cpu}, {torch.get_num_threads()} threads"
    balanced, augmented = "balanced" in options.views, options.augmentations > 0
    key = {
        "views": ", ".join(options.views),
        "number of balanced batches": options.balanced_batches if balanced else None,
        "number of augmentations": options.augmentations,
        "seed": options.seed if balanced or augmented else None,
        "dtype": options.dtype,
        "shard size": options.shard_rows,
        "device": computer,
        "torch version": str(torch.__version__),
        "featbank version": versions()["featbank"],
    }
    for name, split in dataset.splits.items():
        key[f"{name} images"] = images_digest(split.images)
        key[f"{name} labels"] = array_digest(split.labels.numpy())
        key[f"{name} index"] = array_digest(split.index)
    return key


@contextlib.contextmanager
def _keeping(shards: Shards, group: Group, report: Callable[[str], None]) -> Iterator[None]:
    """Where the work is stopped or fails for want of something, tell what stays of it.

    Stopped from the keyboard, other processes than the leader leave without a word.
    """
    try:
        yield
    except (OSError, MemoryError, KeyboardInterrupt, errors.OutputError) as error:
        if there := len(shards.names):
            report(f"{there} finished shards stay in {shards.folder}. Run again to go on.")
        if isinstance(error, KeyboardInterrupt) and not group.leads:
            raise SystemExit(1) from None
        raise


def _check(options: FeatureOptions) -> None:
    problems = wrong_values(_SETTINGS, vars(options), "extraction")
    if not problems and options.shard_rows % BATCH:
        problems = [
            f"The 'shard_rows' of extraction must be a multiple of {BATCH}, got "
            f"{options.shard_rows}."
        ]
    if problems:
        raise errors.ConfigError(" ".join(problems))


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
