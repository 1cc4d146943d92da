"""Ray clusters of two nodes on one machine, started as users start them, and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MEMORY = 80 << 20
"""Bytes of a node's object store."""


def processes(text: str) -> list[int]:
    """Processes whose command line has a text."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in place.joinpath("cmdline").read_text(errors="replace"):
                found.append(int(place.name))
    return sorted(set(found) - {os.getpid()})


def children(parents: list[int]) -> list[int]:
    """Child processes of processes."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = place.joinpath("stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) in parents:
                found.append(int(place.name))
    return found


def kill(numbers: list[int]) -> None:
    """Kill processes."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


class Nodes:
    """A head without CPUs, for the command, and nodes of one CPU each, which train."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # paths of sockets are short
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        self._homes: list[Path] = []

    def start_head(self) -> None:
        """Start the head."""
        port = self.address.rpartition(":")[2]
        self._start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")

    def start_node(self, *before: str, number: int = 2, **environment: str) -> None:
        """Start a node with an address of its own; its command after others `before` it."""
        place = f"--node-ip-address=127.0.0.{number}"
        options = (f"--address={self.address}", "--num-cpus=1", place)
        self._start(*options, before=before, environment=environment)

    def _start(
        self, *options: str, before: tuple[str, ...] = (), environment: Mapping[str, str] = {}
    ) -> None:
        ray = Path(sys.executable).with_name("ray")
        memory = f"--object-store-memory={MEMORY}"
        head = ("--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}")
        common = head if "--head" in options else ()
        subprocess.run(
            [*before, ray, "start", *options, *common, memory, "--disable-usage-stats"],
            env={**self._environment, **environment},
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def raylets(self, number: int) -> list[int]:
        """The process of a node; 1 is the head's."""
        all_ = set(processes("raylet/raylet")) & set(processes(str(self.folder)))
        marks = {each: set(processes(f"--node_ip_address=127.0.0.{each}")) for each in (2, 3)}
        return sorted(all_ & marks[number] if number in marks else all_ - marks[2] - marks[3])

    def workers(self, number: int) -> list[int]:
        """The workers of a node that train."""
        training = processes("ray::Worker.train")
        return [each for each in children(self.raylets(number)) if each in training]

    def kill_node(self, number: int) -> None:
        """Kill a node and all its workers."""
        raylets = self.raylets(number)
        kill(raylets + children(raylets))

    def kill_head(self) -> None:
        """Kill the head."""
        kill(sorted(set(processes("gcs_server")) & set(processes(str(self.folder)))))
        self.kill_node(1)

    def sweep(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a sweep on the cluster."""
        command = [sys.executable, "-m", "featbank", "sweep", *map(str, arguments)]
        return subprocess.Popen(
            [*command, "--executor", "ray", "--address", self.address],
            env={**self._environment, **environment},
            cwd=self.folder,  # Ray lets workers import from here first
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Kill everything."""
        for _ in range(3):
            nodes = processes(str(self.folder))
            kill(nodes + children(nodes))
            time.sleep(0.2)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A head and two nodes that train."""
    nodes = Nodes()
    try:
        nodes.start_head()
        nodes.start_node(number=2)
        nodes.start_node(number=3)
        yield nodes
    finally:
        nodes.close()
