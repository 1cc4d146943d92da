"""Models to extract features from: a trained run, or a pretrained model without a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featbank import errors
from featbank.files import file_digest
from stage1.backbones import Backbone
from stage1.data.catalogue import DATASETS
from stage1.data.images import ImageDataset, Preprocessing
from stage1.data.settings import DatasetSettings
from stage1.inference.normalisation import normalised_by
from stage1.training.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class Subject:
    """A model with the preprocessing of its images, and records of both.

    Attributes
    ----------
    model
        In eval mode, on the CPU.
    classifier
        True if its classifier is trained, and goes into the bank.
    trained_on
        Splits of the data set whose rows it was trained on.
    key
        Values that its features depend on beside the images, by name.
    provenance
        Its record in the bank.
    remark
        A line to report at the end, if any.
    """

    model: Backbone
    preprocessing: Preprocessing
    classifier: bool
    trained_on: tuple[str, ...]
    key: Mapping[str, Any]
    provenance: Mapping[str, Any]
    remark: str = ""


class ModelOrigin(Protocol):
    """Source of a subject; its files are read before the data set is loaded."""

    @property
    def dataset(self) -> DatasetSettings:
        """The data set, streamed if possible."""

    def subject(self, dataset: ImageDataset) -> Subject:
        """Build the subject; raises if it does not fit the loaded data set."""


@dataclass(frozen=True)
class Trained:
    """A run of `stage1.train`, from its checkpoint."""

    run: str
    path: Path
    digest: str
    checkpoint: Checkpoint
    dataset: DatasetSettings

    @classmethod
    def open(cls, run: str | os.PathLike[str], root: str | None) -> Trained:
        """Read the checkpoint; `root` is the folder of a data set that has moved.

        Raises
        ------
        ConfigError, DataError
            As `stage1.training.checkpoint.load_checkpoint`.
        """
        path, checkpoint = load_checkpoint(run)
        dataset = checkpoint.settings.dataset
        if root is not None:
            dataset = dataclasses.replace(dataset, root=root)
        return cls(str(run), path, file_digest(path), checkpoint, streamed(dataset))

    def subject(self, dataset: ImageDataset) -> Subject:
        """The trained model.

        Raises
        ------
        Mismatch
            For a data set that differs from the one of the checkpoint.
        """
        checkpoint = self.checkpoint
        here = normalised_by(dataset.preprocessing, checkpoint.settings.normalisation)
        _check_same_data(dataset, here, checkpoint, self.path)
        return Subject(
            model=checkpoint.model(),
            preprocessing=checkpoint.preprocessing,
            classifier=True,
            trained_on=("train",),
            key={"checkpoint": self.digest},
            provenance={
                "run": self.run,
                "checkpoint_sha256": self.digest,
                "stage1": {
                    "settings": dataclasses.asdict(checkpoint.settings),
                    "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
                    "accuracy": checkpoint.accuracy,
                    "versions": checkpoint.versions,
                },
            },
        )


def seen_rows(dataset: ImageDataset, trained_on: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks [N] by split of the rows that belong to splits in `trained_on` too.

    Rows are the same by source and index or, as where two lists name one image, by path.
    """
    masks = {split: np.zeros(len(images.index), bool) for split, images in dataset.splits.items()}
    for name, split in dataset.splits.items():
        for there in (dataset.splits[known] for known in trained_on):
            if there is split or (split.source is not None and split.source == there.source):
                masks[name] |= np.isin(split.index, there.index)
            if split.paths and there.paths:
                paths = set(map(os.path.normpath, there.paths))
                masks[name] |= np.array([os.path.normpath(p) in paths for p in split.paths])
    return masks


def streamed(settings: DatasetSettings) -> DatasetSettings:
    """`settings` with streaming where the data set allows it: each image is used once."""
    if "stream" in DATASETS[settings.name].options:
        return dataclasses.replace(settings, stream=True)
    return settings


def _check_same_data(
    dataset: ImageDataset, preprocessing: Preprocessing, checkpoint: Checkpoint, path: Path
) -> None:
    for name, here, there in (
        ("image shape", dataset.image_shape, checkpoint.image_shape),
        ("class names", dataset.class_names, checkpoint.class_names),
        ("training counts", tuple(dataset.train_counts.tolist()), checkpoint.train_counts),
        # Rounded, because decoders of lossy images differ a little between versions.
        ("channel means", _rounded(preprocessing), _rounded(checkpoint.preprocessing)),
    ):
        if here != there:
            raise errors.Mismatch(
                f"The data set's {name} differ from those that {path} was trained with "
                f"({_short(here)}, not {_short(there)}). Give the data of that run."
            )


def _rounded(preprocessing: Preprocessing) -> tuple[int, ...]:
    return tuple(round(mean) for mean in preprocessing.mean)


def _short(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:4])
    return f"{shown}, … ({len(values)})" if len(values) > 4 else shown
