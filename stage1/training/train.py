"""Training a backbone: from settings to a run folder with a checkpoint and a log."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featbank import errors
from featbank.files import file_digest
from stage1.backbones import Backbone, load_weights, read_weights
from stage1.data.datasets import load_dataset
from stage1.data.images import ImageDataset
from stage1.inference.evaluate import accuracies, predict
from stage1.inference.normalisation import normalised_by
from stage1.processes.distributed import Group, process_group
from stage1.processes.repeatable import repeatable
from stage1.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    save_checkpoint,
    set_state,
    state_of,
    versions,
)
from stage1.training.fit import AngularObjective, Objective, cross_entropy, fit, sgd
from stage1.training.lines import accuracy_line, describe, epoch_teller
from stage1.training.scalars import check_tensorboard, scalars
from stage1.training.settings import TrainSettings
from stage1.training.unfinished import (
    TENSORBOARD,
    State,
    Unfinished,
    Weights,
    shaped_by,
    state_file,
)


def train(
    settings: TrainSettings,
    run: str | os.PathLike[str],
    *,
    objective: Callable[[np.ndarray], Objective | AngularObjective] | None = None,
    report: Callable[[str], None] = lambda line: None,
    report_every: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tensorboard: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a backbone; write ``checkpoint.pt`` and ``log.jsonl`` to the folder `run`.

    The same settings give the same weights on one device, also where the run was stopped or killed
    and went on from the state that is kept every few epochs. The ``test`` split is measured once,
    at the end; nothing is selected on it. Under ``torchrun``, every process calls this, and rank 0
    alone writes and reports.

    Parameters
    ----------
    settings
        From `stage1.training.settings.default_settings`.
    run
        The folder of the run; made if missing. An unfinished run of the same settings goes on.
    objective
        Takes the training counts [K] and gives the loss that the settings name; cross-entropy
        needs none.
    report
        Takes lines: about the data, after each epoch, and of each split measured at the end.
    report_every
        Epochs between two such lines; the last epoch always has its own.
    progress
        Takes (images done, images in all) of the run, after each step.
    tensorboard
        Write scalars to the folder ``tensorboard`` of the run.
    overwrite
        Start anew; replace the run that is there, once this one is complete.

    Returns
    -------
    The checkpoint file.

    Raises
    ------
    OutputExists
        For a finished run, or an unfinished one of other settings.
    ConfigError, DataError
    NotFinite
        Where the loss diverges.
    """
    run = Path(run)
    path = run / CHECKPOINT
    if path.exists() and not overwrite and not state_file(run).exists():
        raise errors.OutputExists(f"{path} exists. Choose another run folder or --overwrite.")
    if objective is None and (settings.loss != "ce" or settings.loss_settings):
        raise errors.ConfigError(
            f"Loss {settings.loss!r} with settings {settings.loss_settings} needs an objective. "
            "Give one, or use `featbank train --loss`."
        )
    if tensorboard:
        check_tensorboard()
    with process_group(settings.device) as group, repeatable():
        if not group.leads:
            report = progress = _silent
        _check_shares(settings, group)
        initial = None
        if settings.weights is not None:
            initial = read_weights(settings.weights)
            settings = _with_digest(settings, Path(settings.weights))
        report(f"Loading {settings.dataset.name}")
        dataset = _load(settings)
        settings = dataclasses.replace(settings, dataset=dataset.settings)
        loss = objective(dataset.train_counts) if objective else cross_entropy
        report(describe(dataset, settings, group))
        model = _build(settings, dataset, initial).to(group.device)
        optimiser = sgd(model, settings)
        unfinished = Unfinished(
            run,
            shaped_by(
                settings,
                train_counts=tuple(dataset.train_counts.tolist()),
                class_names=dataset.class_names,
                device=group.device,
                processes=group.size,
            ),
        )
        state = None if overwrite else unfinished.read()
        if state is not None:
            try:
                set_state(model, state.current.tensors)
                optimiser.load_state_dict(state.optimiser)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise unfinished.damaged(error) from None
            report(f"Resuming {run} after epoch {state.current.epoch} of {settings.epochs}")
        log = list(state.log) if state else []
        epochs = fit(
            model,
            dataset.splits["train"],
            dataset.preprocessing,
            settings=settings,
            objective=loss,
            optimiser=optimiser,
            begin=len(log),
            group=group,
            progress=progress,
        )
        group.wait()  # until all have read the state
        if group.leads:
            with unfinished.going_on(log, epochs=settings.epochs, report=report) as write:
                folder = unfinished.folder / TENSORBOARD
                with (
                    scalars(folder, begin=len(log))
                    if tensorboard
                    else contextlib.nullcontext(_silent) as plot
                ):
                    checkpoint = _lead(
                        epochs,
                        model,
                        dataset,
                        settings=settings,
                        log=log,
                        best=state.best if state else None,
                        tell=(write, plot, epoch_teller(report, report_every, settings.epochs)),
                        save=lambda weights, best: unfinished.save(
                            State(weights, optimiser.state_dict(), log, best)
                        ),
                    )
                unfinished.publish(path, lambda file: save_checkpoint(file, checkpoint))
            for split, values in checkpoint.accuracy.items():
                report(accuracy_line(split, values))
        else:
            deque(epochs, maxlen=0)
        group.wait()
    return path


