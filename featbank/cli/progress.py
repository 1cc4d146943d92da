"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from featbank.cli.terminal import say, styled_stdout

SECONDS_BETWEEN_LINES = 5
SECONDS_OF_SILENCE = 60
"""Silence before a progress line where the work prints lines of its own, without a terminal."""

Advance = Callable[[int, int], None]


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Yield a function to be called with (done, total)."""
    if sys.stdout.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        lines = _Lines(title)
        yield lambda done, total: lines.advance(done, total, due=done == total)


@contextmanager
def progress_beside_lines(title: str) -> Iterator[tuple[Advance, Callable[[str], None]]]:
    """Yield the function of `progress`, and one that prints a line.

    The work that the first call reports as done was there before and does not count for the rate.
    """
    if sys.stdout.isatty():
        with _bar(title, resumes=True) as advance:
            yield advance, say
    else:
        lines = _Lines(title, resumes=True, seconds=SECONDS_OF_SILENCE)
        yield lines.advance, lines.say


@contextmanager
def _bar(title: str, *, resumes: bool = False) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    rate = TextColumn("{task.fields[rate]}")
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), rate, TimeLeft()
    with Progress(*columns, console=Console(file=styled_stdout()), transient=True) as bar:
        task = bar.add_task(title, total=None, rate="")
        pace = _Pace(resumes=resumes)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, rate=_rate_text(pace.rate(done, time.monotonic()))
        )


class _Pace:
    """Rate since the work started, or since it was resumed."""

    def __init__(self, *, resumes: bool) -> None:
        self.started = time.monotonic()
        self._before = None if resumes else 0

    def rate(self, done: int, now: float) -> float:
        """Units per second, with `done` of them at the time `now`."""
        if self._before is None:
            self.started, self._before = now, done
        return (done - self._before) / max(now - self.started, 1e-9)


class _Lines:
    """Progress lines, at most one every so many `seconds`."""

    def __init__(
        self, title: str, *, resumes: bool = False, seconds: float = SECONDS_BETWEEN_LINES
    ) -> None:
        self._title, self._seconds = title, seconds
        self._pace = _Pace(resumes=resumes)
        self._last = self._pace.started

    def say(self, line: str) -> None:
        """Print a line of the work itself; it counts as one of progress."""
        self._last = time.monotonic()
        say(line)

    def advance(self, done: int, total: int, *, due: bool = False) -> None:
        """Print the progress where a line is due, or asked for with `due`."""
        now = time.monotonic()
        rate = self._pace.rate(done, now)
        if due or now - self._last > self._seconds:
            self._last = time.monotonic()
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
            say(f"{self._title}: {done} of {total}, {_rate_text(rate)}{left}")


def _rate_text(rate: float) -> str:
    return f"{rate:.3g} per second"
