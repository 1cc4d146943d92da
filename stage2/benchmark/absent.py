"""A GPU that is not there: the engine runs on tensors that have shapes and no numbers.

Tensors of the device ``cuda`` are PyTorch's fake tensors; those of the CPU are what they always
are. Within `absent_gpu` the engine trains and evaluates at full size as on a GPU, its Triton
kernels included, in the time that calling its operations takes; each operation is counted with the
bytes that it reads and writes, the floating-point operations of its products, and the memory that
it allocates.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featbank import errors
from stage2.benchmark.operations import Operation, launched, operation
from stage2.engine.gpu import available

CUDA = torch.device("cuda", 0)
MEMORY = 1 << 40
"""Bytes that the device claims to have; a caller plans with those of the GPU that it means."""


class Counting(TorchDispatchMode):
    """Runs operations on fake tensors where the GPU has a part in them, and counts them.

    Attributes
    ----------
    operations
        How often each operation was launched.
    waits
        Values that the host waited for.
    to_device, to_host
        Bytes copied.
    now, most
        Bytes of the GPU's memory that are allocated, and the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[Operation] = collections.Counter()
        self.waits = self.to_device = self.to_host = self.now = self.most = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._tensors: collections.Counter[int] = collections.Counter()
        self._bytes: dict[int, int] = {}

    def reset(self) -> None:
        """Count anew; the memory is what it is."""
        self.operations.clear()
        self.waits = self.to_device = self.to_host = 0
        self.most = self.now

    def of(self, run: Callable[[], object]) -> collections.Counter[Operation]:
        """The operations of a call."""
        before = self.operations.copy()
        run()
        return self.operations - before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = kwargs.get("device")
        there = device is not None and torch.device(device).type == "cuda"
        if not there and not any(isinstance(leaf, FakeTensor) for leaf in given):
            return func(*args, **kwargs)
        if func.overloadpacket.__name__ in ("_to_copy", "copy_") and self._crosses(args, kwargs):
            return self._copied(args, kwargs)
        try:
            with self._fake:
                out = _computed(func, args, kwargs)
        except DataDependentOutputException:  # a number that the host waits for: yes, or 1
            self.waits += 1
            return True
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        known = {id(leaf) for leaf in given}
        for leaf in made:
            if id(leaf) not in known:
                self._add(leaf)
        if (counted := operation(func, args, kwargs, given, made)) is not None:
            self.operations[counted] += 1
        return out

    def _crosses(self, args: Any, kwargs: Any) -> bool:
        """Whether a copy, or a change of type, goes from one device to the other."""
        if len(args) > 1:  # copy_(to, of)
            return args[0].device.type != args[1].device.type
        wanted = kwargs.get("device")
        return wanted is not None and torch.device(wanted).type != args[0].device.type

    def _copied(self, args: Any, kwargs: Any) -> Tensor:
        """A copy between the host, where it holds zeros that take no memory, and the device."""
        into, of = (args[0], args[1]) if len(args) > 1 else (None, args[0])
        dtype = kwargs.get("dtype") or of.dtype
        if of.device.type == "cuda":
            self.to_host += of.nbytes
            return torch.zeros((), dtype=dtype).expand(of.shape) if into is None else into
        self.to_device += of.nbytes
        if into is not None:
            return into
        with self._fake:
            made = torch.empty(of.shape, dtype=dtype, device=CUDA)
        self._add(made)
        return made

    def launch(self, kernel: Any, *args: Any, **options: Any) -> None:
        """Count a launch of a Triton kernel with arguments as they were given."""
        given = dict(zip(kernel.arg_names, args, strict=False)) | options
        self.operations[launched(kernel.__name__, given)] += 1

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not self._tensors[key]:
            self._bytes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.now -= self._bytes.pop(key)


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """The result; of a count as many numbers as it was asked for at the least."""
    if func.overloadpacket.__name__ != "bincount":
        return func(*args, **kwargs)
    minlength = args[2] if len(args) > 2 else kwargs.get("minlength", 0)
    return torch.empty(minlength, dtype=torch.int64, device=CUDA)


@contextlib.contextmanager
def absent_gpu() -> Iterator[Counting]:
    """Within it the device ``cuda`` exists and every operation on it is counted.

    Raises
    ------
    ConfigError
        Where there is no Triton, whose kernels are part of what is counted.
    """
    if find_spec("triton") is None:
        raise errors.ConfigError("The model of a GPU counts Triton's kernels. Install triton.")
    from triton.runtime.jit import JITFunction

    counting = Counting()

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        counting.launch(kernel, *args, **options)

    torch._C._ensureCUDADeviceGuardSet()  # also where PyTorch finds no GPU
    lifted = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        for name, value in _REPLACED.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(mock.patch.object(JITFunction, "run", launch))
        for checked in (available.available, available.fuses):
            checked.cache_clear()
            stack.callback(checked.cache_clear)
        stack.enter_context(counting)
        _check_kernels()
        stack.enter_context(mock.patch.object(available, "_usable", _is_cuda))
        counting.reset()
        yield counting


@functools.cache
def _check_kernels() -> None:
    """Run every kernel's check, once: it takes longer than the counting of a tile."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that cannot be counted
        available.fuses(CUDA)


def _is_cuda(device: torch.device, *_: object) -> bool:
    return device.type == "cuda"


def _nothing(*_: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


_REPLACED: dict[str, Callable[..., Any]] = {
    "torch.Generator": lambda device="cpu": torch._C.Generator("cpu"),
    "torch.cuda._lazy_init": lambda: None,
    "torch.cuda.is_available": lambda: True,
    "torch._subclasses.fake_tensor.init_gpu_context": lambda device: None,
    "torch.cuda.device_of": _nothing,
    "torch.cuda.device": _nothing,
    "torch.cuda.mem_get_info": lambda device=None: (MEMORY, MEMORY),
    "torch.cuda.memory_reserved": lambda device=None: 0,
    "torch.cuda.memory_allocated": lambda device=None: 0,
    "stage2.engine.trainer.pays": lambda *_: False,
}
"""What asks a GPU that is there, by name; no graph is captured, so that kernels are counted."""
