"""Options for what a bank says of its classes: counts from outside, groups, the background."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import Command

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ClassFacts:
    """The options as they were given, None where they were not."""

    counts: str | None
    groups: str | None
    background: str | None

    @property
    def places(self) -> Iterator[str]:
        """Every place that is read."""
        yield from (place for place in (self.counts, self.groups) if place)

    def resolved(
        self,
        names: Sequence[str] | None,
        train_counts: np.ndarray,
        *,
        outside: np.ndarray | None = None,
        background: int | None = None,
    ) -> Mapping[str, Any]:
        """Values of `featbank.bank.class_table.CLASS_FACTS`, of the options that were given.

        Parameters
        ----------
        names
            Names of the classes, None where they are only numbered.
        train_counts
            Counts [K] of the rows.
        outside, background
            Of a bank that is amended.
        """
        from featbank.exchange.class_facts import Classes

        classes = Classes(names, len(train_counts))
        facts: dict[str, Any] = {}
        if self.background is not None:
            facts["background"] = background = classes.background(self.background)
        if self.counts is not None:
            facts["outside_counts"] = outside = classes.counts(self.counts)
        if self.groups is not None:
            counts = train_counts if outside is None else outside
            facts["class_groups"] = classes.groups(self.groups, counts, background)
        return facts


def class_options(command: Command) -> Command:
    """Decorator that adds these options, which the command takes as `class_facts`."""

    @click.option(
        "--class-counts",
        metavar="FILE[:KEY]",
        help="Counts of the classes in the data that the rows are a sample of, such as pixels or "
        "images, in label order or with class names: groups, priors and weights follow them.",
    )
    @click.option(
        "--groups",
        metavar="[NAMES:]WHAT",
        help="Class groups by counts, 100,20, by shares, 1%,0.1%, or as a file lists them for "
        "each class; with names: head,body,tail:1%,0.1%. [default: many,medium,few:100,20]",
    )
    @click.option(
        "--background",
        metavar="NAME|NUMBER",
        help="The background class: of weight 1, and in no class group.",
    )
    @functools.wraps(command)
    def with_facts(
        *args: Any,
        class_counts: str | None,
        groups: str | None,
        background: str | None,
        **options: Any,
    ) -> Any:
        return command(*args, class_facts=ClassFacts(class_counts, groups, background), **options)

    return with_facts
