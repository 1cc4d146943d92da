"""The machine, the sizes and the clock of a day with a GPU."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stage2.benchmark import WORKLOADS, Workload, find_workload

ROOT = Path(__file__).parents[2]

Measurement = tuple[str, Callable[[], Any]]
"""Its name, and what returns plain data."""

PRECISIONS = ("fp32", "tf32", "bf16")
TOGETHER = {"cifar100-lt": 256, "imagenet-lt": 300, "inaturalist2018": 32}
"""Shapes of the day, and configurations trained together."""

WARMING, TIMED = 25, 100
"""Milliseconds for which a kernel is run before and while it is timed."""


class Output(NamedTuple):
    """What a command printed, and its code; None where it took too long."""

    out: str
    err: str
    code: int | None


@dataclass(frozen=True)
class Phase:
    """What it measures, about how long that takes, and the measurements in turn."""

    meaning: str
    minutes: float
    measurements: Callable[[Day], Iterator[Measurement]]


@dataclass
class Day:
    """The device, whether shapes are tiny ones, features of a bank, the folder of results, and when
    the phase is to end."""

    device: torch.device
    small: bool
    features: Path | None
    folder: Path
    end: float = math.inf

    @property
    def left(self) -> float:
        """Seconds that are left to the phase."""
        return self.end - time.perf_counter()

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def shapes(self) -> dict[str, tuple[Workload, int]]:
        """Workloads and configurations by name."""
        if not self.small:
            return {name: (WORKLOADS[name], configs) for name, configs in TOGETHER.items()}
        tiny = find_workload("120,8,5,16")
        return {name: (replace(tiny, name=name), 3) for name in TOGETHER}

    def pick(self, large: Any, small: Any) -> Any:
        """A size."""
        return small if self.small else large

    def random(self, *shape: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(*shape, device=self.device)

    def ms(self, run: Callable[[], object]) -> float:
        """Median milliseconds of a call, the cache of a GPU emptied before each."""
        if self.on_gpu:
            from triton.testing import do_bench

            return do_bench(run, warmup=WARMING, rep=TIMED, return_mode="median")
        return 1e3 * statistics.median(self.seconds(run) for _ in range(self.pick(3, 1)))

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds of a call, until the device has done all."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def about(self) -> dict[str, Any]:
        """Machine and versions."""
        triton = find_spec("triton") and __import__("triton").__version__
        return {
            "device": torch.cuda.get_device_name(self.device) if self.on_gpu else "cpu",
            "small": self.small,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": triton,
        }

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write a file whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{name}"
        unfinished.write_text(json.dumps(record, indent=1, default=str, ensure_ascii=False) + "\n")
        unfinished.replace(self.folder / name)


def output_of(command: list[str], *, seconds: float, environment: Mapping[str, str]) -> Output:
    """Run a command from the root, and end it with all that it started where it takes longer."""
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = started.communicate(timeout=max(1, seconds))
        return Output(out, err, started.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        out, err = started.communicate()
        return Output(out, err, None)


def device_of(name: str) -> torch.device:
    """The device called so."""
    if name != "cpu" and not torch.cuda.is_available():
        sys.exit("gpu_day: PyTorch finds no GPU here. --device cpu --small tries the code.")
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
