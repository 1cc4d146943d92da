"""Extract features: a model and a data set become a bank.

The work is cut into ranges of rows, and each is saved beside the target when it is done
(`featbank.bank.shards`). A run that is stopped or killed leaves these shards; the same call resumes
from them, to the bank of an uninterrupted run, bit by bit.
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
from featbank.bank.naming import check_label
from featbank.bank.shards import Shards
from featbank.bank.target import Target
from stage1.backbones.layers import layers_of
from stage1.data.datasets import load_dataset
from stage1.data.settings import DatasetSettings
from stage1.extraction.assemble import (
    BankRows,
    Extraction,
    Report,
    begin,
    compute,
    finished,
    models_of,
    write_models,
)
from stage1.extraction.frozen import Frozen, Pretrained
from stage1.extraction.shaping import checked, feature_key
from stage1.extraction.subject import ModelOrigin, Subject, Trained
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
    label: str | None = None,
    views: Sequence[str] = VIEWS,
    dtype: str = "float32",
    layers: Sequence[str | int] = (),
    tokens: Sequence[str] = (),
    layer_norm: bool = False,
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

    Images are decoded once for all views and copies, while other images are computed and written.
    The processes of `torchrun` share the work, and the leading one writes the bank. It is the bank
    of a single process if all round alike (on CPUs: with as many threads).

    The classifier is stored under ``instance`` and serves ``balanced`` too: re-estimation changes
    only BatchNorm statistics. Experts have each view once per branch, ``expert0/instance``, with
    its classifier. If pretrained weights have no classifier of K classes, the bank has none.

    Parameters
    ----------
    source
        A run folder of `stage1.train`, or its checkpoint file; or a pretrained model.
    bank
        The target file.
    label
        The bank's name in tables of several banks; by default that of its file.
    views
        Of ``instance`` (the model's own BatchNorm statistics) and ``balanced``
        (`stage1.inference.batchnorm.rebalanced`).
    dtype
        ``float32`` or ``float16``.
    augmentations
        A ≥ 1 copies of the train split, each image augmented as in training; 0 for one plain copy.
        The other splits are always plain.
    layers
        Inner layers whose outputs are further views, as `stage1.backbones.layers.layers_of` takes
        them; ``layer11/cls`` is one. They are those of the checkpoint's own statistics.
    tokens
        Of ``cls`` (the class token, or ``mean`` where there is none), ``mean`` (over the patches,
        or the positions of a CNN) and ``patch``, a view of all of these [N, T, D], without
        registers; ``cls`` by default.
    layer_norm
        Apply the model's final norm to the tokens of the layers.
    root
        Folder of the data set of a run, if it has moved since training.
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
        A shard has fewer if their features take more than `SHARD_BYTES` of
        stage1.inference.features, but at least one batch of each copy.
    report
        Takes lines on the stages of the work.
    progress
        Takes (images done, images in all), each copy of an image counted.

    Raises
    ------
    SystemExit
        In processes of `torchrun`, where another failed and reports the error.
    OutputExists, OutputBusy, NoSpace, ConfigError, DataError
    Mismatch
        Where the data set is not the one of the checkpoint.
    OSError
        Where the disk cannot be written; finished shards stay.
    """
    with contextlib.ExitStack() as stack:
        with leader_first():
            group = stack.enter_context(process_group(device))
        if not group.leads:
            report, progress = (lambda line: None), (lambda done, total: None)
        stack.enter_context(repeatable())
        writer = None
        with together(group):
            options = checked(
                FeatureOptions(
                    tuple(views),
                    dtype,
                    augmentations,
                    balanced_batches,
                    seed,
                    shard_rows,
                    tuple(map(str, layers)),
                    tuple(tokens),
                    layer_norm,
                )
            )
            origin = _origin(source, root)
            if label is not None:
                check_label(label)
            if group.leads:
                Target(bank, overwrite=overwrite).discard()  # an error before the data is loaded
            subject, work = _loaded(origin, options, group, report)
            key = {**subject.key, **feature_key(work.options, work.dataset, group.device)}
            if group.leads:
                made = _provenance(subject, origin.dataset, work, group)
                provenance = made if label is None else {**made, "label": label}
                writer = _writer(bank, work, provenance, overwrite=overwrite)
                stack.enter_context(writer)
                shards = Shards(writer.path, key, report=report)
                with _keeping(shards, group, report):
                    begin(work, shards, writer, report=report)
        if not group.leads:
            shards = Shards(Path(bank), key, join=True)
        with _keeping(shards, group, report):
            _fill(
                work,
                shards,
                writer=writer,
                classifiers=subject.classifier,
                group=group,
                report=report,
                progress=progress,
            )
    if writer:
        shards.remove()
    if subject.remark:
        report(subject.remark)


