"""Regions of torchvision's Faster and Mask R-CNN: proposals, their features, and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms.functional import pil_to_tensor

from featbank import errors
from featbank.exchange.coco import Annotations
from featbank.files import replacing
from featbank.wording import number
from stage1.backbones.weights import load_model, read_weights
from stage1.data.pixels import Undecoded, read_rgb

MODELS: Mapping[str, Callable[..., FasterRCNN]] = {
    name: getattr(detection, name)
    for name in (
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_v2",
    )
}
"""torchvision's detectors with a box head."""

_CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"


class Regions(NamedTuple):
    """The n proposals of an image, in its pixels.

    Corners `boxes` [n, 4], the detector's `class_boxes` [n, L, 4] for its L labels, and `features`
    [n, D], the input of its classifier.
    """

    boxes: Tensor
    class_boxes: Tensor
    features: Tensor


@dataclass(frozen=True)
class Detector:
    """A detector in use, its labels in the order of the classes.

    Attributes
    ----------
    model
        In eval mode.
    labels
        The model's label of each of the K categories by ascending id, and of the background,
        [K + 1].
    """

    model: FasterRCNN
    labels: Tensor

    @torch.no_grad()
    def regions(self, image: Tensor) -> Regions:
        """The regions of an image [3, H, W] in 0…1, classes in the order of `labels`."""
        batch, _ = self.model.transform([image])
        maps = self.model.backbone(batch.tensors)
        proposals, _ = self.model.rpn(batch, maps)
        heads = self.model.roi_heads
        features = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
        _, changes = heads.box_predictor(features)
        size, original = batch.image_sizes[0], tuple(image.shape[-2:])
        refined = clip_boxes_to_image(heads.box_coder.decode(changes, proposals), size)
        refined = refined[:, self.labels]
        return Regions(
            resize_boxes(proposals[0], size, original),
            resize_boxes(refined.flatten(0, 1), size, original).view_as(refined),
            features,
        )

    @property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K + 1, D] and bias [K + 1] of the classifier."""
        layer = self.model.roi_heads.box_predictor.cls_score
        return layer.weight.detach()[self.labels], layer.bias.detach()[self.labels]


def load_detector(
    name: str,
    weights: Path,
    annotations: Annotations,
    *,
    device: torch.device,
    norm_eps: float = 1e-5,
    **options: Any,
) -> Detector:
    """A detector of `MODELS` with the weights of a file.

    Parameters
    ----------
    annotations
        Its K categories are the model's labels 1…K by ascending id where it has K + 1 labels; else
        their ids are the labels, as in torchvision's weights for COCO. Label 0 is the background.
    norm_eps
        ε of BatchNorm; torchvision's weights ``COCO_V1`` are for 0.
    options
        Of the model: ``min_size``, ``max_size`` in pixels, ``rpn_post_nms_top_n_test``.

    Raises
    ------
    ConfigError
        For another name, or labels that are not the categories.
    DataError
        For weights that are not the model's.
    """
    if name not in MODELS:
        raise errors.ConfigError(f"{name!r} is no detector. {errors.closest(name, MODELS)}")
    state = read_weights(weights)
    if _CLASSIFIER not in state:
        raise errors.DataError(
            f"{weights} has no {_CLASSIFIER}. Give the weights of a detector of torchvision."
        )
    count = len(state[_CLASSIFIER])
    labels = _labels(annotations, count)
    given = {option: value for option, value in options.items() if value is not None}
    model = MODELS[name](weights=None, weights_backbone=None, num_classes=count, **given)
    load_model(model, name, state, weights)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps
    return Detector(model.eval().to(device), labels.to(device))


def _labels(annotations: Annotations, count: int) -> Tensor:
    ids = sorted(category["id"] for category in annotations.categories)
    if count == len(ids) + 1:
        return torch.tensor([*range(1, count), 0])
    if ids and ids[0] >= 1 and ids[-1] < count:
        return torch.tensor([*ids, 0])
    raise errors.ConfigError(
        f"The detector has {number(count, 'label')} with the background, {annotations.path} has "
        f"{number(len(ids), 'category', 'categories')}. Give annotations as of its training."
    )


def extract_regions(
    detector: Detector,
    annotations: Annotations,
    root: Path,
    output: Path,
    *,
    class_boxes: bool = True,
    half: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the regions of all images to HDF5, and return their number.

    The arrays are ``image_ids`` [N], ``boxes`` [N, 4], ``features`` [N, D], with `class_boxes` also
    ``class_boxes`` [N, K + 1, 4], and the classifier's ``weight`` and ``bias``.

    Parameters
    ----------
    root
        Folder that the images' ``file_name``, or the last two parts of LVIS' ``coco_url``, start
        from.
    half
        Features in float16.
    report
        Called with the number of images done, and of all.

    Raises
    ------
    DataError
        For an image that is not named or cannot be read.
    NotFinite
        For features that are not finite.
    """
    device = detector.labels.device
    weight, bias = detector.classifier
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image_ids": ((), np.int64),
        "boxes": ((4,), np.float32),
        "features": ((weight.shape[1],), np.float16 if half else np.float32),
    }
    if class_boxes:
        shapes["class_boxes"] = ((len(weight), 4), np.float32)
    with replacing(output) as part, h5py.File(part, "w") as file:
        file["weight"], file["bias"] = weight.cpu().numpy(), bias.cpu().numpy()
        for name, (shape, dtype) in shapes.items():
            file.create_dataset(
                name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(256, *shape)
            )
        for done, entry in enumerate(annotations.images, 1):
            pixels = pil_to_tensor(_image(entry, root, annotations)).float() / 255
            found = detector.regions(pixels.to(device))
            if not found.features.isfinite().all():
                raise errors.NotFinite(
                    f"The features of image {entry['id']} have NaN or infinity. Check the weights."
                )
            ids = np.full(len(found.boxes), entry["id"])
            for name, rows in {"image_ids": ids, **found._asdict()}.items():
                if name in shapes:
                    _append(file[name], rows)
            report(done, len(annotations.images))
        return len(file["image_ids"])


def _append(dataset: Any, rows: Any) -> None:
    array = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
    start = len(dataset)
    dataset.resize(start + len(array), 0)
    dataset[start:] = array


def _image(entry: Mapping[str, Any], root: Path, annotations: Annotations) -> Any:
    name = entry.get("file_name") or "/".join(str(entry.get("coco_url", "")).split("/")[-2:])
    if not name:
        raise errors.DataError(
            f"{annotations.path}: image {entry['id']} has no file_name. Add it to the annotations."
        )
    try:
        return read_rgb(root / name)
    except FileNotFoundError:
        raise errors.DataError(f"{root / name}: no such image. Check --root.") from None
    except Undecoded as error:
        raise errors.DataError(f"{root / name} {error}. Replace it.") from None
