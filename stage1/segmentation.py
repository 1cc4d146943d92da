"""Maps of segmentation networks: the input of their last layer, and this layer as a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import segmentation

from featbank import errors
from featbank.exchange.sinks import Group
from featbank.files import replacing
from stage1.backbones.weights import load_model, read_weights
from stage1.data.labelmaps import Pair, common_size
from stage1.inference.normalisation import CHANNEL_MOMENTS

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    name: getattr(segmentation, name)
    for name in (
        "fcn_resnet50",
        "fcn_resnet101",
        "deeplabv3_resnet50",
        "deeplabv3_resnet101",
        "deeplabv3_mobilenet_v3_large",
    )
}
"""torchvision's networks whose last layer is `LAYER`; LR-ASPP adds the logits of two layers."""

LAYER = "classifier.4"


@dataclass(frozen=True)
class Segmenter:
    """A segmentation network in use.

    Attributes
    ----------
    model
        Images [B, 3, H, W] → anything; in eval mode.
    layer
        Its last layer, a 1 × 1 convolution of D channels to K classes.
    moments
        Means and deviations of the channels of pixels in 0…1 that images are normalised by.
    """

    model: nn.Module
    layer: nn.Conv2d
    moments: tuple[Sequence[float], Sequence[float]] = CHANNEL_MOMENTS["imagenet"]

    @classmethod
    def of(cls, model: nn.Module, layer: str, normalisation: str = "imagenet") -> Segmenter:
        """Any network whose last layer has this name, in eval mode.

        Parameters
        ----------
        normalisation
            A name of `CHANNEL_MOMENTS`.

        Raises
        ------
        ConfigError
            Where the layer is missing or is no 1 × 1 convolution.
        """
        found = dict(model.named_modules()).get(layer)
        if not isinstance(found, nn.Conv2d) or not _is_linear(found):
            convolutions = [
                name
                for name, module in model.named_modules()
                if isinstance(module, nn.Conv2d) and _is_linear(module)
            ]
            last = f" The last one is {convolutions[-1]!r}." if convolutions else ""
            raise errors.ConfigError(
                f"{type(model).__name__} has no 1 × 1 convolution {layer!r}.{last} Name the layer "
                "that gives the logits."
            )
        return cls(model.eval(), found, CHANNEL_MOMENTS[normalisation])

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Input of the last layer [B, h, w, D] for images [B, H, W, 3] uint8.

        Raises
        ------
        ConfigError
            Where the network runs the layer not once.
        """
        mean, std = (torch.tensor(each, device=self.device) for each in self.moments)
        images = (pixels.to(self.device).float() / 255 - mean) / std
        inputs: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        with hook:
            self.model(images.permute(0, 3, 1, 2).contiguous())
        if len(inputs) != 1:
            raise errors.ConfigError(
                f"The network runs the layer {len(inputs)} times for an image. Name the layer that "
                "gives the logits, which runs once."
            )
        return inputs[0].permute(0, 2, 3, 1)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.layer.weight.device

    @property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K] of the last layer, 0 where it has none."""
        weight, bias = self.layer.weight.detach().flatten(1), self.layer.bias
        return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()


def _is_linear(layer: nn.Conv2d) -> bool:
    """Whether a convolution is a linear map of each pixel alone."""
    simple = layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1
    return simple and layer.padding in ((0, 0), "same", "valid")


def load_segmenter(
    name: str, weights: Path, *, device: torch.device, normalisation: str = "imagenet"
) -> Segmenter:
    """A network of `MODELS` with the weights of a file; those of an auxiliary head are left out.

    Raises
    ------
    ConfigError
        For another name.
    DataError
        For weights that are not the network's.
    """
    if name not in MODELS:
        raise errors.ConfigError(
            f"{name!r} is no segmentation network whose last layer is one 1 × 1 convolution. "
            f"{errors.closest(name, MODELS)}"
        )
    state = read_weights(weights)
    if f"{LAYER}.weight" not in state:
        raise errors.DataError(
            f"{weights} has no {LAYER}.weight. Give the weights of an FCN or DeepLabV3 of "
            "torchvision."
        )
    state = {key: x for key, x in state.items() if not key.startswith("aux_classifier.")}
    count = len(state[f"{LAYER}.weight"])
    model = MODELS[name](weights=None, weights_backbone=None, num_classes=count, aux_loss=False)
    load_model(model, name, state, weights)
    return Segmenter.of(model.to(device), LAYER, normalisation)


def extract_maps(
    segmenter: Segmenter,
    pairs: Sequence[Pair],
    output: Path,
    *,
    size: Sequence[int] | None = None,
    batch_size: int = 1,
    half: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, ...]:
    """Write the maps of M images to HDF5 as they come, and return the shape of the features.

    The arrays are ``features`` [M, h, w, D], ``labels`` [M, H, W], ``names`` [M] of the images, and
    the last layer's ``weight`` [K, D] and ``bias`` [K].

    Parameters
    ----------
    size
        Height and width that images and labels are resized to; without it all are of one size.
    half
        Features in float16.
    report
        Called with the number of images done, and of all.

    Raises
    ------
    DataError
        For files that cannot be read, labels of another size than their image, and sizes that
        differ without `size`.
    NotFinite
        For features that are not finite.
    """
    height, width = common_size(pairs) if size is None else size
    wide = any(pair.header.bits > 8 for pair in pairs)
    with replacing(output) as part, h5py.File(part, "w") as file:
        file["weight"], file["bias"] = (x.cpu().numpy() for x in segmenter.classifier)
        group = Group(file.create_dataset, lambda length: h5py.string_dtype("utf-8", length))
        group.texts("names", [pair.image.name for pair in pairs])
        kind = np.uint16 if wide else np.uint8
        labels = file.create_dataset("labels", (len(pairs), height, width), kind)
        features: Any = None
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            pixels, numbers = zip(*(pair.read(size) for pair in batch), strict=True)
            x = segmenter.features(torch.from_numpy(np.stack(pixels)))
            x = x.to(torch.float16 if half else torch.float32)
            if not x.isfinite().all():
                raise errors.NotFinite(
                    f"Features from {batch[0].image} on have NaN or infinity. Check the weights, "
                    "or write float32."
                )
            array = x.cpu().numpy()
            if features is None:
                features = file.create_dataset(
                    "features", (len(pairs), *array.shape[1:]), array.dtype
                )
            features[start : start + len(batch)] = array
            labels[start : start + len(batch)] = np.stack(numbers)
            report(start + len(batch), len(pairs))
        return features.shape
