"""Weights from a file: a state dict of the same model, made here or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featbank import errors
from stage1.backbones.base import Backbone, SingleBackbone
from stage1.tensors import load_tensors

_NESTS = ("state_dict", "model", "weights")
"""Keys that checkpoints keep their state dict under; the last is `featbank train`'s."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a state dict.

    Parameters
    ----------
    path
        A torch file of a plain state dict, or of a dict that holds one under ``state_dict``,
        ``model`` or ``weights``; or a ``.safetensors`` file. Where all names begin with
        ``module.``, that is taken off.

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

    Names are the model's own or those of the library it comes from. A classifier of another number
    of classes or another kind (only a linear one has a bias), or none, leaves the model's as it is;
    counters of batches, which old files lack, likewise. Experts take the weights of as many
    experts, or those of the backbone they are made of: then all begin with the same ones.

    Parameters
    ----------
    model
        Changed in place.
    state
        From `read_weights`.
    source
        Where it is from, for the error.

    Returns
    -------
    Whether the classifier of the state was loaded, too.

    Raises
    ------
    DataError
        For a tensor that is missing, surplus or of another shape.
    """
    states = [dict(state)] * len(model.branches)
    if any(name.startswith("experts.") for name in state):
        prefixes = [f"experts.{e}." for e in range(len(model.branches))]
        states = [
            {name.removeprefix(own): x for name, x in state.items() if name.startswith(own)}
            for own in prefixes
        ]
        # What belongs to no expert of the model is told as unexpected.
        states[0] |= {n: x for n, x in state.items() if not n.startswith(tuple(prefixes))}
    fitting = [
        _fitting(branch, own, source=source)
        for branch, own in zip(model.branches, states, strict=True)
    ]
    with torch.no_grad():
        for pairs in fitting:
            for tensor, given in pairs.values():
                tensor.copy_(given)
    return all("classifier.weight" in pairs for pairs in fitting)


def _fitting(
    model: SingleBackbone, state: Mapping[str, torch.Tensor], *, source: str | os.PathLike[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of the model by name, each with that of the state that belongs into it."""
    names, own = model.original_names(), model.state_dict()
    given = {names.get(name, name): tensor for name, tensor in state.items()}
    weight, biased = given.get("classifier.weight"), "classifier.bias" in given
    if (
        weight is None
        or weight.shape[:1] != model.classifier.weight.shape[:1]
        or biased != ("classifier.bias" in own)
    ):
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
    return {name: (own[name], tensor) for name, tensor in given.items()}


def _told(names: Sequence[str], words: str) -> str:
    """``2 missing (a, b)``: the count and the first three."""
    rest = ", …" if len(names) > 3 else ""
    return f"{len(names)} {words} ({', '.join(names[:3])}{rest})"
