"""The options of a command line, as entries of a specification."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featbank import errors
from featbank.settings import shortened
from stage2.methods.precisions import PRECISION, default_precision
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import MOST_RUNS
from stage2.specification.entries import Entry, Values
from stage2.specification.problems import Origin, Problems

if TYPE_CHECKING:
    import torch

_SETTING = re.compile(r"(?:([^:=]+):)?([^:=]+)=(.+)", re.DOTALL)
_INTEGER = r"\s*-?[0-9]{1,99}\s*"
_SEEDS = re.compile(f"({_INTEGER})(?:-({_INTEGER}))?")


Override = tuple[str, str, Values]
"""A recipe, or nothing for all; a setting; its values."""


def as_written(option: str, value: object) -> Origin:
    """The origin of an option's value: ``--set lr=0.1``."""
    text = shortened(value)
    return Origin(f"{option} {text[1:-1] if isinstance(value, str) else text}")


def parse_seeds(text: str, problems: Problems) -> list[int]:
    """The seeds of ``--seeds 0,1,2`` or ``0-2``; their range is not checked here."""
    seeds: list[int] = []
    for part in text.split(","):
        match = _SEEDS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first < MOST_RUNS:
            option = as_written("--seeds", text)
            problems.add(
                Origin(), f"{option} is not a list of integers. Write --seeds 0,1,2 or 0-2."
            )
            return []
        seeds += range(first, last + 1)
    return seeds


def read_overrides(
    overrides: Mapping[str, Sequence[Any]] | Iterable[str], problems: Problems
) -> Iterator[Override]:
    """Read ``{"RECIPE:KEY": values}``, or the texts ``RECIPE:KEY=V1,V2``."""
    if isinstance(overrides, Mapping):
        texts = {f"{k}={','.join(map(str, values))}": values for k, values in overrides.items()}
    else:
        texts = {text: text.partition("=")[2].split(",") for text in overrides}
    for text, items in texts.items():
        origin = as_written("--set", text)
        if match := _SETTING.fullmatch(text):
            values = tuple(item.strip() if isinstance(item, str) else item for item in items)
            yield match[1] or "", match[2].strip(), Values(values, origin, kind="text")
        else:
            wrong = f"{origin} is not KEY=V1,V2. Write --set lr=0.1,0.2, for example."
            problems.add(Origin(), wrong)


def default_entries() -> list[Entry]:
    """Every preset but the variants; a bank leaves out what it does not allow."""
    usual = [name for name, preset in PRESETS.items() if not preset.variant]
    return [Entry(name, Origin(), {}, optional=True) for name in usual]


def kept_entries(entries: Sequence[Entry], names: Sequence[str], problems: Problems) -> list[Entry]:
    """The entries of a file that ``--recipe`` keeps; all without it."""
    known = list(dict.fromkeys(entry.name for entry in entries))
    for name in names:
        if name not in known:
            hint = errors.closest(name, known)
            problems.add(Origin(), f"The specification has no recipe {name!r}. {hint}")
    return [entry for entry in entries if not names or entry.name in names]


def overridden(
    entries: Sequence[Entry], overrides: Iterable[Override], problems: Problems
) -> list[Entry]:
    """Entries with the values of ``--set`` in place of their own."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    for recipe, key, values in overrides:
        if recipe and recipe not in names:
            hint = errors.closest(recipe, names)
            problems.add(values.origin, f"{recipe!r} is not swept. {hint}")
        entries = [
            entry.with_values(key, values, own=bool(recipe))
            if recipe in ("", entry.name)
            else entry
            for entry in entries
        ]
    return list(entries)


def at_default(entries: Iterable[Entry], device: torch.device) -> list[Entry]:
    """Entries with the default precision of a device, where they say none."""
    precision = default_precision(device.type)
    if precision == PRECISION.default:
        return list(entries)
    values = Values((precision,), Origin(), kind="default")
    return [
        entry
        if PRECISION.name in entry.grid
        else entry.with_values(PRECISION.name, values, own=False)
        for entry in entries
    ]
