"""Checked content of the columns of a results file, which may come from anyone.

Every function takes a value as SQLite returns it and decodes it, or raises `Unexpected` with a
problem that completes a sentence after the column's name: ``is not JSON``.
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
from stage2.engine.details import DETAILS
from stage2.engine.metrics import METRICS
from stage2.features.folds import is_folds
from stage2.methods.recipe import settings_hash
from stage2.methods.recipe_settings import SEED
from stage2.results.classes import has_class_record

STATUSES = ("done", "diverged", "stopped")
EPOCHS = ("last", "selected")

LONGEST_JSON = 1 << 25
"""Most characters of JSON that are parsed."""

LONGEST_NAME = 1000
"""Most characters of a name."""

LARGEST = 1e39
"""Bound of every number of a run: all are of float32, or of its logarithm."""

FIRST_METRICS = frozenset(
    ["top1", "macro", "many", "medium", "few", "top5", "ece", "mce", "nll", "brier"]
)
"""The metrics of schema 1, which every file has; whatever came later may be absent."""

FIT = {"passes", "seconds", "gradient", "tolerance", "excess"}
"""The numbers of `stage2.features.descent.Fit`."""

_FORMER = {"f4": "f4 f8", "f8": "f4 f8"}
"""The types of arrays that some version wrote as another."""

_SCALARS = {str, float, int, bool, type(None)}
_HASH = re.compile(r"[0-9a-f]{64}")

Arrays = dict[str, np.ndarray]


class Unexpected(ValueError):
    """A column holds something that featbank never writes."""


def measurable(split: str) -> bool:
    """Whether results are measured on a split of this name: val, test, or the rows of folds."""
    return split in EVALUATED or is_folds(split)


def digits(value: Any) -> str:
    """Check a fingerprint or a recipe's hash: 64 hex digits."""
    if not _is_hash(value):
        raise Unexpected("is not 64 hex digits")
    return value


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def text(value: Any) -> str:
    """Check a printable text of one line."""
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME):
        raise Unexpected("is not a text of one line")
    return value


def status(value: Any) -> str:
    """Check how a run ended."""
    return one_of(value, STATUSES)


def one_of(value: Any, choices: Iterable[str]) -> str:
    """Check that a text is one of a few."""
    if value not in choices:
        raise Unexpected(f"is none of {', '.join(choices)}")
    return value


def seed(value: Any) -> int:
    """Check the seed of a recipe."""
    return _whole(value, 0, int(SEED.high or 0))


def epoch(value: Any) -> int | None:
    """Check the selected epoch; None without one."""
    return None if value is None else _whole(value, 0, 1 << 62)


def number(value: Any) -> float:
    """Check seconds, or a time."""
    if type(value) not in (float, int) or not 0 <= value <= LARGEST:
        raise Unexpected("is not a number ≥ 0")
    return value


def parameters(value: Any) -> dict[str, Any]:
    """Decode the settings of a recipe by name: texts, numbers, true, false and null."""
    return checked_parameters(_json_object(value), value)


def checked_parameters(settings: dict[str, Any], value: str) -> dict[str, Any]:
    """Check settings that were decoded from a text."""
    numbers = [setting for setting in settings.values() if type(setting) in (float, int)]
    if not set(map(type, settings.values())) <= _SCALARS or not _bounded(numbers):
        raise Unexpected("has a setting that is neither a text nor a number")
    if "\\" in value:  # only an escape can hide an unprintable character
        texts = [text for text in (*settings, *settings.values()) if isinstance(text, str)]
        if not all(map(str.isprintable, texts)):
            raise Unexpected("has a text that cannot be printed")
    return settings


@lru_cache(64)
def versions(value: Any) -> Mapping[str, str]:
    """Decode the versions of libraries by name."""
    libraries = _json_object(value)
    if not all(isinstance(version, str) for version in libraries.values()):
        raise Unexpected("has a version that is not a text")
    return libraries


def identity(recipe: str, id_: str, name: str, number: int, settings: Mapping[str, Any]) -> None:
    """Check that a run's hashes are those of its name, settings and seed."""
    hashes = {settings_hash(name, settings), settings_hash(name, {**settings, "seed": number})}
    if recipe not in hashes or id_ != f"{name}-{settings_hash(name, settings)[:8]}":
        raise Unexpected("is not that of its name, settings and seed")


