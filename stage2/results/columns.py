"""The checks and decoders of the columns of a results file, by table."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stage2.results import content
from stage2.results.tested import decoded_rows

_shared_text = lru_cache(256)(content.text)  # of many runs

RUN: dict[str, Callable[[Any], Any]] = {
    "recipe": content.digits,
    "id": content.text,
    "name": _shared_text,
    "seed": content.seed,
    "parameters": content.parameters,
    "status": content.status,
    "selected_epoch": content.epoch,
    "seconds": content.number,
    "device": _shared_text,
    "versions": content.versions,
    "finished": content.number,
}
"""The checks of a run's short columns."""

ReadRecord = Callable[[], dict[str, Any]]
"""A function that reads the record of a row's bank."""


def _rows(key: tuple[str, ...], record: ReadRecord) -> int:
    """The rows of the split of an evaluation."""
    return record()["rows"].get(key[2], 0)


LONG: dict[str, Callable[[Any, tuple[str, ...], ReadRecord], Any]] = {
    "labels": lambda value, key, record: decoded_rows(value, record()),
    "curves": lambda value, key, record: content.curves(value),
    "traces": lambda value, key, record: content.traces(value, record()),
    "per_class": lambda value, key, record: content.per_class(value, record()),
    "correct": lambda value, key, record: content.correct(value, record(), key[2]),
    "details": lambda value, key, record: content.details(value, record(), _rows(key, record)),
    "classifier": lambda value, key, record: content.classifier(value, record()),
}
"""The decoders of the long columns, `stage2.results.schema.HEAVY`."""

PROBE: dict[str, Callable[[Any], Any]] = {
    "bank": content.digits,
    "probe": content.digits,
    "settings": content.parameters,
    "fit": content.fit,
    "device": content.text,
    "versions": content.versions,
    "finished": content.number,
}
"""The checks of a probe's short columns."""
