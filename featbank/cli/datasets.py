"""``featbank datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from featbank.cli import completion
from featbank.cli.terminal import say
from featbank.errors import ConfigError, closest
from featbank.settings import flag

if TYPE_CHECKING:
    from stage1.data.datasets import Source

SPLITS = ("train", "val", "test")
"""The splits whose sizes the table tells, under the defaults."""


@click.command()
@click.argument("name", required=False, shell_complete=completion.datasets)
def datasets(name: str | None) -> None:
    """List the data sets of `featbank train`, or tell what NAME needs, takes and where it looks.

    \b
    featbank datasets
    featbank datasets imagenet-lt
    """
    from stage1.data.datasets import DATASETS

    if name is None:
        _table(DATASETS)
        say("featbank datasets NAME tells where it looks, and the options it takes.")
    elif name in DATASETS:
        _details(name, DATASETS[name])
    else:
        raise ConfigError(f"No data set is called {name!r}. {closest(name, DATASETS)}")


def _table(rows: Mapping[str, Source]) -> None:
    header = ("data set", "classes", *SPLITS, "needs", "")
    lines = [
        (
            name,
            _count(source.classes),
            *(_count(source.images.get(split)) for split in SPLITS),
            " ".join(map(flag, source.needs)) or "–",
            source.description,
        )
        for name, source in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        cells = (
            cell.rjust(width) if title in ("classes", *SPLITS) else cell.ljust(width)
            for title, cell, width in zip(header, line, widths, strict=True)
        )
        say("  ".join(cells).rstrip())


def _details(name: str, source: Source) -> None:
    from stage1.data.images import DatasetSettings

    counts = ", ".join(f"{count:,} {split}" for split, count in source.images.items())
    holds = f"{_count(source.classes)} classes; images: {counts}" if counts else "what is there"
    say(f"{name}: {source.description}")
    say(f"  looks in  {source.place}")
    say(f"  holds     {holds}")
    say(f"  needs     {' '.join(map(flag, source.needs)) or 'nothing'}")
    for option in source.options:
        if option not in source.needs:
            default = source.defaults.get(option, getattr(DatasetSettings, option))
            say(f"  takes     {flag(option):<18} {_default(default)}".rstrip())
    for option, default in source.training.items():
        say(f"  trains    {flag(option):<18} {_default(default)}")


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _default(value: object) -> str:
    if value is None:
        return ""
    told = f"{value:g}" if isinstance(value, float) else value
    return f"default {'no' if value is False else told}"
