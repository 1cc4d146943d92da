"""Options that several commands have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from featbank.errors import ConfigError
from featbank.settings import Setting, flag, read_number, shortened

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

LARGEST = 2**63 - 1
"""Bound of integers that have no other."""


class _Number(click.FloatRange):
    """A number in ASCII digits; without bounds, it has no range to describe."""

    kind: ClassVar[str]

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__(low, high)
        self._bounded = low is not None or high is not None
        self.name = f"{self.kind} range" if self._bounded else self.kind

    def _check(self, number: float, text: str, *place: Any) -> None:
        """Refuse a number out of bounds; the message quotes it as `text`."""
        low, high = self.min, self.max
        if (low is not None and number < low) or (high is not None and number > high):
            self.fail(f"{text} is not in the range {self._describe_range()}.", *place)

    def _describe_range(self) -> str:
        return super()._describe_range() if self._bounded else ""


class Integer(_Number):
    """An integer; messages quote the start of a wrong one."""

    kind = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = read_number(value, int) if isinstance(value, str) else value
        if number is None:
            self.fail(f"{shortened(value)} is not a valid integer.", param, ctx)
        self._check(number, shortened(number), param, ctx)
        if abs(number) > LARGEST:
            self.fail(f"{shortened(number)} is too large, at most {LARGEST}.", param, ctx)
        return number


class Finite(_Number):
    """A finite number: click's own range lets NaN pass."""

    kind = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = read_number(value, float) if isinstance(value, str) else value
        if number is None or not math.isfinite(number):
            self.fail(f"{shortened(value)} is not a finite number.", param, ctx)
        self._check(number, f"{number:g}", param, ctx)
        return number


class Ranking(click.ParamType):
    """A split that ranks: ``val``, ``test``, or the rows that folds held out."""

    name = "split"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"val|test|[1-9]\d{0,2}-fold", value):
            self.fail(f"{shortened(value)} is not val, test or folds such as 5-fold.", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[val|test|N-fold]"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(s) for s in ("val", "test") if s.startswith(incomplete)]


class _File(click.Path):
    """The name of a file, not empty: an empty one would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty. Name a file.", param, ctx)
        return super().convert(value, param, ctx)


FILE = _File(path_type=Path)


_TYPES: Mapping[type, Any] = {int: Integer(), float: Finite(), str: str}


def setting_option(setting: Setting, *names: str, help: str = "", **attributes: Any) -> Decorator:
    """Decorator that adds an option for a setting; the library checks its value.

    Parameters
    ----------
    setting
        The row: its type, help and default are the option's.
    names
        Names of the option, where they are not the setting's.
    help
        The help, default included, where it is not the setting's.
    attributes
        Others of the option.
    """
    kind = {"is_flag": True} if setting.type is bool else {"type": _TYPES[setting.type]}
    return click.option(
        *(names or (flag(setting.name),)),
        setting.name,
        help=help or f"{setting.help} [default: {setting.default_text}]",
        **{**kind, **attributes},
    )


def setting_options(
    settings: Mapping[str, Setting],
    helps: Mapping[str, str] = MappingProxyType({}),
    *,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Decorator:
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
            option = setting_option(setting, flags.get(name, flag(name)), help=helps.get(name, ""))
            command = option(command)
        return command

    return decorate


FORMATS = ("table", "json", "csv", "md", "latex")
"""Forms that a table of results can be printed in."""

bank_option = click.option(
    "--bank",
    help="Name of a bank, or the first digits of its fingerprint, where the file holds several.",
)
banks_option = click.option(
    "--bank",
    metavar="BANK[,BANK…]|all",
    help="Banks of the file where it holds several, of the same classes: their labels, the names "
    "of their files or the first digits of their fingerprints. Each is ranked by its own val.",
)
label_option = click.option(
    "--label",
    metavar="NAME",
    help="Name of the bank in tables and figures of several banks. [default: that of its file]",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …"
)
width_option = click.option(
    "--width",
    default=7.0,
    show_default=True,
    type=Finite(2, 40),
    help="Inches; 3.3 for a column.",
)


def dtype_option(default: str) -> Decorator:
    """``--dtype`` of features that are extracted."""
    return click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default=default,
        show_default=True,
        help="Of features.",
    )


def output_option(help: str, *, required: bool = True, **attributes: Any) -> Decorator:
    """``--output``."""
    return click.option("-o", "--output", required=required, type=FILE, help=help, **attributes)


def require_h5(output: Path) -> None:
    """Raise unless an output ends in .h5, in a folder that exists."""
    if output.suffix.lower() != ".h5":
        raise ConfigError(f"{output} does not end in .h5. Name such a file.")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent} is not a folder. Create it first.")


def overwrite_option(help: str) -> Decorator:
    """``--overwrite``."""
    return click.option("--overwrite", is_flag=True, help=help)


def format_option(help: str, formats: Sequence[str] = FORMATS) -> Decorator:
    """``--format``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help=help,
    )


def epoch_option(rule: str) -> Decorator:
    """``--epoch``; its help states the `rule` that says which epoch ranks."""
    return click.option(
        "--epoch",
        type=click.Choice(["last", "selected"]),
        help=f"[default: the one that ranks, {rule}]",
    )


def selection_options(product: str) -> Callable[[Command], Command]:
    """``--select-on``, ``--select-by`` and ``--select-epoch`` of a command that writes a
    `product`: the arguments of `stage2.results.results.Results` with these names."""

    def add(command: Command) -> Command:
        options = (
            click.option(
                "--select-on",
                type=Ranking(),
                help="Split that selects: val, folds such as 5-fold, or test, if you must. "
                "[default: val where there is one, else folds where there are, else nothing is "
                f"selected; {product} says which]",
            ),
            click.option(
                "--select-by",
                type=click.Choice(["1se", "macro", "nll"]),
                help="Rule that selects: macro accuracy; the negative log-likelihood at the "
                "temperature fitted on val; or 1se, the latter among those within one standard "
                "error of the best macro. [default: 1se]",
            ),
            click.option(
                "--select-epoch",
                type=click.Choice(["selected", "last"]),
                default="selected",
                show_default=True,
                help="Epoch that stands for a configuration: the best on val, or the last.",
            ),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def val_options(command: Command) -> Command:
    """Add the options that hold a val out of train."""
    fraction = click.option(
        "--val-fraction",
        type=Finite(),
        metavar="F",
        help="Or a share F ≤ 0.5 of each class, at least one row.",
    )
    return click.option(
        "--val-per-class",
        type=Integer(1),
        metavar="N",
        help="Hold N rows of each class of train out as val, at most half of a class.",
    )(fraction(command))


MOST_BYTES = 1 << 60


def parse_bytes(text: str | None) -> int | None:
    """The value of ``--memory``: ``2GiB``, ``500MB`` or plain bytes; None where it is not given."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*(?:([kmgt])(i?)b?)?\s*", text.lower())
    try:
        number, prefix, binary = match.groups() if match else ("", "", "")
        power = "kmgt".index(prefix) + 1 if prefix else 0
        size = float(number) * (1024 if binary else 1000) ** power
    except ValueError:
        raise ConfigError(
            f"--memory {shortened(text)[1:-1]} is not a size. Write --memory 2GiB."
        ) from None
    if not 1 <= size < MOST_BYTES:
        raise ConfigError(
            f"--memory {shortened(text)[1:-1]} is not between 1 byte and 1 EiB. "
            "Write --memory 2GiB, or leave it out."
        )
    return int(size)


def memory_option(help: str) -> Decorator:
    """``--memory``, in bytes."""
    return click.option("--memory", callback=lambda _, __, text: parse_bytes(text), help=help)
