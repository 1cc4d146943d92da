"""Entries of a specification: presets, and the values their settings are to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featbank.bank import Bank
from stage2.features.experts import averaged
from stage2.methods.presets import PRESETS
from stage2.methods.recipe_settings import HEAD, TRAINING, VIEW
from stage2.search import Sampling, Search
from stage2.specification.problems import Origin
from stage2.specification.ranges import Range

CHOOSING = {s.name: s for s in (VIEW, HEAD, *TRAINING) if s.choices or s is VIEW}
"""Settings that decide which others a recipe takes."""


@dataclass(frozen=True)
class Values:
    """The values that a setting is to try.

    Attributes
    ----------
    items
        The values.
    origin
        That of the setting.
    origins
        That of each value, where a list stands on several lines.
    kind
        ``list``; ``range``, which an integer setting rounds; ``random``, drawn together with the
        other random values of the recipe; ``text`` of a command line, still to be parsed;
        ``default``, which nobody asked for and no recipe need take.
    span
        The range that the values belong to.
    """

    items: tuple[Any, ...]
    origin: Origin
    origins: tuple[Origin, ...] = ()
    kind: str = "list"
    span: Range | None = None

    @property
    def pairs(self) -> list[tuple[Any, Origin]]:
        """Each value with its origin."""
        origins = self.origins or (self.origin,) * len(self.items)
        return list(zip(self.items, origins, strict=True))

    def ends(self) -> Values:
        """The two ends of a range; all other values as they are."""
        if self.span is None:
            return self
        return replace(self, items=(self.span.low, self.span.high), origins=(), kind="range")

    def first(self) -> Values:
        """The first value alone; of a range its low end."""
        values = self.ends()
        return replace(values, items=values.items[:1], origins=values.origins[:1])


@dataclass(frozen=True)
class Entry:
    """A preset over a grid.

    Attributes
    ----------
    name
        The preset.
    origin
        Where it is named.
    grid
        Values by setting.
    shared
        Settings of the grid that come from all recipes alike; this one need not take them.
    optional
        Whether a bank that lacks what the preset needs leaves it out.
    """

    name: str
    origin: Origin
    grid: Mapping[str, Values]
    shared: frozenset[str] = field(default_factory=frozenset)
    optional: bool = False

    def with_values(self, key: str, values: Values, *, own: bool) -> Entry:
        """The entry with other values of a setting, its `own` or those of all recipes."""
        return replace(
            self,
            grid={**self.grid, key: values},
            shared=self.shared - {key} if own else self.shared | {key},
            optional=self.optional and not own,
        )

    def with_views(self, bank: Bank) -> Entry:
        """The entry with its views resolved on a bank: an average has settings of its own."""
        preset = PRESETS[self.name].settings.get("view", VIEW.default)
        views = self.grid.get("view", Values((preset,), self.origin))
        items = tuple(averaged(bank, v) if isinstance(v, str) else v for v in views.items)
        return replace(self, grid={**self.grid, "view": replace(views, items=items)})


ZERO_SHOT = "zero_shot"
"""The recipe that every table of a bank with text has: it costs nothing and needs no rows."""


def zero_shot_on(view: str) -> Entry:
    """The entry of zero-shot classification on a view, which nobody need ask for."""
    return Entry(ZERO_SHOT, Origin(), {"view": Values((view,), Origin())})


def entries_to_check(entries: Sequence[Entry], search: Search | None) -> list[Entry]:
    """Entries whose combinations are all checked.

    For a search that samples, every combination of parts, and the other settings one at a time: its
    whole grid may be too large.
    """
    if not isinstance(search, Sampling):
        return list(entries)
    checked = []
    for entry in entries:
        free = [key for key in entry.grid if key not in CHOOSING]
        for varied in free or [""]:
            grid = {
                key: values.ends() if key in CHOOSING or key == varied else values.first()
                for key, values in entry.grid.items()
            }
            checked.append(replace(entry, grid=grid))
    return checked
