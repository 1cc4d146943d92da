"""An exported head as ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import json
import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from featbank import errors
from featbank.files import replacing
from stage2.export.facts import HeadFacts
from stage2.export.forms import AveragedHeads, HeadModule

OPSET = 18


def check_onnx() -> None:
    """Raise `ConfigError` where a package is missing that writes ONNX."""
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise errors.ConfigError(
                f"ONNX needs the package {package!r}. "
                'Install it with `pip install "featbank[onnx]"`.'
            )


class ImageModel(Protocol):
    """A backbone in eval mode: images [B, C, H, W] uint8 to a tuple of features, view by view."""

    image_shape: tuple[int, ...]

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The features [B, D]."""


class _OnImages(nn.Module):
    """A head on its backbone: images to logits [B, K]."""

    def __init__(self, backbone: ImageModel, head: HeadModule | AveragedHeads) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return self.head(features if len(features) > 1 else features[0])


def save_onnx(
    path: str | os.PathLike[str],
    module: HeadModule | AveragedHeads,
    facts: HeadFacts,
    *,
    backbone: ImageModel | None = None,
    maps: bool = False,
) -> None:
    """Write a head as ONNX.

    Inputs are ``features``, or ``features_0``, … in the order of ``facts.arrays``, [B, D] or of
    tokens [B, T, D]; the output is ``logits`` [B, K]. All are float32, B is free. The names of the
    classes and the bank's fingerprint are among the model's properties. With `maps` the inputs are
    [B, D, H, W] and the output [B, K, H, W]; B, H and W are free.

    Under a `backbone` the input is ``images`` [B, C, H, W] uint8 of its `image_shape`.

    Raises
    ------
    ConfigError
        Where a package is missing, and for `maps` of tokens or under a backbone.
    """
    check_onnx()
    if maps and (backbone is not None or any(len(part.shape) > 1 for part in facts.arrays)):
        raise errors.ConfigError(
            "An ONNX file of maps takes one feature vector per cell, this one images or tokens. "
            "Leave --maps out."
        )
    import onnx  # here, because it is an extra

    several, written = len(facts.arrays) > 1, cast("nn.Module", module)
    size = (3, 4) if maps else ()  # any, as they are free
    example = tuple(torch.zeros(2, *part.shape, *size) for part in facts.arrays)
    names = [f"features_{i}" for i in range(len(example))] if several else ["features"]
    if backbone is not None:
        several, written = False, _OnImages(backbone, module)
        example, names = (torch.zeros(2, *backbone.image_shape, dtype=torch.uint8),), ["images"]
    free = {0: "rows", 2: "height", 3: "width"} if maps else {0: "rows"}
    rows = tuple({axis: torch.export.Dim(name) for axis, name in free.items()} for _ in example)
    with warnings.catch_warnings(), replacing(Path(path)) as part:
        warnings.simplefilter("ignore")  # of PyTorch to itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            written.eval(),
            (example,) if several else example,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(rows,) if several else rows,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        properties = {"classes": json.dumps(facts.class_names), "bank": facts.bank}
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, part)
