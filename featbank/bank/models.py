"""The contents of a bank by view, beside features and classifiers: BatchNorm statistics, the norm
of the features, the weight of an expert."""

from __future__ import annotations

import math

import numpy as np

from featbank.bank.checked import CheckedFile

PLACE = "place"
"""The attribute of a layer's mean that is its place in the network, from 0."""


def batchnorm(file: CheckedFile, view: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As of `featbank.bank.file.Bank.batchnorm`."""
    means = _means(file, view)
    if is_ordered(file, view):
        means.sort(key=lambda name: file.number(file.datasets[name].attrs, PLACE))
    return {
        name.removeprefix(f"batchnorm/{view}/").removesuffix("/mean"): (
            file.read(name),
            file.read(name.removesuffix("mean") + "variance"),
        )
        for name in means
    }


def is_ordered(file: CheckedFile, view: str) -> bool:
    """As of `featbank.bank.file.Bank.is_ordered`."""
    return all(PLACE in file.datasets[name].attrs for name in _means(file, view))


def norm(file: CheckedFile, view: str) -> float | None:
    """As of `featbank.bank.file.Bank.norm`."""
    name = f"scale/{view}/norm"
    if name not in file.datasets:
        return None
    value = float(file.read(name)[0])
    if not 0 <= value < math.inf:
        raise file.corrupt(f"{name} is {value}, which is no norm")
    return value


def expert_weight(file: CheckedFile, view: str) -> float:
    """As of `featbank.bank.file.Bank.expert_weight`."""
    name = f"experts/{view}/weight"
    if name not in file.datasets:
        return 1.0
    value = float(file.read(name)[0])
    if not 0 < value < math.inf:
        raise file.corrupt(f"{name} is {value}, which is no weight")
    return value


def _means(file: CheckedFile, view: str) -> list[str]:
    root = f"batchnorm/{view}/"
    return [name for name in file.datasets if name.startswith(root) and name.endswith("/mean")]
