"""The memory that a step of the engine allocates on a GPU, at full size and without one.

PyTorch's fake tensors have shapes and devices and no numbers; what is allocated and freed is
counted by storage.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from stage2.engine import trainer
from stage2.engine.model import ViewData
from stage2.engine.plan import BatchStream, Shape, Tile
from stage2.engine.rows import MemoryRows, Window
from stage2.engine.tile import TileRun
from stage2.methods.heads import starts
from stage2.methods.recipe import Recipe
from tests.stage2.cuda import twins


class Storages(TorchDispatchMode):
    """Bytes of the GPU's storages that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        given = {id(leaf) for leaf in tree_flatten((args, kwargs))[0]}
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor) and id(leaf) not in given:
                self._add(leaf)
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "cpu":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._tensors:
            self._tensors[key], self._bytes[key] = 0, storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.now -= self._bytes.pop(key)


class _Launched:
    """A kernel that allocates nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **options: None


def _fresh(settings: Sequence[Any], context: Any) -> dict[str, torch.Tensor]:
    shape = len(context.counts), context.dim
    return starts.fresh_linear(settings, shape, context.device)


def peak(recipes: Sequence[Recipe], counts: np.ndarray, dim: int) -> int:
    """The most bytes of a tile in a step, besides features and stage-1 logits of training rows.

    Losses and optimiser steps are Triton's.
    """
    shape = Shape.of(counts, dim)
    stream = BatchStream.of(recipes[0], shape)
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        for kernel in twins.KERNELS:
            patch.setattr(f"stage2.engine.gpu.{kernel}", _Launched())
        patch.setattr(trainer, "available", lambda device: True)
        patch.setattr("torch.cuda.device_of", lambda tensor: contextlib.nullcontext())
        for head in ("linear", "cosine", "tde"):
            patch.setattr(f"stage2.methods.heads.{head}.linear_start", _fresh)
        with Storages() as storages:
            x = torch.empty(shape.rows, dim, device="cuda")
            labels = torch.zeros(shape.rows, dtype=torch.int64, device="cuda")
            data = ViewData(
                train=MemoryRows(x, labels),
                evaluated={},
                counts=counts.astype(float),
                full_counts=counts,
                weight0=torch.empty(len(counts), dim, device="cuda"),
                bias0=torch.empty(len(counts), device="cuda"),
            )
            before = storages.now
            run = TileRun(Tile(tuple(recipes)), stream, [data])
            (model,) = run.models
            best = {name: value.clone() for name, value in model.state["parameters"].items()}
            model.state["best"].update(best)
            if run._trainers[0]._z0 is not None:
                before += 4 * shape.rows * len(counts)
            if run._trainers[0]._rows.angle is not None:
                cosines = torch.empty(len(recipes), len(counts), device="cuda")
                run._trainers[0]._best_cosines = cosines
            draws = torch.zeros(2, stream.batch_size, dtype=torch.int64, device="cuda")
            storages.most = storages.now
            run.train(0, Window(x, draws, labels[draws]), Event())
            return storages.most - before
