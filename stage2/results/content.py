"""Content of the columns of a results file; it is from anyone, and older ones have no digests.

Every function takes a value as SQLite hands it out and returns what it says, or raises `Unexpected`
with what is wrong in words that follow the column's name: ``is not JSON``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from featbank.bank.schema import EVALUATED
from stage2.engine.metrics import (
    BINS,
    CONFIDENCE_BINS,
    CONFUSIONS,
    DETAILS,
    METRICS,
    SHIFT_RATIOS,
)
from stage2.methods.recipe import SEED, settings_hash

STATUSES = ("done", "diverged", "stopped")
EPOCHS = ("last", "selected")

LONGEST_JSON = 1 << 25
"""Characters of JSON that are still parsed."""

LONGEST_NAME = 1000
"""Characters of a name."""

LARGEST = 1e39
"""What no number of a run exceeds: all are of float32, or of its logarithm."""

_EVER_SINCE = frozenset(name for name in METRICS if not name.startswith("ece_"))
_UNBOUNDED = ("nll", "brier")
_SCALARS = {str, float, int, bool, type(None)}
_HASH = re.compile(r"[0-9a-f]{64}")

Arrays = dict[str, np.ndarray]


class Unexpected(ValueError):
    """A column holds what no results file has."""


def digits(value: Any) -> str:
    """A fingerprint or a recipe's hash: 64 hex digits."""
    if not (isinstance(value, str) and _HASH.fullmatch(value)):
        raise Unexpected("is not 64 hex digits")
    return value


def text(value: Any) -> str:
    """A text of one line that can be printed."""
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME):
        raise Unexpected("is not a text of one line")
    return value


def status(value: Any) -> str:
    """How a run ended."""
    return one_of(value, STATUSES)


def one_of(value: Any, choices: Iterable[str]) -> str:
    """One of a few texts."""
    if value not in choices:
        raise Unexpected(f"is none of {', '.join(choices)}")
    return value


def seed(value: Any) -> int:
    """The seed of a recipe."""
    return _whole(value, 0, int(SEED.high or 0))


def epoch(value: Any) -> int | None:
    """The selected epoch, where there is one."""
    return None if value is None else _whole(value, 0, 1 << 62)


def number(value: Any) -> float:
    """Seconds, or a time."""
    if type(value) not in (float, int) or not 0 <= value <= LARGEST:
        raise Unexpected("is not a number ≥ 0")
    return value


def parameters(value: Any) -> dict[str, Any]:
    """The settings of a recipe: texts, numbers, true, false and null by name."""
    found = _json_object(value)
    numbers = [one for one in found.values() if type(one) in (float, int)]
    if not set(map(type, found.values())) <= _SCALARS or not _bounded(numbers):
        raise Unexpected("has a setting that is neither a text nor a number")
    if "\\" in value and not all(
        one.isprintable() for one in (*found, *found.values()) if isinstance(one, str)
    ):  # only an escape can hide what is not
        raise Unexpected("has a text that cannot be printed")
    return found


@lru_cache(64)
def versions(value: Any) -> Mapping[str, str]:
    """Versions of libraries by name."""
    found = _json_object(value)
    if not all(isinstance(version, str) for version in found.values()):
        raise Unexpected("has a version that is not a text")
    return found


def identity(recipe: str, id_: str, name: str, number: int, settings: Mapping[str, Any]) -> None:
    """Check that a run's hashes are those of its name, settings and seed."""
    own = {settings_hash(name, settings), settings_hash(name, {**settings, "seed": number})}
    if recipe not in own or id_ != f"{name}-{settings_hash(name, settings)[:8]}":
        raise Unexpected("is not that of its name, settings and seed")


def metrics(value: Any) -> dict[str, float | None]:
    """The metrics of an evaluation by name, at least those of schema 1; None for no average."""
    found = _json_object(value)
    known = [one for one in found.values() if one is not None]
    if not set(map(type, known)) <= {float, int}:
        raise Unexpected("has a value that is not a number")
    if not found.keys() >= _EVER_SINCE:
        raise Unexpected(f"lacks {', '.join(sorted(_EVER_SINCE - found.keys()))}")
    if known and not (min(known) >= 0 and max(known) <= 100):  # else nothing to look for
        for name, one in found.items():
            bound = LARGEST if name in _UNBOUNDED or name not in METRICS else 100 + 1e-6
            if one is not None and not -1e-6 <= one <= bound:
                raise Unexpected(f"has {name!a} {str(one)[:20]}")
    return found


def curves(value: Any) -> dict[str, np.ndarray]:
    """Curves by name, each [epochs] float64, NaN where one left the finite numbers."""
    found = _json_object(value)
    for name, values in found.items():
        if not (isinstance(values, list) and _numbers(values)):
            raise Unexpected(f"has a curve {name!a} that is not a list of numbers")
    return {name: np.array(values, float) for name, values in found.items()}


def about(value: Any) -> dict[str, Any]:
    """What is known of a bank, as `stage2.results.store.Store.add_bank` writes it."""
    found = _json_object(value)
    classes = found.get("num_classes")
    _require(_counts([classes, found.get("dim")]), "num_classes or dim")
    _require(isinstance(found.get("path"), str), "path")
    names, counts, rows = (found.get(key) for key in ("class_names", "train_counts", "rows"))
    _require("class_names" in found and (names is None or _texts(names, classes)), "class_names")
    _require(isinstance(counts, list) and len(counts) == classes, "train_counts")
    _require(_counts(counts), "train_counts")
    _require(isinstance(rows, dict) and "train" in rows and _counts([*rows.values()]), "rows")
    _require(_texts(found.get("views")), "views")
    _require(_texts(found.get("probed", [])), "probed")  # this and what follows older files lack
    full = found.get("full_counts", counts)
    _require(isinstance(full, list) and len(full) == classes and _counts(full), "full_counts")
    for key in ("seen", "classes", "untrained"):
        by_split = found.get(key, {})
        _require(isinstance(by_split, dict) and _counts([*by_split.values()]), key)
    _require(_counts([found.get("missing_in_val", 0)]), "missing_in_val")
    return found


