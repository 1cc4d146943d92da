"""Options that `featbank train` and `featbank extract` share, made of the settings of stage 1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import click

from featbank.cli import completion
from featbank.cli.options import Command, Decorator, setting_options
from stage1.data.catalogue import DATASETS, OPTIONS, defaults_help, takers


def dataset_options(*, default: str = "", without: str = "", **helps: str) -> Decorator:
    """Decorator that adds ``--dataset`` and the options of data sets.

    Parameters
    ----------
    default
        Data set where none is named; without it, one must be.
    without
        Option that the command does not take.
    helps
        Help of an option, defaults excluded, where it is not its own.
    """
    settings = {name: setting for name, setting in OPTIONS.items() if name != without}
    texts = {
        name: f"{takers(name)}: {helps.get(name, setting.help)} {defaults_help(setting)}"
        for name, setting in settings.items()
    }
    names = ", ".join(DATASETS)
    dataset = click.option(
        "--dataset",
        required=not default,
        shell_complete=completion.datasets,
        help=f"{names}; `featbank datasets` describes them."
        + (f" [default: {default}]" if default else ""),
    )

    def decorate(command: Command) -> Command:
        return dataset(setting_options(settings, texts)(command))

    return decorate


def chosen_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {n: value for n, value in options.items() if value is not None and value is not False}


def silence_pillow() -> None:
    """Ignore Pillow's warnings: they name no file, and what matters is reported with its file."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
