"""Options for what a bank has beside features: text of its classes, and the default scale."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from featbank.cli.options import FILE, Command, Finite
from featbank.errors import ConfigError


@dataclass(frozen=True)
class Texts:
    """Places of text by view, and what is said of all of them."""

    of_views: tuple[tuple[str, str], ...]
    names: Path | None
    logit_scale: float | None

    @property
    def places(self) -> Iterator[str]:
        """Every place that is read."""
        yield from (place for _, place in self.of_views)
        if self.names:
            yield str(self.names)


class Scale(click.ParamType):
    """A scale that a bank can record."""

    name = "scale"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text of a scale."""
        from featbank.bank.schema import SCALES, is_scale

        if not is_scale(value):
            self.fail(f"{value!r} is not {', '.join(SCALES)} or a number > 0", param, ctx)
        return value


scale_option = click.option(
    "--scale",
    type=Scale(),
    metavar="SCALE",
    help="Default of recipes' feature_scale, recorded for all views: none, unit, standardise or a "
    "factor. Features are stored as given.",
)


def text_options(command: Command) -> Command:
    """Decorator that adds the options of text, which the command takes as `texts`."""

    @click.option(
        "--text",
        metavar="FILE[:KEY]",
        help="Text embeddings of the classes, [K, D] or [P, K, D] of P prompts.",
    )
    @click.option(
        "--view-text",
        "view_texts",
        type=(str, str),
        multiple=True,
        metavar="VIEW FILE[:KEY]",
        help="Those of a further view; without its own, a view of the same D has that of --text.",
    )
    @click.option(
        "--text-names",
        type=FILE,
        help="File with the class of each row of text, one per line. [default: the key class_names "
        "or names beside the text, else label order]",
    )
    @click.option(
        "--logit-scale",
        type=Finite(),
        metavar="S",
        help="Factor of the cosines of text and features. [default: the key logit_scale beside the "
        "text, else 100, CLIP's]",
    )
    @functools.wraps(command)
    def with_texts(
        *args: Any,
        text: str | None,
        view_texts: tuple[tuple[str, str], ...],
        text_names: Path | None,
        logit_scale: float | None,
        **options: Any,
    ) -> Any:
        of_views = (*([("instance", text)] if text else []), *view_texts)
        if not of_views and (text_names or logit_scale is not None):
            option = "--text-names" if text_names else "--logit-scale"
            raise ConfigError(f"{option} is for text. Give --text FILE as well, or leave it out.")
        return command(*args, texts=Texts(of_views, text_names, logit_scale), **options)

    return with_texts
