"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

SECONDS_BETWEEN_LINES = 5


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to be called with (done, total)."""
    if not sys.stdout.isatty():
        yield _lines(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    rate = TextColumn("{task.fields[rate]}")
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeLeft()
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")
        begun = time.monotonic()
        yield lambda done, total: bar.update(
            task, completed=done, total=total, rate=_rate(done, time.monotonic() - begun)
        )


def _lines(what: str) -> Callable[[int, int], None]:
    begun = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            spent = last - begun
            left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total else ""
            click.echo(f"{what}: {done} of {total}, {_rate(done, spent)}{left}")

    return report


def _rate(done: int, seconds: float) -> str:
    return f"{done / max(seconds, 1e-9):.3g} per second"
