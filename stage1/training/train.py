"""Train a backbone: from settings to a run folder with a checkpoint and a log."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featbank import errors
from featbank.files import file_digest
from stage1.augment import crops_originals
from stage1.backbones import Backbone, load_weights, read_weights
from stage1.data.datasets import load_dataset
from stage1.data.images import ImageDataset
from stage1.inference.evaluate import accuracies, predict
from stage1.inference.normalisation import normalised_by
from stage1.processes.distributed import ProcessGroup, process_group
from stage1.processes.repeatable import repeatable
from stage1.processes.together import agree
from stage1.training.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    save_checkpoint,
    set_state,
    state_of,
    versions,
)
from stage1.training.fit import AngularLoss, BatchLoss, cross_entropy, fit, sgd
from stage1.training.lines import accuracy_line, describe, epoch_line
from stage1.training.scalars import check_tensorboard, scalars
from stage1.training.settings import TrainSettings
from stage1.training.unfinished import (
    TENSORBOARD,
    State,
    Unfinished,
    Weights,
    run_key,
    state_file,
)


def train(
    settings: TrainSettings,
    run: str | os.PathLike[str],
    *,
    objective: Callable[[np.ndarray], BatchLoss | AngularLoss] | None = None,
    report: Callable[[str], None] = lambda line: None,
    report_every: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tensorboard: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a backbone; write ``checkpoint.pt`` and ``log.jsonl`` to the folder `run`.

    The same settings give the same weights on one device, even if the run was stopped or killed and
    resumed from the state that is saved every few epochs. The ``test`` split is measured once, at
    the end; nothing is selected on it. Under ``torchrun``, every process calls this, and only rank
    0 writes and reports.

    Parameters
    ----------
    settings
        From `stage1.training.settings.default_settings`.
    run
        The folder of the run, created if missing. An unfinished run of the same settings resumes.
    objective
        Takes the training counts [K] and returns the loss that the settings name; cross-entropy
        needs none.
    report
        Takes lines on the data, on epochs, and on each split measured at the end.
    report_every
        Report every n-th epoch and the last.
    progress
        Takes (images done, images in all) of the run, after each step.
    tensorboard
        Write scalars to the folder ``tensorboard`` of the run.
    overwrite
        Start over; the existing run is replaced once this one is complete.

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
        if "val" not in dataset.splits:
            report(_NO_VAL)
        model = _build(settings, dataset, initial).to(group.device)
        unfinished = Unfinished(run, run_key(settings, dataset, group))
        work = _Run(settings, dataset, model, sgd(model, settings), unfinished)
        if not overwrite:
            work.resume(report)
        if not agree(group, len(work.log)):
            raise errors.ConfigError(
                f"{run} has another state on another machine. Give a folder that all of them share."
            )
        epochs = fit(
            model,
            dataset.splits["train"],
            dataset.preprocessing,
            settings=settings,
            objective=loss,
            optimiser=work.optimiser,
            start=len(work.log),
            group=group,
            progress=progress,
        )
        group.wait()  # until all have read the state
        if group.leads:
            work.lead(epochs, path, report, report_every=report_every, tensorboard=tensorboard)
        else:
            deque(epochs, maxlen=0)
        group.wait()
    return path


_NO_VAL = (
    "No val: stage 2 will have no images to select by that this run has not seen. --val-per-class "
    "or --val-fraction holds some out"
)


@dataclass
class _Run:
    """A run in progress: `log` has the lines of its finished epochs, `best` its best weights."""

    settings: TrainSettings
    dataset: ImageDataset
    model: Backbone
    optimiser: torch.optim.SGD
    unfinished: Unfinished
    log: list[dict[str, Any]] = field(default_factory=list)
    best: Weights | None = None

    def resume(self, report: Callable[[str], None]) -> None:
        """Start from the state of the unfinished run, if there is one."""
        state = self.unfinished.read()
        if state is None:
            return
        try:
            set_state(self.model, state.current.tensors)
            self.optimiser.load_state_dict(state.optimiser)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.unfinished.damaged(error) from None
        self.log, self.best = list(state.log), state.best
        run, epoch = self.unfinished.folder.parent, state.current.epoch
        report(f"Resuming {run} after epoch {epoch} of {self.settings.epochs}")

    def lead(
        self,
        epochs: Iterator[dict[str, Any]],
        path: Path,
        report: Callable[[str], None],
        *,
        report_every: int,
        tensorboard: bool,
    ) -> None:
        """Run the epochs as the leading process: measure, log and save; write the checkpoint."""
        total, start = self.settings.epochs, len(self.log)
        plots: AbstractContextManager[Callable[[dict[str, Any]], None]] = nullcontext(_silent)
        if tensorboard:
            plots = scalars(self.unfinished.folder / TENSORBOARD, start=start)
        with self.unfinished.keeping(self.log, epochs=total, report=report) as write:
            with plots as plot:
                for epoch in epochs:
                    current = self._measured(epoch)
                    last = current.epoch == total
                    if last:
                        checkpoint = self._checkpoint(self.best or current)
                        epoch["test_accuracy"] = checkpoint.accuracy["test"]["top1"]
                        epoch["kept_epoch"] = checkpoint.epoch
                    self.log.append(epoch)
                    write(epoch)
                    plot(epoch)
                    if last or current.epoch % report_every == 0:
                        report(epoch_line(epoch, total))
                    if not last and current.epoch % self.settings.checkpoint_every == 0:
                        optimiser = self.optimiser.state_dict()
                        self.unfinished.save(State(current, optimiser, self.log, self.best))
            self.unfinished.publish(path, lambda file: save_checkpoint(file, checkpoint))
        for split, values in checkpoint.accuracy.items():
            report(accuracy_line(split, values))

    def _measured(self, epoch: dict[str, Any]) -> Weights:
        """Weights after an epoch, with their accuracy on val, if any; keep the best."""
        val = None
        if "val" in self.dataset.splits:
            val = _measure(self.model, self.dataset, "val")
            epoch["val_accuracy"] = val["top1"]
        current = Weights(epoch["epoch"], state_of(self.model), val)
        if self.settings.keep == "best" and (
            self.best is None or _top1(current) > _top1(self.best)
        ):
            self.best = current
        return current

    def _checkpoint(self, kept: Weights) -> Checkpoint:
        """Checkpoint of the weights that are kept, measured on test."""
        set_state(self.model, kept.tensors)
        accuracy = {} if kept.val is None else {"val": kept.val}
        accuracy["test"] = _measure(self.model, self.dataset, "test")
        return Checkpoint(
            weights=kept.tensors,
            class_names=self.dataset.class_names,
            train_counts=tuple(self.dataset.train_counts.tolist()),
            image_shape=self.dataset.image_shape,
            preprocessing=self.dataset.preprocessing,
            settings=self.settings,
            accuracy=accuracy,
            versions=versions(),
            epoch=kept.epoch,
        )


def _load(settings: TrainSettings) -> ImageDataset:
    dataset = load_dataset(settings.dataset, originals=crops_originals(settings.augmentation))
    if settings.keep == "best" and "val" not in dataset.splits:
        raise errors.ConfigError(
            f"--keep best needs a val split, and {settings.dataset.name} has none. "
            "Give --val-per-class, --val-fraction or --val-list, or leave --keep out."
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


def _check_shares(settings: TrainSettings, group: ProcessGroup) -> None:
    if over := settings.batch_size % group.size:
        nearest = max(settings.batch_size - over, group.size)
        raise errors.ConfigError(
            f"A batch of {settings.batch_size} cannot be shared by {group.size} processes. "
            f"Give --batch-size {nearest}, for example."
        )


def _with_digest(settings: TrainSettings, weights: Path) -> TrainSettings:
    """Add the SHA-256 of the weights' file; it must be the one that the settings name, if any."""
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
    """Discard what is reported."""
