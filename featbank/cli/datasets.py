"""``featbank datasets``."""

from __future__ import annotations

import click

from featbank.cli import completion
from featbank.cli.terminal import say
from featbank.errors import ConfigError, closest
from featbank.settings import flag
from stage1.data.catalogue import DATASETS, OPTIONS, SPLITS, DatasetRow
from stage1.training.settings import OPTIONS as TRAINING


@click.command()
@click.argument("name", required=False, shell_complete=completion.datasets)
def datasets(name: str | None) -> None:
    """List the data sets of `featbank train`, or show where NAME looks, what it needs and takes.

    \b
    featbank datasets
    featbank datasets imagenet-lt
    """
    if name is None:
        _table()
        say("featbank datasets NAME shows where it looks, and the options it takes.")
    elif name in DATASETS:
        _details(name, DATASETS[name])
    else:
        raise ConfigError(f"No data set is called {name!r}. {closest(name, DATASETS)}")


def _table() -> None:
    header = ("data set", "classes", *SPLITS, "needs", "")
    lines = [
        (
            name,
            _count(row.classes),
            *(_count(row.images.get(split)) for split in SPLITS),
            " ".join(map(flag, row.needs)) or "–",
            row.description,
        )
        for name, row in DATASETS.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = (
            cell.rjust(width) if title in ("classes", *SPLITS) else cell.ljust(width)
            for title, cell, width in zip(header, line, widths, strict=True)
        )
        say("  ".join(cells).rstrip())


def _details(name: str, row: DatasetRow) -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in row.images.items())
    holds = f"{_count(row.classes)} classes; images: {counts}" if counts else "what is there"
    say(f"{name}: {row.description}")
    say(f"  looks in  {row.place}")
    say(f"  holds     {holds}")
    say(f"  needs     {' '.join(map(flag, row.needs)) or 'nothing'}")
    optional = [OPTIONS[option] for option in row.options if option not in row.needs]
    for setting in optional:
        say(f"  takes     {flag(setting.name):<18} default {row.default_text(setting)}")
    for option in row.training:
        say(f"  trains    {flag(option):<18} default {row.default_text(TRAINING[option])}")


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
