"""Report of an import on one screen, and its provenance."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from featbank.bank.agreement import NEAR_CHANCE, Agreement, agreement
from featbank.bank.checks import as_copies
from featbank.bank.classes import SEEN_VAL, class_counts, mostly_unused, other_bases
from featbank.bank.source_groups import shared_groups, sizes_text
from featbank.exchange.arrays import Arrays
from featbank.exchange.formats import locate
from featbank.exchange.scales import scale_hints
from featbank.files import file_digest
from featbank.wording import listed, number

HASHED_BYTES = 1 << 30
"""Larger source files are named in the provenance but not hashed."""


def report(arrays: Arrays) -> list[str]:
    """One line per array with its place, then classes, class sizes, classifier, notes and hints."""
    fits = agreements(arrays)
    rows = []
    for split, views in arrays.features.items():
        rows += [(f"{split}/{view}", _features_text(x)) for view, x in views.items()]
        rows.append((f"{split}/label", _labels_text(arrays.labels[split], arrays.num_classes)))
        if (groups := arrays.source_groups.get(split)) is not None:
            rows.append((f"{split}/source_group", sizes_text(groups)))
        if split in arrays.cells:
            rows.append((f"{split}/cell", "rows and columns of pixels"))
    for view, (weight, bias) in arrays.classifier.items():
        text = " × ".join(map(str, weight.shape)) + (", no bias" if bias is None else "")
        rows.append((f"classifier/{view}", f"{text}; {fits[view]}" if view in fits else text))
    zero_shot = zero_shots(arrays)
    for view in arrays.text:
        fit = f"; zero-shot {zero_shot[view]}" if view in zero_shot else ""
        rows.append((f"text/{view}", _text_text(arrays, view) + fit))
    for view, scale in arrays.default_scale.items():
        rows.append((f"scale/{view}", f"{scale}: the default of feature_scale, recorded alone"))
    others = [view for view in fits if view not in arrays.classifier]
    rows += [(f"  on {view}", str(fits[view])) for view in others]
    names = arrays.class_names if arrays.class_names is not None else ["numbers"]
    rows.append(("classes", f"K = {arrays.num_classes}: {listed(names, 5)}"))
    rows.append(("class sizes", _counts_text(arrays)))
    rows += _class_rows(arrays)
    rows.append(("stage 1", _seen_text(arrays)))
    rows += [("note", note) for note in arrays.notes]
    rows += [("hint", hint) for hint in hints(arrays)]
    rows += [
        ("hint", f"zero-shot on {view} is near chance: is text in label order, and of this model?")
        for view, fit in zero_shot.items()
        if fit.near_chance
    ]
    near_chance = [view for view, fit in fits.items() if fit.near_chance]
    rows += [("hint", f"the classifier on {view} is {NEAR_CHANCE}") for view in near_chance]
    width = max(len(title) for title, _ in rows)
    lines = []
    for title, text in rows:
        place = arrays.places.get(title) or arrays.places.get(f"{title}/weight")
        lines.append(f"{title:<{width}}  {text}" + (f"  ← {place}" if place else ""))
    return lines


def hints(arrays: Arrays) -> list[str]:
    """Oddities that may be right."""
    labels = [y for y in arrays.labels.values() if y.size]
    lines = []
    if labels and min(map(np.min, labels)) == 1:
        lines.append("no row has label 0; if the labels count from 1, add --label-base 1")
    if arrays.class_names is None:
        lines += other_bases(arrays.labels)
    lines += scale_hints(arrays)
    lines += shared_groups(arrays.source_groups, arrays.source_group_names)
    lines += [*_sparse(arrays), *_not_in_train(arrays), *_odd_names(arrays.class_names or ())]
    if "val" not in arrays.labels:
        lines.append(
            "no val, so nothing will be selected; if stage 1 was trained on train, "
            "`featbank split --val-from-test` makes one, else --val-per-class or --val-fraction; "
            "`featbank sweep --folds 5` then selects without one"
        )
    of_train = "val" in arrays.held_out and bool(arrays.classifier)
    if np.any(arrays.seen.get("val", of_train)):
        lines.append(SEEN_VAL)
    return lines


def agreements(arrays: Arrays) -> dict[str, Agreement]:
    """Accuracy of the classifier of each view on train, by default that of instance."""
    views = arrays.features["train"]
    stored = {v: arrays.classifier.get(v, arrays.classifier.get("instance")) for v in views}
    return _agreements(arrays, stored)


def zero_shots(arrays: Arrays) -> dict[str, Agreement]:
    """Accuracy of text on train, by view: the mean of unit prompts, whose argmax needs no scale."""
    weights = {}
    for view, (text, _) in arrays.text.items():
        mean = (text / np.linalg.norm(text, axis=-1, keepdims=True)).mean(axis=0)
        length = np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
        weights[view] = (mean / length, None)
    return _agreements(arrays, weights)


def _agreements(
    arrays: Arrays, classifiers: Mapping[str, tuple[np.ndarray, np.ndarray | None] | None]
) -> dict[str, Agreement]:
    fits = {}
    for view, x in arrays.features["train"].items():
        stored, copies = classifiers.get(view), as_copies(x, "train", view)
        if stored is None or copies.ndim > 3 or stored[0].shape[-1] != copies.shape[-1]:
            continue
        rows = copies[0]
        fit = agreement(
            lambda start, stop, rows=rows: rows[start:stop],  # type: ignore[misc]
            arrays.labels["train"],
            *stored,
            name=f"train/{view}",
        )
        if fit:
            fits[view] = fit
    return fits


def provenance(arrays: Arrays, **options: Any) -> dict[str, Any]:
    """Record of the place of every array, the options used, and the SHA-256 of the files."""
    files = sorted({locate(place)[0] for place in arrays.places.values()})
    small = [file for file in files if file.is_file() and file.stat().st_size <= HASHED_BYTES]
    return {
        "made_by": "featbank import",
        "sources": arrays.places,
        "sha256": {str(file): file_digest(file) for file in small},
        **options,
    }


def _sparse(arrays: Arrays) -> Iterator[str]:
    if arrays.numbered and mostly_unused(arrays.num_used, arrays.num_classes):
        yield (
            f"{arrays.num_used} of {arrays.num_classes:,} classes are used; if the labels are ids, "
            "add --renumber"
        )


def _not_in_train(arrays: Arrays) -> Iterator[str]:
    names, train = arrays.class_names, arrays.labels["train"]
    for split, labels in arrays.labels.items():
        if (new := np.setdiff1d(labels, train)).size:
            classes = new if names is None else [names[k] for k in new]
            yield f"{split} has classes without a row in train: {listed(classes, 5)}"


_MISSING = ("nan", "none", "null", "na", "n/a", "?")


def _odd_names(names: Sequence[str]) -> Iterator[str]:
    spellings: dict[str, str] = {}
    for name in names:
        if (other := spellings.setdefault(name.casefold(), name)) != name:
            yield f"classes {other!r} and {name!r} differ by case alone"
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        yield f"class names that come twice: {listed(repeated, 5)}"
    for name in names:
        if name.casefold() in _MISSING:
            yield f"a class is named {name!r}; if its rows have no label, drop them"
    if printed := [name for name in names if re.fullmatch("b'.*'|b\".*\"", name)]:
        yield f"class names are byte strings as Python prints them: {listed(printed, 5)}"


def _features_text(x: Any) -> str:
    count, rows, *tokens, dim = as_copies(x, "", "").shape
    copies = f"{count} copies of " if count > 1 else ""
    of_tokens = "".join(f" × {number(t, 'token')}" for t in tokens)
    return f"{copies}{rows}{of_tokens} × {dim} {x.dtype}"


def _text_text(arrays: Arrays, view: str) -> str:
    text, logit_scale = arrays.text[view]
    given = arrays.embeddings[view].given_scale is not None
    assumed = "" if given else ", that of CLIP (--logit-scale sets another)"
    if given and 2 < logit_scale < 6:
        assumed = f", which may be a logarithm: its exponential is {math.exp(logit_scale):.3g}"
    shape = " × ".join(map(str, text.shape[1:]))
    return f"{number(len(text), 'prompt')} of {shape}; logit scale {logit_scale:g}{assumed}"


def _labels_text(labels: np.ndarray, num_classes: int) -> str:
    if not labels.size:
        return "no rows"
    used = len(np.unique(labels))
    return f"{labels.min()} … {labels.max()}, {used} of {num_classes} classes occur"


def _class_rows(arrays: Arrays) -> Iterator[tuple[str, str]]:
    """Facts about the classes beside names and sizes."""
    if (outside := arrays.outside_counts) is not None:
        yield "class counts", f"{outside.max()} … {outside.min()}, of the data that rows are from"
    if arrays.background is not None:
        names = arrays.class_names
        name = arrays.background if names is None else names[arrays.background]
        yield "background", f"class {arrays.background}, {name}; in no group"
    if (groups := arrays.class_groups) is not None:
        sizes = [
            f"{name} {mask.sum()} ({rule})"
            for name, rule, mask in zip(
                groups.names, groups.rules, groups.masks.values(), strict=True
            )
        ]
        yield "class groups", ", ".join(sizes)


def _seen_text(arrays: Arrays) -> str:
    """The splits that stage 1 was trained on, as was said or else as is assumed."""
    if arrays.seen:
        splits = [split for split in arrays.labels if np.any(arrays.seen.get(split, False))]
        return f"trained on {' and '.join(splits) or 'none of these rows'}"
    if arrays.classifier:
        return "taken as trained on train, as there is a classifier; if not, add --seen none"
    also = ", which makes val unclean" if "val" in arrays.held_out else ""
    return (
        "taken as trained on other rows, as there is no classifier; if it was trained on train"
        f"{also}, add --seen train"
    )


def _counts_text(arrays: Arrays) -> str:
    counts = class_counts(arrays.labels["train"], arrays.num_classes)
    empty = np.flatnonzero(counts == 0)
    least = counts[counts > 0].min() if counts.any() else 0
    text = f"{counts.max(initial=0)} … {least} training rows"
    if least:
        text += f" (imbalance {counts.max() / least:.3g})"
    if empty.size:
        classes = number(empty.size, "class has", "classes have")
        text += f"; {classes} none: {listed(empty, 10)}"
    return text
