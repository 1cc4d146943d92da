"""An exported head as ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import json
import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from featbank import errors
from featbank.files import replacing
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headfile import HeadFacts

OPSET = 18


def check_onnx() -> None:
    """Raise `ConfigError` where a package is missing that writes ONNX."""
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise errors.ConfigError(
                f"ONNX needs the package {package!r}. "
                'Install it with `pip install "featbank[onnx]"`.'
            )


def save_onnx(
    path: str | os.PathLike[str], module: HeadModule | AveragedHeads, facts: HeadFacts
) -> None:
    """Write a head as ONNX: inputs ``features`` (``features_0``, … of several views) [B, D], output
    ``logits`` [B, K], float32, B free; the names of the classes and the bank's fingerprint are
    among the model's properties.

    Raises
    ------
    ConfigError
        Where a package is missing.
    """
    check_onnx()
    import onnx  # here, because it is an extra

    views = len(facts.views)
    example = tuple(torch.zeros(2, facts.dim) for _ in facts.views)
    names = [f"features_{i}" for i in range(views)] if views > 1 else ["features"]
    rows = tuple({0: torch.export.Dim("rows")} for _ in facts.views)
    with warnings.catch_warnings(), replacing(Path(path)) as part:
        warnings.simplefilter("ignore")  # of PyTorch to itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            (example,) if views > 1 else example,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(rows,) if views > 1 else rows,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        properties = {"classes": json.dumps(facts.class_names), "bank": facts.bank}
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, part)
