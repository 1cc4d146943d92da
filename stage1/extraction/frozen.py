"""Extraction from a pretrained model, without a run of stage 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from featbank import errors
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
_ASSUMED = {
    True: " They count as trained on train; if they were not, add --seen none.",
    False: " They count as trained on other images; if they were trained on these, add --seen.",
}
"""What is assumed of weights where nobody says what they were trained on."""


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
            For images that the backbone or the normalisation cannot take, and for a val that the
            model was trained on where there is none.
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
        resampled = model.branches[0].fit_images(dataset.image_shape)
        model.check_images(dataset.image_shape)
        model_key = {
            "backbone": request.backbone,
            "normalisation": normalisation,
            "augmentation": request.augmentation,
        }
        remark = _CLASSIFIER if classifier else _NO_CLASSIFIER.format(len(dataset.class_names))
        if request.seen is None:
            remark += _ASSUMED[classifier]
        remark = f"{resampled} {remark}".lstrip()
        return Subject(
            model=model.eval(),
            preprocessing=preprocessing,
            classifier=classifier,
            trained_on=self._trained_on(dataset, classifier),
            key={"weights": self.digest, **model_key},
            provenance={
                "weights": request.weights,
                "weights_sha256": self.digest,
                **model_key,
                "image_shape": list(dataset.image_shape),
                "preprocessing": dataclasses.asdict(preprocessing),
            },
            remark=remark,
        )

    def _trained_on(self, dataset: ImageDataset, classifier: bool) -> tuple[str, ...]:
        """Splits that the model was trained on, as the request says or else its classifier."""
        seen = self.request.seen or ("train" if classifier else "none")
        splits = () if seen == "none" else tuple(seen.split("+"))
        if "val" in splits and "val" not in dataset.splits:
            raise errors.ConfigError(
                f"--seen {seen} needs a val split, and {self.dataset.name} has none here. Give "
                "--seen train."
            )
        return splits
