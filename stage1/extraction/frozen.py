"""Extraction from a pretrained model, without a run of stage 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from featbank.files import file_digest
from stage1.backbones import build_backbone, load_weights, read_weights
from stage1.data.images import ImageDataset
from stage1.data.settings import DatasetSettings
from stage1.extraction.settings import Frozen
from stage1.extraction.subject import Subject, streamed
from stage1.inference.normalisation import default_normalisation, normalised_by

_CLASSIFIER = "The bank has the classifier of the weights: its classes must be the data set's."
_NO_CLASSIFIER = (
    "The weights have no classifier of {} classes, so the bank has none: stage 2 starts from a "
    "linear probe."
)


@dataclass(frozen=True)
class Pretrained:
    """The model of a `Frozen`, its weights read."""

    request: Frozen
    digest: str
    state: Mapping[str, torch.Tensor]
    dataset: DatasetSettings

    @classmethod
    def open(cls, request: Frozen) -> Pretrained:
        """Read the weights.

        Raises
        ------
        ConfigError, DataError
            As `stage1.backbones.read_weights`.
        """
        state = read_weights(request.weights)
        digest = file_digest(Path(request.weights))
        return cls(request, digest, state, streamed(request.dataset))

    def subject(self, dataset: ImageDataset) -> Subject:
        """Build the model; the classifier of the weights is used if it has K classes.

        Raises
        ------
        ConfigError
            For images that the backbone or the normalisation cannot take.
        DataError
            For weights of another model.
        """
        request, channels = self.request, dataset.image_shape[0]
        normalisation = request.normalisation or default_normalisation(request.backbone, channels)
        preprocessing = dataclasses.replace(
            normalised_by(dataset.preprocessing, normalisation), augmentation=request.augmentation
        )
        with torch.random.fork_rng(devices=[]):
            model = build_backbone(
                request.backbone, in_channels=channels, num_classes=len(dataset.class_names)
            )
        classifier = load_weights(model, self.state, source=request.weights)
        model.check_images(dataset.image_shape)
        model_key = {
            "backbone": request.backbone,
            "normalisation": normalisation,
            "augmentation": request.augmentation,
        }
        return Subject(
            model=model.eval(),
            preprocessing=preprocessing,
            classifier=classifier,
            key={"weights": self.digest, **model_key},
            provenance={
                "weights": request.weights,
                "weights_sha256": self.digest,
                **model_key,
                "preprocessing": dataclasses.asdict(preprocessing),
            },
            remark=_CLASSIFIER if classifier else _NO_CLASSIFIER.format(len(dataset.class_names)),
        )
