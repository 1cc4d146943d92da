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

import torch
from torch import Tensor

from stage2.engine.kernel import LossRows
from stage2.engine.rows import Window
from stage2.engine.staging import side_stream

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

Take = Callable[[Window, Tensor, int], None]
"""Takes step i of a window at learning rates [steps, C], without waiting for the device."""


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
    take
        Takes a step. It reads the tensors that `train` is told of and changes others in place, the
        same ones every time.
    device
        A GPU.
    """

    def __init__(self, take: Take, device: torch.device) -> None:
        self._take, self._device = take, device
        self._stream = side_stream(device, "steps")
        self._bound: list[object] = []
        self._window: Window
        self._rates: Tensor
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = self._failed = False
        self._bindings = 0

    def train(self, window: Window, rates: Tensor, bound: Sequence[object], stopped: Event) -> int:
        """Take the steps of a window until `stopped`.

        Parameters
        ----------
        window
            Features and batches, nothing else.
        rates
            Learning rates [steps, C].
        bound
            What else steps read that may be replaced: where one of these, or the features, is
            another object than before, steps are captured anew.
        stopped
            Looked at between pieces.

        Returns
        -------
        How many steps were taken.
        """
        steps, taken = len(window.rows), 0
        self._bind(window, rates, bound)
        size = len(self._rates)
        while taken + size <= steps and not stopped.is_set():
            piece = slice(taken, taken + size)
            self._window.rows.copy_(window.rows[piece])
            self._window.y.copy_(window.y[piece])
            self._rates.copy_(rates[piece])
            if not self._replay():
                self._eagerly()
            taken += size
        while taken < steps and not stopped.is_set():
            self._take(window, rates, taken)
            taken += 1
        return taken

    def _bind(self, window: Window, rates: Tensor, bound: Sequence[object]) -> None:
        """Prepare to read other tensors, unless they are those of the last call."""
        now = [window.x, *bound]
        if self._bound and all(a is b for a, b in zip(now, self._bound, strict=True)):
            return
        self._bound, self._graph, self._warm = now, None, False
        self._bindings += 1
        self._failed = self._failed or self._bindings > MOST_BINDINGS
        size = piece_steps(len(window.rows))
        rows = torch.empty_like(window.rows[:size])
        self._window = Window(window.x, rows, torch.empty_like(window.y[:size]))
        self._rates = torch.empty_like(rates[:size])

    def _eagerly(self) -> None:
        """Take the piece step by step, on the stream on which it will be captured."""
        with self._aside():
            for i in range(len(self._rates)):
                self._take(self._window, self._rates, i)
        self._warm = True

    def _replay(self) -> bool:
        """Replay the piece; False where it has not been, and cannot be, captured."""
        if self._graph is None and self._warm and not self._failed:
            try:
                self._graph = self._captured()
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

    def _captured(self) -> torch.cuda.CUDAGraph:
        """A graph of the piece, none of whose steps is taken."""
        graph = torch.cuda.CUDAGraph()
        with self._aside():
            # `torch.cuda.graph` would also collect garbage and empty PyTorch's cache.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for i in range(len(self._rates)):
                    self._take(self._window, self._rates, i)
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on a stream of its own, after that of the caller and before what follows."""
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            yield
        computing.wait_stream(self._stream)
