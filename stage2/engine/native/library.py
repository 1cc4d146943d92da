"""Loading the compiled pass, and the layout of what it is given."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from stage2.engine.native import build
from stage2.methods.precisions import default_precision

SWITCH = "FEATBANK_COMPILED"
"""Environment variable: ``off`` leaves training to PyTorch, the name of an instruction set takes
that one."""

PARAMETERS = 6
"""Parameters of a head at most."""


def _pointers(*names: str) -> list[tuple[str, type]]:
    return [(name, c_void_p) for name in names]


class ParameterFields(ctypes.Structure):
    """`Parameter` of task.h."""

    _fields_ = [
        *_pointers("value", "first", "second", "anchor"),
        ("anchor_stride", c_int64),
        *_pointers("decay", "rate"),
        ("size", c_int64),
    ]


class LossFields(ctypes.Structure):
    """`Loss` of task.h."""

    _fields_ = [
        ("kernel", c_int64),
        *_pointers("scale", "shift", "margin", "weight", "smoothing", "elsewhere", "at_label"),
        *_pointers("gamma", "frozen_gamma", "by_weights", "angle", "best_cosine"),
        *_pointers("distil", "temperature", "distil_classes"),
    ]


class Task(ctypes.Structure):
    """`Task` of task.h."""

    _fields_ = [
        *[(name, c_int64) for name in ("head", "rule", "half")],
        *[(name, c_int64) for name in ("configs", "classes", "dim", "hidden", "parts", "batch")],
        *[(name, c_int64) for name in ("steps", "group", "threads", "first", "last")],
        *_pointers("x", "rows", "labels", "second", "share", "z0", "z0_rows", "norms0", "bias0"),
        *[(name, c_int64) for name in ("unit0", "eq5")],
        *_pointers("head_scale", "head_gamma", "rates", "momentum", "nesterov"),
        *_pointers("beta1", "beta2", "eps"),
        ("taken", c_double),
        *_pointers("limits"),
        ("loss", LossFields),
        *_pointers("total"),
        ("parameters", ParameterFields * PARAMETERS),
    ]


def address(values: Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
    """Address of a contiguous tensor of a dtype on the CPU; None for None."""
    if values is None:
        return None
    assert values.is_contiguous()
    assert (values.dtype, values.device.type) == (dtype, "cpu")
    return values.data_ptr()


@dataclass(frozen=True)
class Library:
    """The compiled pass of an instruction set; calling it lets go of the interpreter's lock."""

    instruction_set: str
    train: ctypes._NamedFuncPointer
    measure: ctypes._NamedFuncPointer
    bf16: bool

    @staticmethod
    def at(path: Path, instruction_set: str) -> Library:
        """Load a library."""
        loaded = ctypes.CDLL(str(path))
        loaded.featbank_train.argtypes = [POINTER(Task)]
        loaded.featbank_train.restype = c_int64
        loaded.featbank_measure.argtypes = [c_void_p]
        loaded.featbank_measure.restype = None
        loaded.featbank_has_bf16.restype = c_int64
        bf16 = bool(loaded.featbank_has_bf16())
        return Library(instruction_set, loaded.featbank_train, loaded.featbank_measure, bf16)


@dataclass(frozen=True)
class Missing:
    """Why there is no compiled pass."""

    reason: str


@cache
def library() -> Library | Missing:
    """The compiled pass for this processor: that of the wheel, of the cache, or compiled now."""
    name = _instruction_set()
    if isinstance(name, Missing):
        return name
    try:
        path = _place(name)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / "lock"):
                if not path.is_file():
                    build.compile_into(path.parent, name)
        return Library.at(path, name)
    except OSError as error:
        return Missing(str(error))


def prepare(say: Callable[[str], None]) -> None:
    """Find or compile the pass before training instead of within it; `say` in a line what takes a
    moment, and that it is missing."""
    name = _instruction_set()
    if isinstance(name, str) and build.compiler() and not _place(name).is_file():
        say(f"Compiling the CPU engine for {name}, once; this takes some seconds")
    if isinstance(found := library(), Missing):
        say(f"No compiled CPU engine ({found.reason}): PyTorch trains, two to three times slower")


def best_precision(device: str) -> str:
    """Precision that ``auto`` stands for on ``cpu`` or ``cuda``: the fastest of those whose
    accuracy, ECE and NLL docs/performance.md shows to differ by less than seeds do."""
    default = default_precision(device)
    found = library() if device == "cpu" else None
    return "bf16" if isinstance(found, Library) and found.bf16 else default


def _instruction_set() -> str | Missing:
    """The best instruction set of the processor, or the one that the switch names."""
    wanted, sets = os.environ.get(SWITCH, ""), build.sets_of_this_processor()
    if wanted == "off":
        return Missing(f"{SWITCH}=off")
    if wanted and wanted not in sets:
        return Missing(f"{SWITCH}={wanted}, and this processor has {', '.join(sets)}")
    return wanted or sets[0]


def _place(name: str) -> Path:
    """Place of a library: beside its sources, from the wheel, or else in the cache."""
    file = build.library_name(name)
    packed = build.SOURCES / file
    return packed if packed.is_file() else cache_folder() / file


def cache_folder() -> Path:
    """Folder of the libraries that were compiled on first use."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "featbank"


def description() -> str:
    """One line for people: what trains on this CPU."""
    found = library()
    if isinstance(found, Missing):
        return f"PyTorch ({found.reason})"
    return f"compiled for {found.instruction_set}"
