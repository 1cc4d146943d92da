"""Options that `featbank train` and `featbank extract` share, made of the settings of stage 1."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import click

from featbank.cli import completion
from featbank.cli.options import Finite, Integer
from featbank.settings import Setting, flag
from stage1.data.catalogue import DATASETS, OPTIONS, defaults_help, takers

Command = Callable[..., Any]

_TYPES: Mapping[type, Any] = {int: Integer(), float: Finite(), str: str}


def setting_options(
    settings: Mapping[str, Setting],
    helps: Mapping[str, str] = MappingProxyType({}),
    *,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Command], Command]:
    """Decorator that adds an option for each setting, None or False where it is not given.

    Parameters
    ----------
    settings
        By name.
    helps
        Help of a setting, defaults included, where it is not its own.
    flags
        Names on the command line, where they are not those of the settings.
    """

    def decorate(command: Command) -> Command:
        for name, setting in reversed([*settings.items()]):
            names = [flags.get(name, flag(name)), name]
            kind = {"is_flag": True} if setting.type is bool else {"type": _TYPES[setting.type]}
            text = helps.get(name, f"{setting.help} [default: {setting.default_text}]")
            command = click.option(*names, **kind, help=text)(command)
        return command

    return decorate


def dataset_options(
    *, default: str = "", without: str = "", **helps: str
) -> Callable[[Command], Command]:
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
