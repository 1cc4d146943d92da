"""Progress of long work: one live display on a terminal, dated lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from featbank.cli.terminal import say, styled_stdout

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 5
SECONDS_OF_SILENCE = 60
"""Silence before a progress line where the work prints lines of its own, without a terminal."""

FRAMES_PER_SECOND = 4


class Display(ABC):
    """The progress of a piece of work; called with (done, total)."""

    def __init__(self, title: str, *, resumes: bool) -> None:
        self._title, self._pace = title, _Pace(resumes=resumes)
        self._done, self._total, self._partly, self.status = 0, 0, 0.0, ""

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        self._done, self._total = done, total
        self._partly = max(self._partly, done)
        self._show(due=0 < done == total)

    def within(self, more: float, status: str) -> None:
        """Show that units in work are done in part, together `more` units, and a status."""
        self.status = status
        self._partly = max(self._partly, min(self._done + more, self._total))
        self._show()

    @abstractmethod
    def say(self, line: str) -> None:
        """Print a line of the work itself, above the progress."""

    @abstractmethod
    def _show(self, *, due: bool = False) -> None:
        """Show the state; a line even where none is due yet if it is `due`."""

    def _rate(self) -> float:
        """Units per second."""
        return self._pace.rate(self._partly, time.monotonic())


@contextmanager
def progress(title: str, *, resumes: bool = False, talks: bool = False) -> Iterator[Display]:
    """Yield a display for work in units of the `title`.

    Parameters
    ----------
    title
        The units: ``runs``, ``images``.
    resumes
        Whether what the first call reports as done was there before, and does not count for the
        rate.
    talks
        Whether the work prints lines of its own, so that without a terminal progress is rarely due.
    """
    if not sys.stdout.isatty():
        yield _Lines(title, resumes=resumes, talks=talks)
        return
    bar = _Bar(title, resumes=resumes)
    with bar.shown:
        yield bar


class _Bar(Display):
    """A bar with its numbers, and a line of status below; lines are printed above them."""

    def __init__(self, title: str, *, resumes: bool) -> None:
        super().__init__(title, resumes=resumes)
        self.shown = _moving(self)
        self._task = self.shown.add_task(title, total=None, numbers="", rate="")

    def say(self, line: str) -> None:
        say(line)  # which rich prints above what is shown

    def _show(self, *, due: bool = False) -> None:
        self.shown.update(
            self._task,
            completed=self._partly,
            total=self._total,
            numbers=f"{self._done}/{self._total}",
            rate=_rate_text(self._rate()),
        )


def _moving(bar: _Bar) -> Progress:
    """The display of a bar by rich: one line as wide as the terminal, and one of status."""
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    from featbank.characters import visible

    class Moving(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            if bar.status:
                yield Text(visible(bar.status), no_wrap=True, overflow="ellipsis", style="dim")

    numbers, rate = (TextColumn(f"{{task.fields[{name}]}}") for name in ("numbers", "rate"))
    return Moving(
        *(TextColumn("{task.description}"), BarColumn(None), numbers, rate, TimeLeft()),
        console=Console(file=styled_stdout(), soft_wrap=True),
        expand=True,
        transient=True,
        refresh_per_second=FRAMES_PER_SECOND,
    )


class _Pace:
    """Rate since the work started, or since it was resumed."""

    def __init__(self, *, resumes: bool) -> None:
        self.started = time.monotonic()
        self._before = None if resumes else 0.0

    def rate(self, done: float, now: float) -> float:
        """Units per second, with `done` of them at the time `now`."""
        if self._before is None:
            self.started, self._before = now, done
        return (done - self._before) / max(now - self.started, 1e-9)


class _Lines(Display):
    """Dated lines, of progress one every few seconds and at the end, or after a long silence of the
    work that `talks`."""

    def __init__(self, title: str, *, resumes: bool, talks: bool) -> None:
        super().__init__(title, resumes=resumes)
        self._talks, self._last = talks, self._pace.started

    def say(self, line: str) -> None:
        self._last = time.monotonic()  # it counts as one of progress
        say(f"{_clock()} {line}")

    def _show(self, *, due: bool = False) -> None:
        now = time.monotonic()
        rate = self._pace.rate(self._partly, now)
        silence = SECONDS_OF_SILENCE if self._talks else SECONDS_BETWEEN_LINES
        if now - self._last <= silence and (self._talks or not due):
            return
        left = self._total - self._partly
        parts = [f"{self._title}: {self._done} of {self._total}, {_rate_text(rate)}"]
        parts += [f"{left / rate:.0f} s left"] if rate > 0 and left else []
        parts += [self.status] if self.status and left else []
        self.say(", ".join(parts))


def _clock() -> str:
    """The time of day, for a line of a log."""
    return time.strftime("%H:%M:%S")


def _rate_text(rate: float) -> str:
    return f"{rate:.3g} per second"
