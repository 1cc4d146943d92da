"""Weights from a file: a state dict of the same model, made here or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from featbank import errors
from stage1.backbones.base import Backbone
from stage1.tensors import load_tensors

_NESTS = ("state_dict", "model", "weights")
"""Keys that checkpoints keep their state dict under; the last is `featbank train`'s."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict.

    Parameters
    ----------
    path
        A plain state dict, or a dict that holds one under ``state_dict``, ``model`` or
        ``weights``. Where all names begin with ``module.``, that is taken off.

    Raises
    ------
    ConfigError
        For a path without a file.
    DataError
        For a file that torch cannot read, or that holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise errors.ConfigError(f"{path}: no such file of weights. Check --weights.")
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


def load_weights(
    model: Backbone, state: Mapping[str, torch.Tensor], *, source: str | os.PathLike[str]
) -> None:
    """Copy `state` into `model`, whole or not at all.

    Names are the model's own or those of the library it comes from. A classifier of another number
    of classes, or none, leaves the model's as it is; counters of batches, which old files lack,
    likewise.

    Parameters
    ----------
    model
        Changed in place.
    state
        From `read_weights`.
    source
        Where it is from, for the error.

    Raises
    ------
    DataError
        For a tensor that is missing, surplus or of another shape.
    """
    names, own = model.original_names(), model.state_dict()
    given = {names.get(name, name): tensor for name, tensor in state.items()}
    weight = given.get("classifier.weight")
    if weight is None or weight.shape[:1] != model.classifier.weight.shape[:1]:
        given.pop("classifier.weight", None)
        given.pop("classifier.bias", None)
        own = {name: tensor for name, tensor in own.items() if not name.startswith("classifier.")}
    missing = [n for n in own if n not in given and not n.endswith(".num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    misshapen = [n for n, tensor in given.items() if n in own and own[n].shape != tensor.shape]
    faults = [
        _told(found, words)
        for found, words in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (misshapen, "of another shape"),
        )
        if found
    ]
    if faults:
        raise errors.DataError(
            f"{source} does not fit backbone {model.name!r}: {'; '.join(faults)}. "
            "Give weights of this backbone."
        )
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def _told(names: Sequence[str], words: str) -> str:
    """``2 missing (a, b)``: the count and the first three."""
    rest = ", …" if len(names) > 3 else ""
    return f"{len(names)} {words} ({', '.join(names[:3])}{rest})"