def metrics(value: Any) -> dict[str, float | None]:
    """Decode the metrics of an evaluation by name, at least those of schema 1; None: no average."""
    values = _json_object(value)
    numbers = [number for number in values.values() if number is not None]
    if not set(map(type, numbers)) <= {float, int}:
        raise Unexpected("has a value that is not a number")
    if not values.keys() >= FIRST_METRICS:
        raise Unexpected(f"lacks {', '.join(sorted(FIRST_METRICS - values.keys()))}")
    if numbers and not (min(numbers) >= 0 and max(numbers) <= 100):  # else all are in range
        for name, number in values.items():
            percent = name in METRICS and METRICS[name].unit == "%"
            bound = 100 + 1e-6 if percent else LARGEST
            if number is not None and not -1e-6 <= number <= bound:
                raise Unexpected(f"has {name!a} {str(number)[:20]}")
    return values


def curves(value: Any) -> dict[str, np.ndarray]:
    """Decode curves by name, each [epochs] float64, NaN where one left the finite numbers."""
    by_name = _json_object(value)
    for name, values in by_name.items():
        if not (isinstance(values, list) and _numbers(values)):
            raise Unexpected(f"has a curve {name!a} that is not a list of numbers")
    return {name: np.array(values, float) for name, values in by_name.items()}


def about(value: Any) -> dict[str, Any]:
    """Decode the record of a bank, as `stage2.results.store.Store.add_bank` writes it."""
    record = _json_object(value)
    classes = record.get("num_classes")
    _require(_counts([classes, record.get("dim")]), "num_classes or dim")
    _require(isinstance(record.get("path"), str), "path")
    names, counts, rows = (record.get(key) for key in ("class_names", "train_counts", "rows"))
    _require("class_names" in record and (names is None or _texts(names, classes)), "class_names")
    _require(isinstance(counts, list) and len(counts) == classes, "train_counts")
    _require(_counts(counts), "train_counts")
    _require(isinstance(rows, dict) and "train" in rows and _counts([*rows.values()]), "rows")
    _require(_texts(record.get("views")), "views")
    _require(_texts(record.get("probed", [])), "probed")  # older files lack this and the rest
    _require(_texts(record.get("cosine", [])), "cosine")
    _require(_texts(record.get("scaled", [])), "scaled")
    scales = record.get("default_scales", {})
    _require(isinstance(scales, dict) and _texts([*scales.values()]), "default_scales")
    full = record.get("full_counts", counts)
    _require(isinstance(full, list) and len(full) == classes and _counts(full), "full_counts")
    _require(has_class_record(record), "class_groups")
    for key in ("seen", "classes", "untrained"):
        by_split = record.get(key, {})
        _require(isinstance(by_split, dict) and _counts([*by_split.values()]), key)
    _require(_counts([record.get("missing_in_val", 0)]), "missing_in_val")
    identities = record.get("identities", {})
    _require(isinstance(identities, dict) and all(map(_is_hash, identities.values())), "identities")
    for key in ("source_groups", "parts"):
        of = record.get(key, {})
        _require(isinstance(of, dict) and _counts([*of.values()]), key)
        _require(of.keys() <= record["rows"].keys(), key)
    label = record.get("label", "-")
    _require(isinstance(label, str) and label.isprintable(), "label")
    taken = record.get("val_from_test", [])
    _require(_counts(taken) and len(taken) in (0, 2), "val_from_test")
    return record


def per_class(value: Any, record: Mapping[str, Any]) -> np.ndarray:
    """Decode the accuracy of each class in percent, float64 [K]; NaN for a class without rows."""
    data, classes = _bytes(value), record["num_classes"]
    if len(data) != 8 * classes:
        raise Unexpected(f"has {len(data)} bytes instead of 8 for each of {classes} classes")
    values = np.frombuffer(data, "<f8")
    if not (np.isnan(values) | ((values >= -1e-6) & (values <= 100 + 1e-6))).all():
        raise Unexpected("has an accuracy that is not between 0 and 100 %")
    return values


