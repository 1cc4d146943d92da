"""The steps of a table, and what each cost."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from featbank.files import replacing


@dataclass(frozen=True)
class Step:
    """A command of featbank, and the file that shows that it is done."""

    name: str
    arguments: list[str]
    result: Path | None = None

    @property
    def command(self) -> str:
        """The command as it is typed."""
        return shlex.join(["featbank", *self.arguments])

    @property
    def is_done(self) -> bool:
        """Whether the step's file is there; a sweep knows by its results."""
        return self.result is not None and self.result.exists()


class Costs:
    """Command, seconds and machine of every step of a bank, in a file.

    A step that was stopped and resumed counts all its parts, and repeating one that is done counts
    nothing; only what a killed process had not finished is lost. Another command starts over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: dict[str, dict[str, float | str | bool]] = {}
        if path.exists():
            self._steps = json.loads(path.read_text())

    @contextmanager
    def counting(self, step: Step) -> Iterator[None]:
        """Count what runs within."""
        known = self._steps.get(step.name, {})
        if known.get("command") != step.command:
            known = {"command": step.command, "seconds": 0.0, "machine": _machine(), "done": False}
        started, done = time.perf_counter(), False
        try:
            yield
            done = True
        finally:
            if not known["done"]:
                seconds = float(known["seconds"]) + time.perf_counter() - started
                self._steps[step.name] = {**known, "seconds": seconds, "done": done}
                with replacing(self._path) as partial:
                    partial.write_text(json.dumps(self._steps, indent=1))

    def has_done(self, step: Step) -> bool:
        """Whether this command was counted to its end."""
        known = self._steps.get(step.name, {})
        return bool(known.get("done")) and known["command"] == step.command

    def seconds(self, step: Step) -> str:
        """Seconds of a step, or a dash where they were not counted."""
        known = self._steps.get(step.name)
        return f"{known['seconds']:.0f}" if known else "–"

    def machine(self, step: Step) -> str:
        """The machine that ran a step."""
        return str(self._steps.get(step.name, {}).get("machine", "–"))


def _machine() -> str:
    """The GPU, or the processor and the threads that PyTorch takes of it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
