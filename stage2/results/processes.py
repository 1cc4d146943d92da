"""Processes that share a results file, and whether they are still there."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from all others.

    Attributes
    ----------
    host, pid
        The name of its machine and its number there.
    realm
        Where its number counts: the boot of the machine and, on Linux, the namespace of numbers.
    started
        When it started in ticks of that boot, as a number may be given again; 0 where unknown.
    """

    host: str
    pid: int
    realm: str
    started: int

    def is_gone(self) -> bool:
        """Whether it is known to have ended; False where this process cannot see it."""
        if os.name != "posix" or self.realm != _realm():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        state, started = _status(self.pid)
        return state in ("Z", "X") or started != self.started


def this_process() -> Process:
    """The process that asks."""
    return Process(socket.gethostname(), os.getpid(), _realm(), _status(os.getpid())[1])


@cache
def _realm() -> str:
    """The realm of this process, in which numbers of processes mean the same."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _status(pid: int) -> tuple[str, int]:
    """State and start of a process of this realm; empty and 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    fields = text[text.rindex(")") + 2 :].split()  # the name before may have spaces
    return fields[0], int(fields[19])