def correct(value: Any, record: Mapping[str, Any], split: str) -> np.ndarray:
    """Decode which rows of a split were classified correctly, [N] bool, or how many of each part,
    [M] int32; `record` is that of the bank."""
    data, rows = _bytes(value), record["rows"].get(split, 0)
    if parts := record.get("parts", {}).get(split):
        if len(data) != 4 * parts:
            raise Unexpected(f"has {len(data)} bytes instead of 4 for each of {parts} parts")
        counts = np.frombuffer(data, "<i4")
        if counts.min() < 0:
            raise Unexpected("has right rows below 0")
        return counts
    if len(data) != -(-rows // 8):
        raise Unexpected(f"has {len(data)} bytes instead of a bit for each of {rows} rows")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[rows:].any():
        raise Unexpected(f"has bits beyond its {rows} rows")
    return bits[:rows].astype(bool)


def details(value: Any, record: Mapping[str, Any], rows: int) -> Arrays:
    """Decode the arrays of an evaluation of so many rows, by `stage2.engine.details.DETAILS`."""
    dtypes = {name: _FORMER.get(row.dtype, row.dtype) for name, row in DETAILS.items()}
    arrays, classes = stored_arrays(value, dtypes), record["num_classes"]
    for name, values in arrays.items():
        require_shape(name, values, DETAILS[name].expected_shape(values.shape, classes, rows))
        if name == "confusions":
            require_range(name, values[:, :2], classes)
        if DETAILS[name].counts_rows and (values < 0).any():
            raise Unexpected(f"has {name} below 0")
        if name == "losses":
            losses(values)
    return arrays


def losses(values: np.ndarray) -> np.ndarray:
    """Check losses of rows: numbers ≥ 0, NaN for rows that do not count."""
    if not (np.isnan(values) | (values >= 0) & (values < np.inf)).all():
        raise Unexpected("has losses that are not numbers ≥ 0")
    return values


def traces(value: Any, record: Mapping[str, Any]) -> Arrays:
    """Decode the arrays over the epochs of a run: ``beta`` [epochs, K] float32, or none."""
    arrays = stored_arrays(value, {"beta": "f4"})
    for name, values in arrays.items():
        require_shape(name, values, (max(1, len(values)), record["num_classes"]))
        if (~np.isnan(values) & ~((values >= 0) & (values <= 1))).any():
            raise Unexpected("has β that is not between 0 and 1")
    return arrays


def fit(value: Any) -> dict[str, float | None]:
    """Decode how the training of a probe went: numbers ≥ 0 by name, or None."""
    numbers = _json_object(value)
    if numbers.keys() != FIT:
        raise Unexpected(f"has not just {', '.join(sorted(FIT))}")
    for each in numbers.values():
        if each is not None:
            number(each)
    return numbers


def classifier(value: Any, record: Mapping[str, Any]) -> Arrays:
    """Decode a probe: ``weight`` [K, D] and ``bias`` [K] float32, finite."""
    shapes = {"weight": (record["num_classes"], record["dim"]), "bias": (record["num_classes"],)}
    arrays = stored_arrays(value, dict.fromkeys(shapes, "f4"))
    if arrays.keys() != shapes.keys():
        raise Unexpected("has not just weight and bias")
    for name, values in arrays.items():
        require_shape(name, values, shapes[name])
        if not np.isfinite(values).all():
            raise Unexpected(f"has {name} that are not finite")
    return arrays


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
        decoded = _DECODER.decode(value)
    except Unexpected:
        raise
    except (ValueError, RecursionError):
        raise Unexpected("is not JSON") from None
    if not isinstance(decoded, dict):
        raise Unexpected("is not a JSON object")
    return decoded


def stored_arrays(value: Any, dtypes: Mapping[str, str]) -> Arrays:
    """Decode a safetensors blob whose arrays have these names and types."""
    try:
        arrays = load(_bytes(value))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise Unexpected("is not safetensors") from None
    for name, values in arrays.items():
        if name not in dtypes:
            raise Unexpected(f"has an array {name!a} that no results have")
        if values.dtype.str[1:] not in dtypes[name].split():
            raise Unexpected(f"has {name} of the type {values.dtype}")
        if not values.ndim:
            raise Unexpected(f"has {name} without axes")
    return arrays


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise Unexpected("is not a blob")
    return value


def require_shape(name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check the shape of an array."""
    if values.shape != shape:
        raise Unexpected(f"has {name} of the shape {values.shape} instead of {shape}")


def require_range(name: str, values: np.ndarray, count: int, kind: str = "classes") -> None:
    """Check that an array has numbers from 0 to below `count`."""
    if values.size and not (values.min() >= 0 and values.max() < count):
        raise Unexpected(f"has {name} beyond the {count} {kind}")


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise Unexpected(f"is not an integer from {low} to {high}")
    return value


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 40 for n in values)


def _texts(values: Any, count: int | None = None) -> bool:
    are_texts = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return are_texts and (count is None or len(values) == count)


def _require(valid: bool, key: str) -> None:
    if not valid:
        raise Unexpected(f"has no {key} of a bank")


def _numbers(values: list[Any]) -> bool:
    """Whether a list has only numbers and None."""
    numbers = [value for value in values if value is not None]
    return set(map(type, numbers)) <= {float, int} and _bounded(numbers)


def _bounded(numbers: list[float]) -> bool:
    return not numbers or (min(numbers) >= -LARGEST and max(numbers) <= LARGEST)
