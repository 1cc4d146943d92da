"""Running actions in a child process, so that the tests survive whatever a hostile file does."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

SECONDS = 20
MEMORY = 1 << 29

Case = TypeVar("Case")


@dataclass(frozen=True)
class Outcome:
    """The end of an action; `kind` is ``returned``, or the name of the exception or signal."""

    kind: str
    text: str = ""
    """The value returned, or the message of the exception."""
    bases: tuple[str, ...] = ()
    """The exception's class and its bases, by name."""


def in_child(action: Callable[[], str]) -> Outcome:
    """Run `action` in a fork of this process; see `in_children`."""
    return in_children(lambda _: action(), [None])[0]


def in_children(
    action: Callable[[Case], str], cases: Sequence[Case], *, per_child: int = 25
) -> list[Outcome]:
    """Run `action` on every case, in forks of this process that take some cases each.

    A case may take `SECONDS` of a processor, when SIGPROF ends it (SIGALRM, where it hangs), and
    `MEMORY` more bytes. After a case that kills its process, a new child continues.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        outcomes += _in_one_child(action, cases[len(outcomes) : len(outcomes) + per_child])
    return outcomes


def killed_at(moment: int | None, action: Callable[[], object]) -> tuple[int, int]:
    """Run `action` in a fork of this process, which kills itself at its `moment`-th call of a
    function.

    Moments are counted, not timed: a busy machine changes nothing. Calls in threads do not count.

    Returns
    -------
    The calls it made, 0 where it was killed, and how it ended (`os.waitstatus_to_exitcode`).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            action()
        finally:
            sys.setprofile(None)
            os.write(writer, str(calls).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        calls = int(pipe.read() or 0)
    return calls, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def limit_file_size(most: int) -> None:
    """Fail every write beyond `most` bytes of a file in this process, as a full disk does."""
    sys.dont_write_bytecode = True  # Python 3.11 would leave a truncated module in its cache
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def _in_one_child(action: Callable[[Case], str], cases: Sequence[Case]) -> list[Outcome]:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _work(action, cases, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcomes = [
            Outcome(kind, text, tuple(bases)) for kind, text, bases in map(json.loads, pipe)
        ]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        outcomes.append(Outcome(signal.Signals(os.WTERMSIG(status)).name))
    return outcomes


def _work(action: Callable[[Case], str], cases: Sequence[Case], writer: int) -> None:
    try:
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with os.fdopen(writer, "wb") as pipe:
            for case in cases:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.alarm(10 * SECONDS)
                pipe.write(json.dumps(_outcome(action, case)).encode() + b"\n")
                pipe.flush()
    finally:
        os._exit(0)


def _outcome(action: Callable[[Case], str], case: Case) -> tuple[str, str, list[str]]:
    try:
        return "returned", action(case), []
    except BaseException as error:
        kind = type(error)
        return kind.__name__, str(error), [base.__name__ for base in kind.__mro__]
