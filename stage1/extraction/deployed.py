"""A backbone as one module from images to the features of a bank, for exports."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featbank import errors
from featbank.bank import Bank
from featbank.files import file_digest
from stage1.backbones import Backbone, build_backbone, load_weights, read_weights
from stage1.backbones.layers import Layers, layers_of
from stage1.data.images import Preprocessing
from stage1.inference.features import features_by_view, view_names
from stage1.inference.options import VIEWS
from stage1.training.checkpoint import load_checkpoint


class ImageFeatures(nn.Module):
    """Images [B, C, H, W] uint8 to views of a bank: a tuple of [B, D], or [B, T, D] of tokens.

    Attributes
    ----------
    image_shape
        (C, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        models: Mapping[str, Backbone],
        preprocessing: Preprocessing,
        image_shape: Sequence[int],
        views: Sequence[str],
        layers: Layers | None = None,
    ) -> None:
        super().__init__()
        self.models, self.layers = nn.ModuleDict(models), layers
        self.views, self.image_shape = tuple(views), tuple(image_shape)
        for name in ("mean", "std"):
            moments = torch.tensor(getattr(preprocessing, name)).view(-1, 1, 1)
            self.register_buffer(name, moments)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = (images.float() - self.mean) / self.std
        features: dict[str, Tensor] = {}
        for statistics, model in self.models.items():
            assert isinstance(model, Backbone)
            features |= features_by_view(model, statistics, [x], self.layers)
        return tuple(features[view] for view in self.views)


def image_features(
    source: str | os.PathLike[str], bank: Bank
) -> Callable[[Sequence[str]], ImageFeatures]:
    """The backbone that a bank was extracted with, as a function from views to their module.

    The module is in eval mode, on the CPU. The function raises `ConfigError` for a view that does
    not come from the backbone.

    Parameters
    ----------
    source
        The run folder, checkpoint or weights that the bank was made from.
    bank
        Its record of extraction says what the backbone is, also after a split.

    Raises
    ------
    ConfigError
        For a bank that `featbank extract` did not make, or another source.
    DataError
        For a source that cannot be read.
    """
    made = _record(bank)
    path, model, preprocessing, shape = _model(source, bank, made)
    sha256 = made.get("checkpoint_sha256", made.get("weights_sha256"))
    if file_digest(path) != sha256:
        raise errors.ConfigError(
            f"{bank.path} was not extracted with {path}: their digests differ. Give the run or "
            "weights that it was extracted with."
        )
    return lambda views: _features(bank, made, (model, preprocessing, shape), views)


def _features(
    bank: Bank,
    made: Mapping[str, Any],
    backbone: tuple[Backbone, Preprocessing, Sequence[int]],
    views: Sequence[str],
) -> ImageFeatures:
    """The module of some views; raises `ConfigError` for others than those of extraction."""
    model, preprocessing, shape = backbone
    models = {name: model for name in VIEWS if set(views) & {*view_names(model, name)}}
    layers = None
    if inner := [view for view in views if view.partition("/")[0] in made.get("layers", {})]:
        models = {"instance": model, **models}
        names = sorted({made["layers"][view.partition("/")[0]] for view in inner})
        tokens = sorted({view.partition("/")[2] for view in inner})
        layers = layers_of(model, names, tokens, shape, norm=made["layer_norm"])
    known = {view for name in models for view in view_names(model, name)}
    if strange := [view for view in views if view not in known and view not in inner]:
        raise errors.ConfigError(
            f"The view {strange[0]!r} of {bank.path} does not come from this backbone. Export a "
            "head on a view that `featbank extract` wrote."
        )
    if "balanced" in models:
        models["balanced"] = _under_statistics(model, bank)
    return ImageFeatures(models, preprocessing, shape, views, layers).eval()


def _record(bank: Bank) -> Mapping[str, Any]:
    """The record of `featbank extract`, of the bank or of the one that it was split from."""
    step: Any = bank.provenance
    while isinstance(step, Mapping) and step.get("made_by") == "featbank split":
        origin = step.get("from")
        step = origin.get("provenance") if isinstance(origin, Mapping) else None
    if isinstance(step, Mapping) and step.get("made_by") == "featbank extract":
        return step
    raise errors.ConfigError(
        f"{bank.path} does not say that `featbank extract` made it, so its backbone is unknown. "
        "Leave --backbone out."
    )


def _model(
    source: str | os.PathLike[str], bank: Bank, made: Mapping[str, Any]
) -> tuple[Path, Backbone, Preprocessing, Sequence[int]]:
    """The file of a source, the backbone in it, and the form of its images."""
    if "run" in made:
        path, checkpoint = load_checkpoint(source)
        return path, checkpoint.model(), checkpoint.preprocessing, checkpoint.image_shape
    state = read_weights(source)
    try:
        preprocessing, shape = Preprocessing(**made["preprocessing"]), list(made["image_shape"])
        with torch.random.fork_rng(devices=[]):
            model = build_backbone(
                made["backbone"], in_channels=shape[0], num_classes=bank.num_classes
            )
    except (KeyError, TypeError):
        raise errors.ConfigError(
            f"{bank.path} does not say what images its backbone takes: an older version wrote it. "
            "Extract it again."
        ) from None
    load_weights(model, state, source=source)
    model.branches[0].fit_images(shape)
    return Path(source), model.eval(), preprocessing, shape


def _under_statistics(model: Backbone, bank: Bank) -> Backbone:
    """A copy of the model with the BatchNorm statistics of the view ``balanced``."""
    balanced = copy.deepcopy(model)
    for view, branch in zip(view_names(model, "balanced"), balanced.branches, strict=True):
        for name, (mean, variance) in bank.batchnorm(view).items():
            layer: Any = branch.get_submodule(name)
            layer.running_mean.copy_(torch.from_numpy(mean))
            layer.running_var.copy_(torch.from_numpy(variance))
    return balanced
