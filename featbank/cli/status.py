"""``featbank status`` and ``featbank watch``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.characters import visible
from featbank.cli.options import FILE, Finite, format_option
from featbank.cli.terminal import console, say, styled_stdout
from featbank.wording import number

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stage2.results.progress import Place, Progress
    from stage2.results.store import Store
    from stage2.results.tasks import Watch

FORMATS = ("text", "json")

SHARE = 0.1
"""Most of the time that is spent on ranking what there is so far."""


@click.command()
@click.argument("results", type=FILE)
@format_option("json has a line for each bank.", FORMATS)
def status(results: Path, form: str) -> None:
    """Show how far the sweeps on a results file are.

    \b
    featbank status results.sqlite
    """
    from stage2.results.store import Store
    from stage2.results.tasks import Watch

    with Store(results) as store:
        look = _Look(store, Watch())
        for name, progress in look.progress().items():
            if form == "json":
                _print_json(name, progress)
            else:
                for line in _lines(name, progress, look.best(name)):
                    say(line)


@click.command()
@click.argument("results", type=FILE)
@click.option(
    "--every",
    type=Finite(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two looks.",
)
@format_option("json has a line for each bank and look.", FORMATS)
def watch(results: Path, every: float, form: str) -> None:
    """Watch the sweeps on a results file until they end.

    On a terminal the picture moves; elsewhere a line is printed whenever something has changed.

    \b
    featbank watch results.sqlite
    """
    from stage2.results.store import Store
    from stage2.results.tasks import Watch

    with Store(results) as store, _shown(form) as show:
        look = _Look(store, Watch())
        while True:
            found = look.progress()
            show(found, look)
            if not any(progress.lives for progress in found.values()):
                return
            time.sleep(every)


class _Look:
    """Looks at a results file, again and again."""

    def __init__(self, store: Store, watching: Watch) -> None:
        self._store, self._watch = store, watching
        self._runs: dict[str, int] = {}
        self._best: dict[str, str] = {}
        self._free = 0.0  # when the next ranking may start

    def progress(self) -> dict[str, Progress]:
        """The progress on each bank by its name."""
        from stage2.results.naming import bank_names
        from stage2.results.progress import progress_of

        names = bank_names(self._store.banks())
        self._banks = {name: fingerprint for fingerprint, name in names.items()}
        found = {
            name: progress_of(self._store, fingerprint, self._watch)
            for name, fingerprint in self._banks.items()
        }
        self._stored = {name: progress.runs for name, progress in found.items()}
        return found

    def best(self, name: str) -> str:
        """The best configuration of a bank so far, and its figure; empty where there is none."""
        from stage2.results.leaderboard import differences
        from stage2.results.results import Results

        stored, now = self._stored[name], time.monotonic()
        if stored and stored != self._runs.get(name) and now >= self._free:
            row = Results(self._store, bank=self._banks[name]).board.first_rows()[0]
            figure, on = row["selection"], "the split that selects"
            if figure is None:
                figure, on = row["macro"], f"{row['split']}, which selects nothing"
            macro = "" if figure is None else f": macro {figure:.2f} on {on}"
            self._best[name] = f"{row['name']} {differences(row)}".rstrip() + macro
            self._runs[name] = stored
            self._free = time.monotonic() + (time.monotonic() - now) / SHARE
        return self._best.get(name, "")


@contextmanager
def _shown(form: str) -> Iterator[Callable[[dict[str, Progress], _Look], None]]:
    """Yield what shows a look: a moving picture on a terminal, else lines where there is news."""
    if form == "text" and console().is_terminal:
        from rich.console import Console, Group
        from rich.live import Live

        with Live(console=Console(file=styled_stdout(), highlight=False)) as live:
            yield lambda found, look: live.update(
                Group(*(_picture(name, each, look.best(name)) for name, each in found.items())),
                refresh=True,
            )
        return
    before: dict[str, Any] = {}

    def show(found: dict[str, Progress], look: _Look) -> None:
        for name, progress in found.items():
            news = (progress.runs, progress.groups, progress.lives, progress.probing)
            if news == before.get(name):
                continue
            before[name] = news
            if form == "json":
                _print_json(name, progress)
            else:
                say(f"{time.strftime('%H:%M:%S')} {name}: {_summary(progress)}")

    yield show


def _print_json(name: str, progress: Progress) -> None:
    """Print the progress on a bank as a line of JSON."""
    click.echo(json.dumps({"bank": name, **progress.as_json()}))


def _summary(progress: Progress) -> str:
    """One line: runs, groups, pace and time left."""
    from stage2.cost.estimate import duration

    groups = progress.groups
    parts = [f"{progress.runs:,} of {progress.total:,} runs"]
    if sum(groups.values()):
        done = f"{groups['done']:,} of {number(sum(groups.values()), 'group')} done"
        states = [f"{groups[state]:,} {state}" for state in ("running", "waiting", "failed")]
        parts.append(", ".join([done, *(text for text in states if text[0] != "0")]))
    if progress.probing:
        parts.append("a probe is trained")
    if progress.per_second:
        parts.append(f"{progress.per_second:.3g} runs/s")
    if progress.seconds_left and progress.left:
        parts.append(f"{duration(progress.seconds_left)} left")
    if not progress.lives:
        parts.append("no sweep is running" if progress.left else "complete")
    return " · ".join(parts)


def _lines(name: str, progress: Progress, best: str) -> Iterator[str]:
    """The progress on a bank as plain lines."""
    yield f"{name}: {_summary(progress)}"
    for place in progress.places:
        yield f"  {' · '.join(filter(None, _cells(place)))}"
    yield from (f"  {text}" for text in _notes(progress, best))


def _notes(progress: Progress, best: str) -> Iterator[str]:
    """The lines of a look besides numbers: the best so far, failures, and how to go on."""
    if best:
        yield f"best so far: {best}"
    for error in dict.fromkeys(progress.errors):
        yield f"failed: {error}"
    if progress.left and not progress.lives:
        yield "The same featbank sweep continues it."


def _cells(place: Place) -> list[str]:
    """The columns of a place: whose it is, what is done there, and its pace."""
    groups = place.groups
    return [
        place.worker,
        place.place,
        f"{number(groups['done'], 'group')}, {number(place.runs, 'run')}",
        f"{groups['running']} running" if groups["running"] else "",
        f"{place.per_second:.3g} runs/s" if place.per_second else "",
        "" if place.lives else "ended",
    ]


def _picture(name: str, progress: Progress, best: str) -> RenderableType:
    """The progress on a bank with a bar and a table of workers."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    workers = Table(box=None, pad_edge=False, show_header=False)
    for place in progress.places:
        workers.add_row(*(Text(visible(cell)) for cell in _cells(place)))
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(progress.total, 1), completed=progress.runs, width=40))
    return Group(
        Text(visible(f"{name}: {_summary(progress)}")),
        bar,
        workers,
        *(Text(visible(text)) for text in _notes(progress, best)),
    )