def _loaded(
    origin: ModelOrigin, options: FeatureOptions, group: ProcessGroup, report: Report
) -> tuple[Subject, Extraction]:
    """Load the data set; the model, and the work with every option resolved."""
    report(f"Loading {origin.dataset.name}")
    dataset = load_dataset(origin.dataset)
    subject = origin.subject(dataset)
    if options.balanced_batches is None:
        batches = default_batches(len(dataset.splits["train"].labels))
        options = dataclasses.replace(options, balanced_batches=batches)
    layers = None
    if options.layers:
        layers = layers_of(
            subject.model,
            options.layers,
            options.tokens,
            dataset.image_shape,
            norm=options.layer_norm,
        )
        options = dataclasses.replace(options, layers=tuple(layers.modules))
        if "cls" in options.tokens and not layers.class_token:
            report(f"{subject.model.name} has no class token in its layers: cls is their mean")
    model = subject.model.to(group.device)
    return subject, Extraction(
        dataset, model, subject.preprocessing, options, subject.trained_on, layers
    )


def _origin(source: str | os.PathLike[str] | Frozen, root: str | None) -> ModelOrigin:
    if not isinstance(source, Frozen):
        return Trained.open(source, root)
    if root is not None:
        raise errors.ConfigError("A pretrained model has no run. Give the root with its data set.")
    return Pretrained.open(source)


def _writer(
    bank: str | os.PathLike[str], work: Extraction, provenance: dict[str, Any], *, overwrite: bool
) -> BankWriter:
    return BankWriter(
        bank,
        work.dataset.class_names,
        dim=work.model.dim,
        dtype=work.options.dtype,
        overwrite=overwrite,
        provenance=provenance,
    )


def _fill(
    work: Extraction,
    shards: Shards,
    *,
    writer: BankWriter | None,
    classifiers: bool,
    group: ProcessGroup,
    report: Report,
    progress: Callable[[int, int], None],
) -> None:
    """Compute the shards; the process with the writer puts all of them into the bank."""
    models = models_of(work, shards)
    rows = BankRows(work, writer) if writer else None
    direct = rows if group.size == 1 else None
    total = sum(row_range.images for row_range in work.ranges)
    done = compute(work, shards, models, group=group, bank=direct, report=report, progress=progress)
    meet(group)
    if done < total:  # other processes took longer
        progress(total, total)
    if rows and not direct:
        for row_range in work.ranges:
            rows.append(row_range, finished(shards, row_range))
    if writer:
        write_models(writer, models, classifiers=classifiers)


def _provenance(
    subject: Subject, dataset: DatasetSettings, work: Extraction, group: ProcessGroup
) -> dict[str, Any]:
    options = work.options
    copies = options.augmentations
    balanced = {"batches": options.balanced_batches, "batch_size": BATCH, "seed": options.seed}
    return {
        "made_by": "featbank extract",
        **subject.provenance,
        "dataset": dataclasses.asdict(dataset),
        "views": {name: balanced if name == "balanced" else {} for name in options.views},
        **_layers_made(work),
        "augmentations": {"copies": copies, "seed": options.seed} if copies else None,
        "dtype": options.dtype,
        "device": str(group.device),
        "versions": versions(),
    }


def _layers_made(work: Extraction) -> dict[str, Any]:
    """The record of inner layers, none without any."""
    if work.layers is None:
        return {}
    modules = {layer: name.removeprefix("net.") for layer, name in work.layers.modules.items()}
    return {
        "layers": modules,
        "tokens": list(work.layers.tokens),
        "layer_norm": work.layers.norm is not None,
    }


@contextlib.contextmanager
def _keeping(shards: Shards, group: ProcessGroup, report: Callable[[str], None]) -> Iterator[None]:
    """If the work is stopped, or lacks disk or memory, report the shards that are kept.

    On Ctrl-C, processes other than the leader exit silently.
    """
    try:
        yield
    except (OSError, MemoryError, KeyboardInterrupt, errors.OutputError) as error:
        if there := len(shards.names):
            report(f"{there} finished shards stay in {shards.folder}. Run again to resume.")
        if isinstance(error, KeyboardInterrupt) and not group.leads:
            raise SystemExit(1) from None
        raise
