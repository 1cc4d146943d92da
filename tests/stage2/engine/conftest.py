"""Runs tests of Triton kernels twice: on tensors of the CPU by Triton's interpreter, and on a CUDA
device where there is one.

The interpreter has to be chosen before Triton is imported, so it lives in a process of its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

Launch = Callable[..., Any]

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="session")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process whose Triton interprets kernels."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(int).result()
        yield pool


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
def launch(request: pytest.FixtureRequest) -> Launch:
    """Calls a function where its kernels run: ``launch(function, …)``, with tensors of the CPU."""
    if request.param == "cuda":
        return lambda function, *a, **k: _moved(function(*_moved(a, "cuda"), **_moved(k, "cuda")))
    pool = request.getfixturevalue("interpreter")
    return lambda function, *a, **k: pool.submit(function, *a, **k).result()


def _moved(value: Any, device: str = "cpu") -> Any:
    """The tensors within `value` on another device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(v, device) for v in value)
    if isinstance(value, dict):
        return {name: _moved(v, device) for name, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    return value
