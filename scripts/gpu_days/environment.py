"""Phase 1: what the machine is, and the tests that need a GPU."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch
from measuring_day import Day, Measurement, output_of

from stage2.engine.gpu.available import available, fuses

PACKAGES = ("numpy", "h5py", "scipy", "rich", "click", "pytest", "hypothesis", "faiss-gpu", "cuml")
QUERIED = "driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
GPU_TESTS = ("-m", "gpu", "--continue-on-collection-errors", "tests")
ENGINE_TESTS = ("tests/stage2/engine", "tests/stage2/cuda")


def measurements(day: Day) -> Iterator[Measurement]:
    """The machine; tests marked ``gpu``; all tests of the engine and of the simulated GPU."""
    yield "machine", lambda: machine(day)
    if day.on_gpu:
        yield "driver and clocks", driver
    yield "kernels agree", lambda: agreement(day)
    marked, engine = GPU_TESTS, ENGINE_TESTS
    if day.small:
        marked = ("-m", "gpu", "tests/stage2/engine/test_metrics.py")
        engine = ("tests/stage2/engine/test_state.py",)
    yield "tests marked gpu", lambda: tests(day, "gpu-tests.log", marked, 240)
    yield "tests of the engine", lambda: tests(day, "engine-tests.log", engine, 300)


def machine(day: Day) -> dict[str, Any]:
    """Processor, memory, GPU, driver, and versions of packages."""
    found = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **day.about()}
    found["packages"] = {name: _version(name) for name in PACKAGES}
    if day.on_gpu:
        about = torch.cuda.get_device_properties(day.device)
        found |= {
            "memory": about.total_memory,
            "multiprocessors": about.multi_processor_count,
            "cache": about.L2_cache_size,
            "capability": list(torch.cuda.get_device_capability(day.device)),
            "cuda": torch.version.cuda,
        }
    return found


def driver() -> list[str]:
    """What NVIDIA's tool says of driver, clocks, power and temperature."""
    command = ["nvidia-smi", f"--query-gpu={QUERIED}", "--format=csv"]
    return output_of(command, seconds=20, environment=os.environ).out.splitlines()


def agreement(day: Day) -> dict[str, Any]:
    """Whether the Triton kernels run on the device and agree with the eager ones, and the fused
    pass with single steps."""
    return {"available": available(day.device), "fuses": fuses(day.device)}


def tests(day: Day, log: str, arguments: tuple[str, ...], seconds: int) -> dict[str, Any]:
    """Run tests in a process of their own; the log is beside the results."""
    workers = str(day.pick(min(8, os.cpu_count() or 1), 0))
    command = [sys.executable, "-m", "pytest", "-n", workers, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    allowed = min(seconds, day.left)
    done = output_of(command, seconds=allowed, environment=environment)
    output = done.out + done.err
    day.folder.mkdir(parents=True, exist_ok=True)
    (day.folder / log).write_text(output)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    last = output.strip().splitlines()[-1:] or [""]
    ended = f"stopped after {allowed:.0f} s" if done.code is None else "in time"
    return {"ended": ended, "summary": last[0], "failed": failed[:100]}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
