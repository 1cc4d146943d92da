"""Options of a sweep that say where its groups train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from featbank.cli.options import Command, setting_options
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.settings import flag
from stage2.executors import EXECUTORS, Site, open_executor

if TYPE_CHECKING:
    from stage2.executors import Cluster, MakeExecutor

_SETTINGS = {
    setting.name: (name, setting) for name, kind in EXECUTORS.items() for setting in kind.settings
}
"""Settings of executors, and whose they are."""


def executor_options(command: Command) -> Command:
    """Add ``--executor``, the settings of executors, and ``--any-version``."""
    helps = {
        name: f"{setting.help} ({executor}). [default: {setting.default_text}]"
        for name, (executor, setting) in _SETTINGS.items()
    }
    command = click.option(
        "--any-version",
        is_flag=True,
        help="Share the sweep with processes and workers of another version of featbank or "
        "PyTorch.",
    )(command)
    kinds = "; ".join(f"{name}: {kind.help}" for name, kind in EXECUTORS.items())
    command = setting_options({n: setting for n, (_, setting) in _SETTINGS.items()}, helps)(command)
    return click.option(
        "--executor",
        type=click.Choice([*EXECUTORS]),
        default="local",
        show_default=True,
        help=f"Where fused groups train; {kinds}.",
    )(command)


@contextlib.contextmanager
def training_on(
    executor: str, options: dict[str, Any], device: str, memory: int | None, *, any_version: bool
) -> Iterator[tuple[MakeExecutor, Site]]:
    """The executor, and the place that groups are planned for.

    `options` lose the settings of executors.

    Raises
    ------
    ConfigError
        For a setting of another executor; as `open_executor`.
    """
    given = {name: options.pop(name) for name in _SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        owner, _ = _SETTINGS[name]
        if owner != executor:
            raise ConfigError(
                f"{flag(name)} is of --executor {owner}, this sweep trains with {executor}. Leave "
                f"it out, or add --executor {owner}."
            )
    here = Site.here(device, memory)
    with open_executor(executor, given, any_version=any_version) as make:
        yield make, here if executor == "local" else cast("Cluster", make).site(memory)


def best_precision_on(site: Site) -> str:
    """The precision that ``--precision auto`` stands for on this machine, told in a line."""
    from stage2.engine.native.library import best_precision, prepare

    if site.device == "cpu":
        prepare(say)
    precision = best_precision(site.device)
    say(f"Precision {precision}, the fastest here whose figures stay within the noise of seeds")
    return precision
