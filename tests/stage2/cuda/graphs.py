"""CUDA graphs of the simulated GPU.

What is launched between `capture_begin` and `capture_end` is recorded and changes nothing; `replay`
does it, on the same tensors. As on a GPU, a capture fails where the host waits for the device or
copies to it from memory that is not pinned, or on the stream of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from tests.stage2.cuda import simulated, streams


class Graph:
    """A graph of the simulated device."""

    def __init__(self) -> None:
        self._work: list[tuple[Callable[[], Any], list[torch.Tensor], str]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._inside: dict[int, torch.Tensor] = {}
        self._blocking = 0

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Record from now on."""
        if not streams.current_stream(simulated.CUDA).aside:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        device = simulated._active()
        assert device.capturing is None
        self._blocking = device.waits.total() + device.copies.total()
        device.capturing = self

    def capture_end(self) -> None:
        """Record no more."""
        device = simulated._active()
        device.capturing = None
        for whole, values in self._before.values():
            whole.copy_(values)
        self._before.clear()
        if device.waits.total() + device.copies.total() > self._blocking:
            raise RuntimeError("operation not permitted when stream is capturing")

    def run(self, compute: Callable[[], Any], given: Any, free: bool) -> Any:
        """Record an operation on tensors; its result, for the shapes of what follows."""
        used = {tensor.untyped_storage().data_ptr() for tensor in self._kept(given)}
        out = compute()
        made = [x for x in _tensors(out) if x.untyped_storage().data_ptr() not in used]
        self._inside |= {x.untyped_storage().data_ptr(): x for x in made}
        if not free:
            precision = torch.backends.cuda.matmul.fp32_precision
            self._work.append((compute, made, precision))
        return out

    def _kept(self, given: Any) -> list[torch.Tensor]:
        """The tensors of an operation; those from before the capture are copied, to be restored."""
        tensors = _tensors(given)
        for tensor in tensors:
            place = tensor.untyped_storage().data_ptr()
            if place not in self._inside and place not in self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[place] = whole, whole.clone()
        return tensors

    def replay(self) -> None:
        """Do what was recorded: one launch."""
        matmul = torch.backends.cuda.matmul
        before = matmul.fp32_precision
        simulated._active().launches["graph"] += 1
        for compute, made, precision in self._work:
            matmul.fp32_precision = precision
            out = compute()
            for tensor, values in zip(made, _tensors(out), strict=False):
                tensor.copy_(values)
        matmul.fp32_precision = before


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
