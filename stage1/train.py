"""Training a backbone: data on the device, an epoch is a permutation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from featbank import errors
from featbank.devices import find_device
from featbank.files import file_digest, replacing
from stage1.augment import augment, mixup
from stage1.backbones import Backbone, build_backbone, load_weights, read_weights
from stage1.batchnorm import draw_balanced
from stage1.checkpoint import CHECKPOINT, Checkpoint, save_checkpoint, versions
from stage1.datasets import load_dataset
from stage1.evaluate import accuracies, predict
from stage1.images import ImageDataset, Preprocessing, Split
from stage1.repeatable import repeatable
from stage1.settings import TrainSettings, deferral_epoch, learning_rate

LOG = "log.jsonl"
"""Name of the log in the run folder: one JSON object per epoch."""


class Objective(Protocol):
    """What training minimises."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
        """Loss of a batch, a scalar, for logits [B, K], labels [B] and the epoch 0…T−1."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
    """The objective of the loss `ce`."""
    return F.cross_entropy(logits, labels)


def train(
    settings: TrainSettings,
    run: str | os.PathLike[str],
    *,
    objective: Callable[[np.ndarray], Objective] | None = None,
    report: Callable[[str], None] = lambda line: None,
    report_every: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
) -> Path:
    """Train a backbone; write ``checkpoint.pt`` and ``log.jsonl`` to the folder `run`.

    The same settings give the same weights on one device. The ``test`` split is measured once,
    after the last epoch; nothing is selected on it.

    Parameters
    ----------
    settings
        From `stage1.settings.default_settings`.
    run
        The folder of the run; made if missing.
    objective
        Takes the training counts [K] and gives the loss that the settings name; cross-entropy
        needs none.
    report
        Takes lines: about the data, after each epoch, and of each split measured at the end.
    report_every
        Epochs between two such lines; the last epoch always has its own.
    progress
        Takes (epochs done, epochs in all) after each epoch.
    overwrite
        Replace the run that is there, once this one is complete.

    Returns
    -------
    The checkpoint file.

    Raises
    ------
    OutputExists, ConfigError, DataError
    NotFinite
        Where the loss diverges.
    """
    run = Path(run)
    path = run / CHECKPOINT
    if path.exists() and not overwrite:
        raise errors.OutputExists(f"{path} exists. Choose another run folder or --overwrite.")
    if objective is None and (settings.loss != "ce" or settings.loss_settings):
        raise errors.ConfigError(
            f"Loss {settings.loss!r} with settings {settings.loss_settings} needs an objective. "
            "Give one, or use `featbank train --loss`."
        )
    device = find_device(settings.device)
    initial = None
    if settings.weights is not None:
        initial = read_weights(settings.weights)
        settings = _with_digest(settings, Path(settings.weights))
    report(f"Loading {settings.dataset.name}")
    dataset = load_dataset(settings.dataset)
    settings = dataclasses.replace(settings, dataset=dataset.settings)
    preprocessing = dataclasses.replace(dataset.preprocessing, augmentation=settings.augmentation)
    dataset = dataclasses.replace(dataset, preprocessing=preprocessing)
    loss = objective(dataset.train_counts) if objective else cross_entropy
    report(_describe(dataset, settings, device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build_backbone(
            settings.backbone,
            in_channels=dataset.image_shape[0],
            num_classes=len(dataset.class_names),
        ).to(device)
    model.check_images(dataset.image_shape)
    if settings.weights is not None and initial is not None:
        load_weights(model, initial, source=settings.weights)
    with (
        _run_folder(run),
        replacing(run / LOG) as part,
        part.open("w") as log,
        repeatable(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(settings.seed)  # for dropout
        accuracy: dict[str, dict[str, float | None]] = {}
        for epoch in fit(
            model,
            dataset.splits["train"],
            dataset.preprocessing,
            settings=settings,
            objective=loss,
        ):
            last = epoch["epoch"] == settings.epochs
            for split in ("val", "test") if last else ("val",):
                if split in dataset.splits:
                    accuracy[split] = _measure(model, dataset, split)
                    epoch[f"{split}_accuracy"] = accuracy[split]["top1"]
            log.write(json.dumps(epoch) + "\n")
            log.flush()
            if last or epoch["epoch"] % report_every == 0:
                report(_epoch_line(epoch, settings.epochs))
            progress(epoch["epoch"], settings.epochs)
        for split, values in accuracy.items():
            report(_accuracy_line(split, values))
        save_checkpoint(
            path,
            Checkpoint(
                weights={
                    name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()
                },
                class_names=dataset.class_names,
                train_counts=tuple(dataset.train_counts.tolist()),
                image_shape=dataset.image_shape,
                preprocessing=dataset.preprocessing,
                settings=settings,
                accuracy=accuracy,
                versions=versions(),
            ),
        )
    return path


def fit(
    model: Backbone,
    split: Split,
    preprocessing: Preprocessing,
    *,
    settings: TrainSettings,
    objective: Objective = cross_entropy,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, on its device, with SGD; yield after each epoch.

    With deferred re-sampling (DRS), the rows of epochs from `deferral_epoch` on are drawn with
    replacement: a class that has any, uniformly, then one of its images.

    Yields
    ------
    ``epoch`` (from 1), ``loss`` and ``train_accuracy`` (percent; both of the augmented, mixed
    batches while the weights changed), ``lr``, ``seconds``.

    Raises
    ------
    NotFinite
        Where the loss of an epoch is not finite.
    """
    device = model.classifier.weight.device
    images, labels = split.images.to(device), split.labels.to(device)
    generator = torch.Generator(device).manual_seed(settings.seed)
    mix = np.random.default_rng(settings.seed)
    if settings.freeze_but_last_block:
        model.freeze_but_last_block()
    optimiser = torch.optim.SGD(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )
    N, B = len(labels), settings.batch_size
    used = max(N // B * B, min(N, B))  # the last, short batch is dropped unless it is the only one
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    for epoch in range(settings.epochs):
        start = time.perf_counter()
        lr = learning_rate(settings, epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr
        model.train()
        totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right answers
        if settings.deferred_sampling and epoch >= deferral_epoch(settings):
            order = draw_balanced(labels, used, generator=generator)
        else:
            order = torch.randperm(N, generator=generator, device=device)[:used]
        for rows in order.split(B):
            x, y = augment(images[rows], preprocessing, generator=generator), labels[rows]
            # Without mixup, each image is mixed with nothing: its share is 1.
            partner, share = y, 1.0
            if settings.mixup:
                x, partner, share = mixup(x, y, settings.mixup, generator=generator, weights=mix)
            with autocast:
                logits = model(x)
                loss = objective(logits, y, epoch)
                if settings.mixup:
                    loss = share * loss + (1 - share) * objective(logits, partner, epoch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            guess = logits.argmax(1)
            right = share * (guess == y).sum() + (1 - share) * (guess == partner).sum()
            totals += torch.stack([loss.detach() * len(rows), right])
        mean_loss, accuracy = (totals / used).tolist()
        if not math.isfinite(mean_loss):
            raise errors.NotFinite(
                f"The loss of epoch {epoch + 1} is {mean_loss}: training diverged at lr {lr:g}. "
                "Lower --lr or lengthen --warmup."
            )
        yield {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "lr": lr,
            "train_accuracy": 100 * accuracy,
            "seconds": time.perf_counter() - start,
        }


def _with_digest(settings: TrainSettings, weights: Path) -> TrainSettings:
    """`settings` with the SHA-256 of the weights' file, which must be the one they name, if any."""
    digest = file_digest(weights)
    if settings.weights_sha256 not in (None, digest):
        raise errors.DataError(
            f"{weights} has SHA-256 {digest}, not {settings.weights_sha256}. "
            "Give the file of these settings."
        )
    return dataclasses.replace(settings, weights_sha256=digest)


@contextlib.contextmanager
def _run_folder(run: Path) -> Iterator[None]:
    """Make the folder; take it away again if an error leaves it empty."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise errors.ConfigError(f"{run} is not a folder. Choose another run folder.") from None
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: an earlier run stays
            run.rmdir()
        raise


def _measure(model: Backbone, dataset: ImageDataset, split: str) -> dict[str, float | None]:
    images, labels = dataset.splits[split].images, dataset.splits[split].labels.numpy()
    predictions = predict(model, images, preprocessing=dataset.preprocessing)
    return accuracies(predictions, labels, train_counts=dataset.train_counts)


def _describe(dataset: ImageDataset, settings: TrainSettings, device: torch.device) -> str:
    counts, shape = dataset.train_counts, "×".join(map(str, dataset.image_shape))
    sizes = ", ".join(f"{len(split.labels)} {name}" for name, split in dataset.splits.items())
    return (
        f"{settings.dataset.name}: {sizes} images of {shape}, {len(counts)} classes with "
        f"{counts.max()}…{counts.min()} training images; {settings.backbone} on {device}"
        + ("" if settings.loss == "ce" else f", loss {settings.loss}")
    )


def _epoch_line(epoch: dict[str, Any], epochs: int) -> str:
    measured = "".join(
        f"  {split} {epoch[f'{split}_accuracy']:.1f} %"
        for split in ("train", "val", "test")
        if f"{split}_accuracy" in epoch
    )
    return (
        f"epoch {epoch['epoch']:>{len(str(epochs))}}/{epochs}  loss {epoch['loss']:.3f}{measured}"
        f"  lr {epoch['lr']:.2g}  {epoch['seconds']:.2f} s"
    )


def _accuracy_line(split: str, values: dict[str, float | None]) -> str:
    told = (
        f"{name} {'–' if value is None else f'{value:.1f} %'}" for name, value in values.items()
    )
    return f"{split}: {'  '.join(told)}"
