"""Training state as data: a nested mapping of tensors whose first axis is C.

All else about a run follows from its recipes, its batch stream and its views. Halving is therefore
a selection: selected entries of the state, with their recipes, are a run that continues where those
configurations were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, TypeVar

import torch
from torch import Tensor

from stage2.methods.heads import Parameters
from stage2.methods.optimisers import OptimiserState

T = TypeVar("T")


class ModelState(TypedDict):
    """A head on one view.

    Attributes
    ----------
    parameters
        The current ones.
    best
        Those of the epoch that is best on val so far; empty before the first.
    optimiser
        Velocities or moments; empty where no steps are taken.
    """

    parameters: Parameters
    best: Parameters
    optimiser: OptimiserState


class BetaState(TypedDict):
    """β of configurations whose generator has one.

    Attributes
    ----------
    values
        β of each class [C, K] float32; 0 for a class without.
    accuracy
        Accuracy of each class on val after the last epoch [C, K]; NaN before the first.
    history
        The values that each epoch so far was drawn with, [C, epochs, K].
    """

    values: Tensor
    accuracy: Tensor
    history: Tensor


class TileState(TypedDict):
    """Everything that the training of a tile changes.

    Attributes
    ----------
    models
        By the place of their view in the batch stream.
    curves
        ``loss`` and, with val, ``val_macro``: [C, epochs] so far.
    betas
        Where the generator has β.
    """

    models: dict[int, ModelState]
    curves: dict[str, Tensor]
    betas: NotRequired[BetaState]


def select(parts: Sequence[tuple[T, Sequence[int]]]) -> T:
    """Selected configurations of several states of one form, joined to one.

    Parameters
    ----------
    parts
        States, or tensors [C, …] in them, each with the indices of the configurations to take.
    """
    pairs: list[tuple[Any, list[int]]] = [(state, list(configs)) for state, configs in parts]
    first, _ = pairs[0]
    selected: Any
    if isinstance(first, Tensor):
        selected = torch.cat([tensor[configs] for tensor, configs in pairs])
    else:
        selected = {n: select([(state[n], configs) for state, configs in pairs]) for n in first}
    return selected
