"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from featbank.cli.terminal import say, styled_stdout

SECONDS_BETWEEN_LINES = 5
SECONDS_OF_SILENCE = 60
"""Where the work prints lines of its own, elsewhere than on a terminal: silence before one here."""

Advance = Callable[[int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Yield a function to be called with (done, total)."""
    if sys.stdout.isatty():
        with _bar(what) as advance:
            yield advance
    else:
        lines = _Lines(what)
        yield lambda done, total: lines.advance(done, total, due=done == total)


@contextmanager
def progress_beside_lines(what: str) -> Iterator[tuple[Advance, Callable[[str], None]]]:
    """Yield the function of `progress`, and one that prints a line.

    What the first call says is done was there before, and does not count for the rate.
    """
    if sys.stdout.isatty():
        with _bar(what, resumes=True) as advance:
            yield advance, say
    else:
        lines = _Lines(what, resumes=True, seconds=SECONDS_OF_SILENCE)
        yield lines.advance, lines.say


@contextmanager
def _bar(what: str, *, resumes: bool = False) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    rate = TextColumn("{task.fields[rate]}")
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeLeft()
    with Progress(*columns, console=Console(file=styled_stdout()), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")
        pace = _Pace(resumes=resumes)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, rate=_told(pace.rate(done, time.monotonic()))
        )


class _Pace:
    """The rate since the work began, or since it went on."""

    def __init__(self, *, resumes: bool) -> None:
        self.begun = time.monotonic()
        self._there = None if resumes else 0

    def rate(self, done: int, now: float) -> float:
        """Per second, `done` at the time `now`."""
        if self._there is None:
            self.begun, self._there = now, done
        return (done - self._there) / max(now - self.begun, 1e-9)


class _Lines:
    """At most one line in so many `seconds`."""

    def __init__(
        self, what: str, *, resumes: bool = False, seconds: float = SECONDS_BETWEEN_LINES
    ) -> None:
        self._what, self._seconds = what, seconds
        self._pace = _Pace(resumes=resumes)
        self._last = self._pace.begun

    def say(self, line: str) -> None:
        """Print a line that is not about progress; it counts as one."""
        self._last = time.monotonic()
        say(line)

    def advance(self, done: int, total: int, *, due: bool = False) -> None:
        """Print how far the work is, where it is time to or `due`."""
        now = time.monotonic()
        rate = self._pace.rate(done, now)
        if due or now - self._last > self._seconds:
            self._last = time.monotonic()
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            say(f"{self._what}: {done} of {total}, {_told(rate)}{left}")


def _told(rate: float) -> str:
    return f"{rate:.3g} per second"
