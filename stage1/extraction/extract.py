"""Extraction: a model and a data set become a bank.

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

from featbank import errors
from featbank.bank import BankWriter
from featbank.bank.shards import Shards
from featbank.bank.target import Target
from stage1.data.datasets import load_dataset
from stage1.data.settings import DatasetSettings
from stage1.extraction.assemble import (
    BankRows,
    Extraction,
    begin,
    compute,
    finished,
    models_of,
    write_models,
)
from stage1.extraction.frozen import Frozen, Pretrained
from stage1.extraction.shaping import check_options, checked_views, shaped_by
from stage1.extraction.subject import Origin, Subject, Trained
from stage1.inference.batchnorm import BATCH, default_batches
from stage1.inference.options import SHARD_ROWS, VIEWS, FeatureOptions
from stage1.processes.distributed import ProcessGroup, leader_first, process_group
from stage1.processes.repeatable import repeatable
from stage1.processes.together import meet, together
from stage1.training.checkpoint import versions


def extract(
    source: str | os.PathLike[str] | Frozen,
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
    its classifier. Where pretrained weights have no classifier of K classes, the bank has none.

    Parameters
    ----------
    source
        A run folder of `stage1.train`, or its checkpoint file; or a pretrained model.
    bank
        The target file.
    views
        Of ``instance`` (the model's own BatchNorm statistics) and ``balanced``
        (`stage1.inference.batchnorm.rebalanced`).
    dtype
        ``float32`` or ``float16``.
    augmentations
        A ≥ 1 copies of the train split, each image augmented as in training; 0 for one plain copy.
        The other splits are always plain.
    root
        Where the data set of a run is now, if it has moved since training.
    balanced_batches
        M ≥ 1 class-balanced batches; by default one pass over the training images, at least 64.
    seed
        Seed of the balanced batches and of the augmented copies.
    device
        ``auto``, ``cpu``, ``cuda``, …
    overwrite
        Replace an existing target.
    shard_rows
        Most images in a shard, each copy counted, a multiple of `stage1.inference.options.BATCH`.
        It has fewer where their features take more than `SHARD_BYTES` of stage1.inference.features,
        but at least one such batch of each copy.
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
            options = FeatureOptions(
                views=checked_views(views),
                dtype=dtype,
                augmentations=augmentations,
                balanced_batches=balanced_batches,
                seed=seed,
                shard_rows=shard_rows,
            )
            check_options(options)
            origin = _origin(source, root)
            if group.leads:
                Target(bank, overwrite=overwrite).discard()  # told before the data is loaded
            report(f"Loading {origin.dataset.name}")
            dataset = load_dataset(origin.dataset)
            subject = origin.subject(dataset)
            if balanced_batches is None:
                batches = default_batches(len(dataset.splits["train"].labels))
                options = dataclasses.replace(options, balanced_batches=batches)
            model = subject.model.to(group.device)
            work = Extraction(dataset, model, subject.preprocessing, options)
            key = {**subject.key, **shaped_by(options, dataset, group.device)}
            if group.leads:
                writer = stack.enter_context(
                    BankWriter(
                        bank,
                        dataset.class_names,
                        dim=model.dim,
                        dtype=dtype,
                        overwrite=overwrite,
                        provenance=_provenance(subject, origin.dataset, options, group),
                    )
                )
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
                write_models(writer, models, classifiers=subject.classifier)
        leads = group.leads
    if leads:
        shards.remove()
    if subject.remark:
        report(subject.remark)


def _origin(source: str | os.PathLike[str] | Frozen, root: str | None) -> Origin:
    if not isinstance(source, Frozen):
        return Trained.open(source, root)
    if root is not None:
        raise errors.ConfigError("A pretrained model has no run. Give the root with its data set.")
    return Pretrained.open(source)


def _provenance(
    subject: Subject, dataset: DatasetSettings, options: FeatureOptions, group: ProcessGroup
) -> dict[str, Any]:
    copies = options.augmentations
    balanced = {"batches": options.balanced_batches, "batch_size": BATCH, "seed": options.seed}
    return {
        "made_by": "featbank extract",
        **subject.provenance,
        "dataset": dataclasses.asdict(dataset),
        "views": {name: balanced if name == "balanced" else {} for name in options.views},
        "augmentations": {"copies": copies, "seed": options.seed} if copies else None,
        "dtype": options.dtype,
        "device": str(group.device),
        "versions": versions(),
    }


@contextlib.contextmanager
def _keeping(shards: Shards, group: ProcessGroup, report: Callable[[str], None]) -> Iterator[None]:
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