def labels(value: Any, known: Mapping[str, Any]) -> Arrays:
    """Labels of val and test, int32 [N]; `known` is what `about` says of the bank."""
    found = _arrays(value, {split: "i4" for split in EVALUATED})
    expected = {split for split in EVALUATED if split in known["rows"]}
    if found.keys() != expected:
        raise Unexpected(f"has not just labels of {', '.join(sorted(expected)) or 'no split'}")
    for split, values in found.items():
        _shaped(split, values, (known["rows"][split],))
        _within(split, values, known["num_classes"])
    return found


def per_class(value: Any, known: Mapping[str, Any]) -> np.ndarray:
    """Accuracy of each class in percent, float64 [K]; NaN for a class without rows."""
    data, classes = _bytes(value), known["num_classes"]
    if len(data) != 8 * classes:
        raise Unexpected(f"has {len(data)} bytes instead of 8 for each of {classes} classes")
    values = np.frombuffer(data, "<f8")
    if not (np.isnan(values) | ((values >= -1e-6) & (values <= 100 + 1e-6))).all():
        raise Unexpected("has an accuracy that is not between 0 and 100 %")
    return values


def correct(value: Any, rows: int) -> np.ndarray:
    """Whether each row was classified correctly, [N] bool."""
    data = _bytes(value)
    if len(data) != -(-rows // 8):
        raise Unexpected(f"has {len(data)} bytes instead of a bit for each of {rows} rows")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[rows:].any():
        raise Unexpected(f"has bits beyond its {rows} rows")
    return bits[:rows].astype(bool)


def details(value: Any, known: Mapping[str, Any]) -> Arrays:
    """The arrays of an evaluation by the names of `stage2.engine.metrics.DETAILS`."""
    found = _arrays(value, {name: "f4 f8" for name in DETAILS} | _COUNTED)
    classes = known["num_classes"]
    for name, values in found.items():
        if name == "confusions":
            _shaped(name, values, (min(len(values), CONFUSIONS), 3))
            _within(name, values[:, :2], classes)
        elif name == "confidence":
            _shaped(name, values, (1 if len(values) == 1 else 3, 2, CONFIDENCE_BINS))
        elif name.startswith("reliability"):
            _shaped(name, values, (3, BINS))
        elif name.startswith("shift"):
            _shaped(name, values, (len(SHIFT_RATIOS),))
        else:
            _shaped(name, values, (classes,))
        if name in _COUNTED and (values < 0).any():
            raise Unexpected(f"has {name} below 0")
    return found


def traces(value: Any, known: Mapping[str, Any]) -> Arrays:
    """What a run kept of its epochs: ``beta`` [epochs, K] float32, or nothing."""
    found = _arrays(value, {"beta": "f4"})
    for name, values in found.items():
        _shaped(name, values, (max(1, len(values)), known["num_classes"]))
        if (~np.isnan(values) & ~((values >= 0) & (values <= 1))).any():
            raise Unexpected("has β that is not between 0 and 1")
    return found


_COUNTED = {"confidence": "i4", "confusions": "i4"}


def _refuse(constant: str) -> NoReturn:
    raise Unexpected(f"has the number {constant}")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise Unexpected("is not a text")
    if len(value) > LONGEST_JSON:
        raise Unexpected(f"has {len(value)} characters, more than the {LONGEST_JSON} of any run")
    try:
        value.encode()
        found = _DECODER.decode(value)
    except Unexpected:
        raise
    except (ValueError, RecursionError):
        raise Unexpected("is not JSON") from None
    if not isinstance(found, dict):
        raise Unexpected("is not a JSON object")
    return found


def _arrays(value: Any, dtypes: Mapping[str, str]) -> Arrays:
    """The arrays of a safetensors blob, of these names and types."""
    try:
        found = load(_bytes(value))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise Unexpected("is not safetensors") from None
    for name, values in found.items():
        if name not in dtypes:
            raise Unexpected(f"has an array {name!a} that no results have")
        if values.dtype.str[1:] not in dtypes[name].split():
            raise Unexpected(f"has {name} of the type {values.dtype}")
        if not values.ndim:
            raise Unexpected(f"has {name} without axes")
    return found


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise Unexpected("is not a blob")
    return value


def _shaped(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise Unexpected(f"has {name} of the shape {values.shape} instead of {shape}")


def _within(name: str, values: np.ndarray, classes: int) -> None:
    if values.size and not (values.min() >= 0 and values.max() < classes):
        raise Unexpected(f"has {name} beyond the {classes} classes")


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise Unexpected(f"is not an integer from {low} to {high}")
    return value


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 40 for n in values)


def _texts(values: Any, count: int | None = None) -> bool:
    right = isinstance(values, list) and all(isinstance(one, str) for one in values)
    return right and (count is None or len(values) == count)


def _require(right: bool, key: str) -> None:
    if not right:
        raise Unexpected(f"has no {key} of a bank")


def _numbers(values: list[Any]) -> bool:
    """Whether a list has only numbers and None."""
    known = [one for one in values if one is not None]
    return set(map(type, known)) <= {float, int} and _bounded(known)


def _bounded(numbers: list[float]) -> bool:
    return not numbers or (min(numbers) >= -LARGEST and max(numbers) <= LARGEST)
