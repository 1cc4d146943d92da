"""Weights from a file: a state dict of the same model, saved by featbank or another program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from featbank import errors
from featbank.wording import listed
from stage1.backbones.base import Backbone, SingleBackbone
from stage1.tensors import load_tensors

_NESTS = ("state_dict", "model", "weights")
"""Keys under which checkpoints keep their state dict; the last is that of `featbank train`."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict.

    Parameters
    ----------
    path
        A torch file of a plain state dict, or of a dict that holds one under ``state_dict``,
        ``model`` or ``weights``; or a ``.safetensors`` file. A prefix ``module.`` of all names is
        removed.

    Raises
    ------
    ConfigError
        For a path without a file.
    DataError
        For a file that cannot be read, or that holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise errors.ConfigError(f"{path}: no such file of weights. Check --weights.")
    if path.suffix == ".safetensors":
        state: Any = _safetensors(path)
    else:
        state = load_tensors(path, "file of weights", "Save a state dict with torch.save.")
    for nest in _NESTS:
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
    if not (
        isinstance(state, Mapping)
        and state
        and all(isinstance(k, str) and isinstance(x, torch.Tensor) for k, x in state.items())
    ):
        raise errors.DataError(
            f"{path} holds no state dict, also not under {', '.join(_NESTS)}. "
            "Save one with torch.save(model.state_dict(), path)."
        )
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise errors.DataError(
            f"{path} is not a readable safetensors file ({errors.first_line(error)}). "
            "Fetch or save it again."
        ) from None


def load_weights(
    model: Backbone, state: Mapping[str, torch.Tensor], *, source: str | os.PathLike[str]
) -> bool:
    """Copy `state` into `model`, whole or not at all.

    Names are those of the model or of the library it comes from. A classifier that is missing, or
    has another number of classes or another kind (only a linear one has a bias), is not loaded, and
    neither are counters of batches, which old files lack. Experts take the weights of as many
    experts, or those of the backbone they are made of, from which all then start.

    Parameters
    ----------
    model
        Changed in place.
    state
        From `read_weights`.
    source
        File of the state, for the error.

    Returns
    -------
    True if the classifier was loaded, too.

    Raises
    ------
    DataError
        For a tensor that is missing, surplus or of another shape.
    """
    states = [dict(state)] * len(model.branches)
    if any(name.startswith("experts.") for name in state):
        prefixes = [f"experts.{e}." for e in range(len(model.branches))]
        states = [
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
            for prefix in prefixes
        ]
        # Tensors of no expert of the model are reported as unexpected.
        states[0] |= {n: x for n, x in state.items() if not n.startswith(tuple(prefixes))}
    fitting = [
        _fitting(branch, tensors, source=source)
        for branch, tensors in zip(model.branches, states, strict=True)
    ]
    with torch.no_grad():
        for pairs in fitting:
            for target, tensor in pairs.values():
                target.copy_(tensor)
    return all("classifier.weight" in pairs for pairs in fitting)


def load_model(
    model: nn.Module, name: str, state: Mapping[str, torch.Tensor], source: Path
) -> None:
    """Copy `state` into torchvision's model of this `name`; counters of batches may be missing.

    Raises
    ------
    DataError
        For a tensor that is missing, surplus or of another shape.
    """
    try:
        missing, surplus = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[:2][-1].strip().rstrip(".")
        raise errors.DataError(
            f"{source} does not fit {name} ({first}). Name its --model."
        ) from None
    missing = [each for each in missing if not each.endswith("num_batches_tracked")]
    if missing or surplus:
        fault = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which {name} has not"
        raise errors.DataError(f"{source} {fault}. Name its --model.")


def _fitting(
    model: SingleBackbone, state: Mapping[str, torch.Tensor], *, source: str | os.PathLike[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (tensor of the model, tensor of the state) by the model's names.

    Raises
    ------
    DataError
        As `load_weights`.
    """
    names, targets = model.original_names(), model.state_dict()
    tensors = {names.get(name, name): tensor for name, tensor in state.items()}
    weight, biased = tensors.get("classifier.weight"), "classifier.bias" in tensors
    if (
        weight is None
        or weight.shape[:1] != model.classifier.weight.shape[:1]
        or biased != ("classifier.bias" in targets)
    ):
        for name in ("classifier.weight", "classifier.bias"):
            tensors.pop(name, None)
            targets.pop(name, None)
    faults = {
        "missing": [
            n for n in targets if n not in tensors and not n.endswith(".num_batches_tracked")
        ],
        "unexpected": [n for n in tensors if n not in targets],
        "of another shape": [
            n for n, x in tensors.items() if n in targets and targets[n].shape != x.shape
        ],
    }
    if any(faults.values()):
        summaries = [_summary(names, fault) for fault, names in faults.items() if names]
        raise errors.DataError(
            f"{source} does not fit backbone {model.name!r}: {'; '.join(summaries)}. "
            "Give weights of this backbone."
        )
    return {name: (targets[name], tensor) for name, tensor in tensors.items()}


def _summary(names: Sequence[str], fault: str) -> str:
    """``2 missing (a, b)``: the count and the first three."""
    return f"{len(names)} {fault} ({listed(names, 3)})"
