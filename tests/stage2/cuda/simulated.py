"""A GPU simulated on the CPU, for tests of what the engine asks of one.

A `SimulatedTensor` says that it is on ``cuda:0`` and holds a tensor of the CPU, on which operations
are carried out. `SimulatedDevice` refuses what CUDA refuses (tensors and generators of another
device, ``numpy``) and counts what costs time on a GPU: launches of kernels, waits of the host for
the device, and copies to the device. tf32 products have their factors rounded.

It has one device. Times, memory and the order of parallel sums are not simulated.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stage2.methods.precision import _rounded
from tests.stage2.cuda import graphs, streams

CUDA = torch.device("cuda:0")

MEMORY = 8 << 30
"""Bytes that the device claims to have, all of them free."""

FREE = {"detach", "alias", "lift_fresh", "view", "_unsafe_view", "_reshape_alias", "resize_"}
FREE |= {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
FREE |= {"unbind", "split", "is_same_size", "_local_scalar_dense"}
"""Operations that launch nothing, beside those that make views."""

WAITS = {"nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"}
WAITS |= {"unique_dim_consecutive", "bincount", "equal", "is_nonzero", "allclose"}
WAITS |= {"_linalg_eigh", "linalg_cholesky_ex", "linalg_inv_ex", "_linalg_solve_ex"}
"""Operations whose result, or the size of it, the host waits for."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
SCATTERS = {"scatter_add_", "scatter_add", "index_add_", "index_add"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_"}


class Refused(RuntimeError):
    """What CUDA would refuse."""


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated device; `inner` is the tensor of the CPU that it holds."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> SimulatedTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "tolist":
            _active().waits["tolist " + _place()] += 1
            return args[0].inner.tolist()
        if name == "numpy":
            raise Refused(f"numpy() of a tensor on {CUDA}, {_place()}")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _active().call(func, args, kwargs or {})

    def record_stream(self, stream: Any) -> None:
        """Tell PyTorch that another stream uses this tensor."""
        _active().aside.pop(self.inner.untyped_storage().data_ptr(), None)

    def __repr__(self, **_: Any) -> str:
        return f"SimulatedTensor({self.inner!r})"


class SimulatedGenerator(torch._C.Generator):
    """A generator that draws on the CPU and says where it was asked for."""

    def __new__(cls, device: Any = "cpu") -> SimulatedGenerator:
        return torch._C.Generator.__new__(cls, torch.device("cpu"))

    def __init__(self, device: Any = "cpu") -> None:
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """``cpu`` or the simulated device."""
        return CUDA if self._device.type == "cuda" else self._device


class _Mode(TorchDispatchMode):
    """A mode that nothing compiles, so PyTorch need not import its compiler to be kept out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class SimulatedDevice(_Mode):
    """Carries out operations on simulated tensors.

    Attributes
    ----------
    launches
        Kernels launched, by operation.
    waits
        Waits of the host for the device, by operation and place in the product.
    copies
        Copies from the host to the device, by place.
    aside
        Tensors made on a stream of copies, by address: kernels must not use them before
        `record_stream`, as PyTorch would give their memory away too early.
    capturing
        The graph that is being captured.
    unordered
        Sums of fractions that meet in one place, which CUDA adds in any order, by place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.copies: collections.Counter[str] = collections.Counter()
        self.unordered: collections.Counter[str] = collections.Counter()
        self.capturing: graphs.Graph | None = None
        self.aside: dict[int, torch.Tensor] = {}
        self._pinned: set[int] = set()

    def counts(self) -> tuple[int, int, int]:
        """Launches, waits and copies so far."""
        return self.launches.total(), self.waits.total(), self.copies.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Carry out an operation, and count what it costs."""
        name = func.overloadpacket.__name__
        leaves = _leaves((args, kwargs), [])
        there = [leaf for leaf in leaves if isinstance(leaf, SimulatedTensor)]
        wanted = kwargs.get("device")
        pinned = kwargs.get("pin_memory", False)
        onto = wanted is not None and torch.device(wanted).type == "cuda"
        if not there and not onto:
            out = func(*args, **{**kwargs, "pin_memory": False} if pinned else kwargs)
            if pinned:
                self._pinned.add(out.untyped_storage().data_ptr())
            return out
        inner_args, inner = _mapped(_inner, (args, kwargs))
        if wanted is not None:
            inner["device"] = torch.device("cpu")
        if inner.pop("pin_memory", False) and onto:
            raise Refused(f"pinned memory on {CUDA}, {_place()}")
        if name == "_local_scalar_dense":
            self.waits["item " + _place()] += 1
            return func(*inner_args, **inner)
        if name == "_to_copy":
            return self._moved(func, args, inner_args, inner, wanted)
        if name == "copy_":
            if len(args) > 2 and args[2]:  # non_blocking
                self._copy_later(*args[:2])
                return args[0]
            self.run(lambda: func(*inner_args, **inner), inner_args)
            self._count_copy(name, to=args[0], of=args[1])
            return args[0]
        if self._from_aside(there):
            raise Refused(f"{func} of a tensor of another stream, {_place()}")
        self._check(func, name, args, leaves, inner.get("generator"))
        if name in WAITS or (name == "repeat_interleave" and _sized(args, kwargs) is None):
            self.waits[f"{name} {_place()}"] += 1
        if name in SCATTERS and _collide(inner_args):
            self.unordered[_place()] += 1
        free = func.is_view or name in FREE
        out = self.run(
            lambda: _computed(func, name, inner_args, dict(inner)), (inner_args, inner), free=free
        )
        if not free:
            self.launches[name] += 1
        same = {id(tensor.inner): tensor for tensor in there}
        return _mapped(lambda made: _wrapped(made, same), out)

    def run(self, compute: Callable[[], Any], given: Any, *, free: bool = False) -> Any:
        """Compute something from tensors of the CPU; while a graph is captured, record it there.
        What is `free` launches nothing."""
        return compute() if self.capturing is None else self.capturing.run(compute, given, free)

    def _moved(self, func: Any, args: Any, inner_args: Any, inner: Any, wanted: Any) -> Any:
        """A copy in another type or on another device."""
        target = args[0].device if wanted is None else torch.device(wanted)
        out = self.run(lambda: func(*inner_args, **inner), inner_args)
        if target.type == "cpu":
            self.waits["copy to the host " + _place()] += 1
            return out
        if inner.get("non_blocking") and self._is_pinned(args[0]):
            there = SimulatedTensor(torch.full_like(out, -1))
            if streams.current_stream(CUDA).aside:
                self.aside[there.inner.untyped_storage().data_ptr()] = there.inner
            self._copy_later(there, args[0])
            return there
        self._count_copy("_to_copy", to=None, of=args[0])
        return SimulatedTensor(out)

    def _from_aside(self, tensors: list[SimulatedTensor]) -> bool:
        """Whether a kernel would use memory of a stream of copies that `record_stream` forgot."""
        if not self.aside or streams.current_stream(CUDA).aside:
            return False
        return any(x.inner.untyped_storage().data_ptr() in self.aside for x in tensors)

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor of the host is in pinned memory, from which copies need no waiting."""
        if isinstance(tensor, SimulatedTensor):
            return False
        return tensor.untyped_storage().data_ptr() in self._pinned

    def _copy_later(self, to: torch.Tensor, of: torch.Tensor) -> None:
        """A copy that the host does not wait for: of the device, or from and to pinned memory."""
        stream, target, source = streams.current_stream(CUDA), _inner(to), _inner(of)
        if isinstance(of, SimulatedTensor) and not isinstance(to, SimulatedTensor):
            source = source.clone()
        stream.issue(lambda: target.copy_(source))
        if isinstance(to, SimulatedTensor) and not stream.aside:
            stream.synchronize()  # kernels, which follow it on this stream, run at once
        self.launches["copy_"] += 1

    def _count_copy(self, name: str, *, to: Any, of: Any) -> None:
        if to is not None and not isinstance(to, SimulatedTensor):
            self.waits["copy to the host " + _place()] += 1
        elif isinstance(of, SimulatedTensor):
            self.launches[name] += 1
        else:
            self.copies[_place()] += 1

    def _check(self, func: Any, name: str, args: Any, leaves: Any, generator: Any) -> None:
        """Raise where CUDA would."""
        if isinstance(generator, SimulatedGenerator) and generator.device.type != "cuda":
            raise Refused(f"{func} with a generator of the CPU, {_place()}")
        here = [x for x in leaves if isinstance(x, torch.Tensor)]
        here = [x for x in here if not isinstance(x, SimulatedTensor)]
        if name not in INDEXING:
            # A tensor without axes on the CPU is a number to elementwise operations.
            if any(x.dim() > 0 or name in PRODUCTS for x in here):
                raise Refused(f"{func} of tensors on {CUDA} and cpu, {_place()}")
            return
        if not isinstance(args[0], SimulatedTensor):
            raise Refused(f"{func} of a tensor of the CPU by one on {CUDA}, {_place()}")
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.waits["index by a mask " + _place()] += 1
        if any(not isinstance(index, SimulatedTensor) for index in indices):
            self.copies[_place()] += 1
        if name != "index" and len(args) > 2:
            values = args[2]
            if not isinstance(values, SimulatedTensor) and values.dim() > 0:
                raise Refused(f"{func} with values on cpu, {_place()}")


def _leaves(values: Any, leaves: list[Any]) -> list[Any]:
    """Append what tuples, lists and dicts hold to `leaves`; PyTorch's own trees, which know more
    types, take longer than the operations."""
    if isinstance(values, tuple | list):
        for value in values:
            _leaves(value, leaves)
    elif isinstance(values, dict):
        _leaves(list(values.values()), leaves)
    else:
        leaves.append(values)
    return leaves


def _mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Tuples, lists and dicts of the same form, their leaves changed."""
    if isinstance(values, tuple | list):
        return type(values)([_mapped(change, value) for value in values])
    if isinstance(values, dict):
        return {name: _mapped(change, value) for name, value in values.items()}
    return change(values)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, SimulatedTensor) else value


def _wrapped(made: Any, same: dict[int, SimulatedTensor]) -> Any:
    """A result; that of an operation in place is the tensor that was given."""
    if not isinstance(made, torch.Tensor):
        return made
    given = same.get(id(made))
    return given if given is not None and given.shape == made.shape else SimulatedTensor(made)


def _collide(args: Any) -> bool:
    """Whether fractions are added to one place of a scattered sum."""
    _, dim, index, values = args[:4]
    whole = values.isfinite().logical_not() | (values == values.round())
    if bool(whole.all()):
        return False
    if index.dim() < values.dim() or index.dim() == 1:
        return bool((index.bincount() > 1).any())
    ordered = index.sort(dim).values
    return bool((ordered.diff(dim=dim) == 0).any())


def _sized(args: Any, kwargs: Any) -> Any:
    """The size of what `repeat_interleave` returns, where the caller knows it."""
    known = kwargs.get("output_size")
    return 0 if known is None and not isinstance(args[0], SimulatedTensor) else known


def _computed(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The result on the CPU, products at the precision that CUDA would have."""
    if name in ("mm", "bmm") and func._overloadname.startswith("dtype"):
        out_dtype = kwargs.pop("out_dtype", None) or args[2]
        return func.overloadpacket.default(args[0].to(out_dtype), args[1].to(out_dtype))
    if (
        name in PRODUCTS
        and args[0].dtype == torch.float32
        and torch.backends.cuda.matmul.fp32_precision == "tf32"
    ):
        first = 0 if name in ("mm", "bmm") else 1
        factors = (_rounded(x, "tf32") for x in args[first : first + 2])
        args = (*args[:first], *factors, *args[first + 2 :])
    return func(*args, **kwargs)


class _Forwarding(_Mode):
    """Hands the operations of another thread to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _active().call(func, args, kwargs or {})


_ACTIVE: list[SimulatedDevice] = []


def _active() -> SimulatedDevice:
    """The device that is simulated, from any thread."""
    return _ACTIVE[-1]


def _place() -> str:
    """File and line of the product that runs."""
    frame: Any = sys._getframe(1)
    while frame:
        for room in ("/stage1/", "/stage2/", "/featbank/"):
            file = frame.f_code.co_filename
            if room in file and "/tests/" not in file:
                return f"at {room[1:]}{file.rpartition(room)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "at a test"


@contextlib.contextmanager
def simulated() -> Iterator[SimulatedDevice]:
    """Simulate a GPU: within it PyTorch's device ``cuda`` exists."""
    torch._C._ensureCUDADeviceGuardSet()
    nothing = contextlib.nullcontext
    device, run = SimulatedDevice(), threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _Forwarding():
            run(thread)

    patches = {
        "threading.Thread.run": run_there,
        "torch.Generator": SimulatedGenerator,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_of": lambda tensor: nothing(),
        "torch.cuda.device": lambda index: nothing(),
        "torch.cuda.get_device_name": lambda index=None: "simulated",
        "torch.cuda.mem_get_info": lambda index=None: (MEMORY, MEMORY),
        "torch.cuda.Stream": streams.Stream,
        "torch.cuda.CUDAGraph": graphs.Graph,
        "torch.cuda.Event": streams.Event,
        "torch.cuda.stream": streams.stream,
        "torch.cuda.current_stream": streams.current_stream,
        "torch.cuda.memory_reserved": lambda index=None: 0,
        "torch.cuda.memory_allocated": lambda index=None: 0,
    }
    lift_only_cpu = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lift_only_cpu)
        _ACTIVE.append(device)
        stack.callback(_ACTIVE.remove, device)
        stack.enter_context(device)
        yield device
