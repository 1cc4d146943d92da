"""Steps captured once in a CUDA graph and replayed, where launching them takes longer than they do.

A piece of consecutive steps reads its batches, labels and learning rates from tensors of its own.
It is taken as it is once, which compiles and allocates what it needs, then captured, and from then
on one launch replays it on whatever has been copied into these tensors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

import torch
from torch import Tensor

from stage2.engine.kernel import LossRows

PIECE = 32
"""Most steps of a piece: enough to hide its few copies and its launch, few enough to be captured
early in training, and for Ctrl-C to act at once between pieces."""

LEAST_PIECES = 4
"""Pieces of a training from which a capture pays: the first is not replayed, the second is captured
before it is."""

SMALL_BYTES = 400 << 20
"""Bytes that a step moves up to which launching it takes longer: 0.1 ms of a memory of 4 TB/s, in
which a host launches 20 kernels or so."""

MOST_BINDINGS = 4
"""Times that steps are captured anew for other tensors, before they are no more."""

Inputs = Sequence[Tensor | None]
"""What steps read, a row for each: [steps, …]."""

Take = Callable[[Any, int], None]
"""Takes step i of inputs, without waiting for the device."""


def pays(device: torch.device, shape: Sequence[int], batch: int, steps: int) -> bool:
    """Whether graphs make a training faster.

    Parameters
    ----------
    device
        Where it takes place.
    shape
        (C, K, D).
    batch, steps
        Rows of a step, and steps of the training.
    """
    configs, classes, dim = shape
    # W, its velocity and its gradient are each written and read; so are logits and their gradient.
    moved = 4 * configs * classes * (6 * dim + 4 * batch)
    return device.type == "cuda" and moved <= SMALL_BYTES and steps >= LEAST_PIECES * PIECE


def piece_steps(steps: int) -> int:
    """Steps of the pieces of a window, of `PIECE` at most, that leave as few steps as they can."""
    return steps // -(-steps // PIECE)


def refilled(old: LossRows, new: LossRows) -> LossRows:
    """The values of `new` in the tensors of `old`, which a graph reads; `new` itself where its
    tensors are others in number or shape."""
    held, values = _tensors(old), _tensors(new)
    if {n: x.shape for n, x in held.items()} != {n: x.shape for n, x in values.items()}:
        return new
    for name, tensor in held.items():
        tensor.copy_(values[name])
    return old


def _tensors(rows: LossRows) -> dict[str, Tensor]:
    """The tensors of a table of losses by name."""
    of_distil = {} if rows.distil is None else vars(rows.distil)
    named = {**vars(rows), **{f"distil.{name}": x for name, x in of_distil.items()}}
    return {name: x for name, x in named.items() if isinstance(x, Tensor)}


class StepGraph:
    """Takes the steps of windows, by a graph where one can be captured.

    Parameters
    ----------
    device
        A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._bound: list[object] = []
        self._inputs: Inputs = ()
        self._size = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = self._failed = False
        self._bindings = 0

    def train(self, take: Take, inputs: Inputs, bound: Sequence[object], stopped: Event) -> int:
        """Take the steps of a window until `stopped`.

        Parameters
        ----------
        take
            Takes a step. Besides inputs it reads and changes the same tensors every time.
        inputs
            What the steps read, the first not None.
        bound
            What else they read that may be replaced, such as the features: where one of these is
            another object than before, steps are captured anew.
        stopped
            Looked at between pieces.

        Returns
        -------
        How many steps were taken.
        """
        assert inputs[0] is not None
        steps, taken = len(inputs[0]), 0
        self._bind(inputs, bound, steps)
        while taken + self._size <= steps and not stopped.is_set():
            for held, values in zip(self._inputs, inputs, strict=True):
                if held is not None and values is not None:
                    held.copy_(values[taken : taken + self._size])
            if not self._replay(take):
                self._eagerly(take)
            taken += self._size
        while taken < steps and not stopped.is_set():
            take(inputs, taken)
            taken += 1
        return taken

    def _bind(self, inputs: Inputs, bound: Sequence[object], steps: int) -> None:
        """Prepare to read other tensors, unless they are those of the last call."""
        now = [*bound, *(values is None for values in inputs)]
        if self._bound and all(a is b for a, b in zip(now, self._bound, strict=True)):
            return
        self._bound, self._graph, self._warm = now, None, False
        self._bindings += 1
        self._failed = self._failed or self._bindings > MOST_BINDINGS
        self._size = piece_steps(steps)
        self._inputs = [None if x is None else torch.empty_like(x[: self._size]) for x in inputs]

    def _eagerly(self, take: Take) -> None:
        """Take the piece step by step, on the stream on which it will be captured."""
        with self._aside():
            for i in range(self._size):
                take(self._inputs, i)
        self._warm = True

    def _replay(self, take: Take) -> bool:
        """Replay the piece; False where it has not been, and cannot be, captured."""
        if self._graph is None and self._warm and not self._failed:
            try:
                self._graph = self._captured(take)
            except RuntimeError as error:
                self._failed = True
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"Steps cannot be captured in a CUDA graph on {self._device} ({reason}). They "
                    "run all the same, launched one by one."
                )
        if self._graph is not None:
            self._graph.replay()
        return self._graph is not None

    def _captured(self, take: Take) -> torch.cuda.CUDAGraph:
        """A graph of the piece, none of whose steps is taken."""
        graph = torch.cuda.CUDAGraph()
        with self._aside():
            # `torch.cuda.graph` would also collect garbage and empty PyTorch's cache.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for i in range(self._size):
                    take(self._inputs, i)
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on the stream of this object, after that of the caller and before what follows."""
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            yield
        computing.wait_stream(self._stream)
