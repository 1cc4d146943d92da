"""Tensors in PyTorch's files and in safetensors; pickled code is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError  # PyTorch's refusal
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from featbank import errors
from featbank.exchange.arrayfile import ArrayFile
from featbank.exchange.columns import text_array
from featbank.exchange.integers import stored_as

_PLAIN = (int, float, str)


def tensor_file(path: Path) -> ArrayFile:
    """Open ``.safetensors``, or ``.pt`` with a tensor or with dicts and lists of tensors.

    The keys of nested dicts and lists are joined by ``.``.

    Raises
    ------
    DataError
        If the file holds anything that only pickled code can restore.
    """
    return _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch(path)


def _torch(path: Path) -> ArrayFile:
    mmap = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are not
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError:
        raise errors.DataError(
            f"{path} is not a PyTorch file of tensors alone, and pickled code is not run. "
            "Save tensors: torch.save({'x_train': x, 'y_train': y}, …)."
        ) from None
    arrays = dict(_leaves(loaded))
    return ArrayFile(path, tuple(arrays), lambda name: _to_numpy(arrays[name]))


def _safetensors(path: Path) -> ArrayFile:
    def read(name: str) -> np.ndarray:
        with safe_open(path, "pt") as file:
            return _to_numpy(file.get_tensor(name))

    with safe_open(path, "pt") as file:
        return ArrayFile(path, tuple(file.keys()), read)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield tensors and plain lists of numbers or texts by name; skip single values."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, list) and value and all(isinstance(v, _PLAIN) for v in value):
        yield name, _list_array(value, name)
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _list_array(values: list[int | float | str], name: str) -> np.ndarray:
    """A list as an array. A mixture is refused: NumPy would turn its numbers into texts."""
    texts = sum(isinstance(value, str) for value in values)
    if 0 < texts < len(values):
        raise errors.DataError(
            f"The list {name!r} has {texts} texts and {len(values) - texts} numbers. Save one or "
            "the other."
        )
    return text_array(f"The list {name!r}", values) if texts else np.array(values)


def _to_numpy(value: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    value = value.detach()
    try:
        return value.numpy()
    except TypeError:  # NumPy has no bfloat16, nor types of eight bits
        if not value.dtype.is_floating_point:
            raise
        array = value.float().numpy()
    if array.ndim > 2 or (array.ndim == 2 and 1 not in array.shape):
        return array
    # a vector may hold labels, which are refused if the stored type was too coarse for them
    kept = stored_as(str(value.dtype).removeprefix("torch."), 2 / torch.finfo(value.dtype).eps)
    return array.astype(kept)
