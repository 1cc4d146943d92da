"""The checkpoint of a training run, which extraction starts from.

A file of tensors and plain types, read with ``weights_only=True``: a checkpoint can hold no code.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featbank import __version__, errors
from stage1.backbones import Backbone
from stage1.data.images import Preprocessing
from stage1.tensors import load_tensors, save_tensors
from stage1.training.settings import TrainSettings, settings_from

CHECKPOINT = "checkpoint.pt"
"""Name of the checkpoint in its run folder."""

_FORMAT, _SCHEMA = "featbank stage 1", 3
"""Schema 2 has `epoch`, schema 3 `resize`, and each has settings that earlier versions refuse."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained backbone and its training.

    `weights` is a state dict on the CPU; `train_counts` has K integers; `image_shape` is (C, H, W);
    `accuracy` holds the `accuracies` of stage1.inference.evaluate of these weights by split;
    `epoch` (from 1) is that of the weights, None for the last.
    """

    weights: dict[str, torch.Tensor]
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    settings: TrainSettings
    accuracy: dict[str, dict[str, float | None]]
    versions: dict[str, str]
    epoch: int | None = None

    def model(self) -> Backbone:
        """The trained model, in eval mode, on the CPU."""
        model = self.settings.model(
            in_channels=self.image_shape[0], num_classes=len(self.class_names)
        )
        set_state(model, self.weights)
        return model.eval()


def state_of(model: Backbone) -> dict[str, torch.Tensor]:
    """A copy of the model's state dict, on the CPU."""
    return {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }


def set_state(model: Backbone, weights: dict[str, torch.Tensor]) -> None:
    """Load a state dict from `state_of`."""
    state = OrderedDict(weights)
    # The versions of modules, without which torchvision's MNASNets load nothing.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)


def versions() -> dict[str, str]:
    """Versions of the software that the numbers depend on."""
    return {
        "featbank": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file appears complete or not at all."""
    document: dict[str, Any] = {"format": _FORMAT, "schema": _SCHEMA, **vars(checkpoint)}
    document["preprocessing"] = dataclasses.asdict(checkpoint.preprocessing)
    document["settings"] = dataclasses.asdict(checkpoint.settings)
    save_tensors(path, document)


def load_checkpoint(run: str | os.PathLike[str]) -> tuple[Path, Checkpoint]:
    """Read the checkpoint of a run.

    Parameters
    ----------
    run
        A run folder, or the checkpoint file itself.

    Returns
    -------
    The file and its checkpoint.

    Raises
    ------
    ConfigError
        For a path without a checkpoint.
    DataError
        For another file, a damaged one, or one that holds anything but tensors and plain types.
    """
    path = Path(run) / CHECKPOINT if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise errors.ConfigError(f"{path}: no such checkpoint. Give a run of `featbank train`.")
    document = load_tensors(path, "checkpoint", "Give a run of `featbank train`.")
    if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
        raise errors.DataError(
            f"{path} is a torch file, but not one of `featbank train`. Give a run of that command."
        )
    if (schema := document.pop("schema", None)) not in range(1, _SCHEMA + 1):
        raise errors.DataError(
            f"{path} has schema {schema}, this version reads 1 to {_SCHEMA}. Update featbank."
        )
    try:
        document["preprocessing"] = Preprocessing(**document["preprocessing"])
        backbone = document["settings"]["backbone"]
        if backbone in ("resnet50", "resnet152") and "stem.weight" in document["weights"]:
            # In earlier versions, these names were the CIFAR ResNets of that depth.
            document["settings"]["backbone"] = f"cifar-{backbone}"
        dataset = document["settings"]["dataset"]
        if schema < 3 and dataset["image_size"] is not None:
            dataset["resize"] = 0  # earlier versions scaled the largest centre square
        document["settings"] = settings_from(document["settings"])
        checkpoint = Checkpoint(**document)
        checkpoint.model()
    except errors.ConfigError as error:  # timm is not installed, for example
        raise errors.ConfigError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = errors.first_line(error)
        raise errors.DataError(f"{path} is damaged ({reason}). Train again.") from None
    return path, checkpoint