def _lead(
    epochs: Iterator[dict[str, Any]],
    model: Backbone,
    dataset: ImageDataset,
    *,
    settings: TrainSettings,
    log: list[dict[str, Any]],
    best: Weights | None,
    tell: Sequence[Callable[[dict[str, Any]], None]],
    save: Callable[[Weights, Weights | None], None],
) -> Checkpoint:
    """Go through the epochs: measure, tell, save; what is left of them is the checkpoint."""
    for epoch in epochs:
        number, val = epoch["epoch"], None
        if "val" in dataset.splits:
            val = _measure(model, dataset, "val")
            epoch["val_accuracy"] = val["top1"]
        current = Weights(number, state_of(model), val)
        if settings.keep == "best" and (best is None or _top1(current) > _top1(best)):
            best = current
        if number == settings.epochs:
            kept = best or current
            set_state(model, kept.tensors)
            accuracy = {} if kept.val is None else {"val": kept.val}
            accuracy["test"] = _measure(model, dataset, "test")
            epoch |= {"test_accuracy": accuracy["test"]["top1"], "kept_epoch": kept.epoch}
        log.append(epoch)
        for to in tell:
            to(epoch)
        if number % settings.checkpoint_every == 0 and number < settings.epochs:
            save(current, best)
    return Checkpoint(
        weights=kept.tensors,
        class_names=dataset.class_names,
        train_counts=tuple(dataset.train_counts.tolist()),
        image_shape=dataset.image_shape,
        preprocessing=dataset.preprocessing,
        settings=settings,
        accuracy=accuracy,
        versions=versions(),
        epoch=kept.epoch,
    )


def _load(settings: TrainSettings) -> ImageDataset:
    dataset = load_dataset(settings.dataset)
    if settings.keep == "best" and "val" not in dataset.splits:
        raise errors.ConfigError(
            f"--keep best needs a val split, and {settings.dataset.name} has none. "
            "Give --val-per-class or --val-list, or leave --keep out."
        )
    preprocessing = normalised_by(dataset.preprocessing, settings.normalisation)
    preprocessing = dataclasses.replace(preprocessing, augmentation=settings.augmentation)
    return dataclasses.replace(dataset, preprocessing=preprocessing)


def _build(
    settings: TrainSettings, dataset: ImageDataset, initial: dict[str, torch.Tensor] | None
) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = settings.model(
            in_channels=dataset.image_shape[0], num_classes=len(dataset.class_names)
        )
    model.check_images(dataset.image_shape)
    if settings.weights is not None and initial is not None:
        load_weights(model, initial, source=settings.weights)
    return model


def _check_shares(settings: TrainSettings, group: Group) -> None:
    if over := settings.batch_size % group.size:
        nearest = max(settings.batch_size - over, group.size)
        raise errors.ConfigError(
            f"A batch of {settings.batch_size} cannot be shared by {group.size} processes. "
            f"Give --batch-size {nearest}, for example."
        )


def _with_digest(settings: TrainSettings, weights: Path) -> TrainSettings:
    """`settings` with the SHA-256 of the weights' file, which must be the one they name, if any."""
    digest = file_digest(weights)
    if settings.weights_sha256 not in (None, digest):
        raise errors.DataError(
            f"{weights} has SHA-256 {digest}, not {settings.weights_sha256}. "
            "Give the file of these settings."
        )
    return dataclasses.replace(settings, weights_sha256=digest)


def _measure(model: Backbone, dataset: ImageDataset, split: str) -> dict[str, float | None]:
    images, labels = dataset.splits[split].images, dataset.splits[split].labels.numpy()
    predictions = predict(model, images, preprocessing=dataset.preprocessing)
    return accuracies(predictions, labels, train_counts=dataset.train_counts)


def _top1(weights: Weights) -> float:
    top1 = (weights.val or {})["top1"]
    assert top1 is not None
    return top1


def _silent(*_: Any) -> None:
    """Take anything, tell nothing."""
