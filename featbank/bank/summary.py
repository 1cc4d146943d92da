"""Summary and history of a bank, without reading its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from featbank.bank.classes import class_counts
from featbank.bank.composed import Bank
from featbank.bank.maps import Maps
from featbank.bank.naming import label_of
from featbank.wording import number


def summary(bank: Bank) -> dict[str, Any]:
    """Describe a bank in JSON values, as `featbank info --json` prints them."""
    return {
        "path": str(bank.path),
        "label": label_of(bank.provenance),
        "size": bank.path.stat().st_size,
        "schema": bank.schema,
        "fingerprint": bank.fingerprint,
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "dtype": bank.dtype,
        "splits": {split: _split(bank, split) for split in bank.splits},
        "views": {view: _view(bank, view) for view in bank.views},
        "maps": {split: _maps(maps) for split, maps in bank.mapped.items()},
        "source_group_names": bank.source_group_names,
        "train_counts": bank.train_counts.tolist(),
        "full_counts": bank.full_counts.tolist(),
        "outside_counts": bank.outside_counts is not None,
        "background": bank.background,
        "groups": _groups(bank),
        "class_names": bank.class_names,
        "provenance": bank.provenance,
    }


def _maps(maps: Maps) -> dict[str, Any]:
    sides = np.concatenate([maps.sizes, np.zeros((0, 4), np.int64)])
    pixels, cells = ((sides[:, i] * sides[:, i + 1]).sum() for i in (0, 2))
    return {"maps": len(maps), "pixels": int(pixels), "cells": int(cells)}


def _groups(bank: Bank) -> dict[str, Any]:
    groups = bank.class_groups
    return {
        key: {
            "name": groups.shown[key],
            "rule": groups.stated[key],
            "classes": np.flatnonzero(mask).tolist(),
            "samples": int(bank.train_counts[mask].sum()),
        }
        for key, mask in groups.masks.items()
    }


def _split(bank: Bank, split: str) -> dict[str, Any]:
    labels = bank.labels(split)
    counts = class_counts(labels, bank.num_classes)
    groups = bank.source_groups(split)
    flags = {name: bank.flags(split, name) for name in ("held_out", "from_test")}
    return {
        "rows": len(labels),
        "classes": int((counts > 0).sum()),
        "per_class": [int(counts.min()), int(counts.max())],
        "source": bank.source(split),
        "paths": f"{split}/path" in bank.datasets,
        "cells": f"{split}/cell" in bank.datasets,
        "source_groups": None if groups is None else len(np.unique(groups)),
        "seen": int(bank.seen(split).sum()),
        **{name: 0 if flag is None else int(flag.sum()) for name, flag in flags.items()},
    }


def _view(bank: Bank, view: str) -> dict[str, Any]:
    holder = next((name for name in (view, "instance") if name in bank.classifiers), None)
    return {
        "copies": {split: bank.copies(split, view) for split in bank.splits},
        "tokens": bank.tokens(view),
        "dim": bank.dim_of(view),
        "classifier": None if bank.classifier(view) is None else holder,
        "batchnorm_layers": len(bank.batchnorm(view)),
        "text": _embeddings(bank, view),
        "norm": bank.norm(view),
        "default_scale": bank.default_scale(view),
        "expert_weight": bank.expert_weight(view),
    }


def _embeddings(bank: Bank, view: str) -> dict[str, Any] | None:
    text = bank.text(view)
    if text is None:
        return None
    return {"prompts": len(text.features), "logit_scale": text.logit_scale}


def history(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe how a bank was made, newest step first, as pairs of a title and a text.

    Knows the records of `featbank extract`, `import`, `merge` and `split`; of anything else, only
    who made it.
    """
    lines: list[tuple[str, str]] = []
    step: object = provenance
    while isinstance(step, Mapping):
        lines += _step(step)
        parts = step.get("parts")
        parts = parts if isinstance(parts, list) and parts else [step.get("from")]
        step = None
        if isinstance(parts[0], Mapping):
            more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
            origin = f"{parts[0].get('path')} ({_digest(parts[0], 'fingerprint')})"
            lines.append(("from", origin + more))
            step = parts[0].get("provenance")
    return lines


def _step(step: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = (
        "val_per_class",
        "val_fraction",
        "taken_from",
        "by_group",
        "seed",
        "shard",
        "shards",
    )
    lines = [("made by", str(step.get("made_by", "unknown"))), ("settings", _text(step, settings))]
    if "run" in step:
        checkpoint = _digest(step, "checkpoint_sha256")
        lines.append(("run", f"{step['run']}, checkpoint {checkpoint}"))
    if "weights" in step:
        lines.append(("weights", f"{step['weights']}, SHA-256 {_digest(step, 'weights_sha256')}"))
        lines.append(("model", _text(step, ("backbone", "normalisation", "augmentation"))))
    stage1 = step.get("stage1")
    training = stage1.get("settings") if isinstance(stage1, Mapping) else None
    lines.append(("training", _text(training, ("backbone", "epochs", "mixup", "seed"))))
    if isinstance(ignored := step.get("ignored"), Mapping):
        counts = [f"{number(n, 'row')} of {split}" for split, n in ignored.items()]
        told = ", ".join(counts) or "no row has it"
        labels = step.get("ignore")
        which = " and ".join(map(str, labels)) if isinstance(labels, list | tuple) else ""
        lines.append(("ignored", f"label {which}: {told}"))
    for title in ("dataset", "augmentations", "layers"):
        lines.append((title, _text(step.get(title))))
    views = step.get("views")
    for view, made in views.items() if isinstance(views, Mapping) else ():
        lines.append((str(view), _text(made)))
    return [(title, text) for title, text in lines if text]


def _digest(record: Mapping[str, Any], name: str) -> str:
    return f"{str(record.get(name))[:12]}…"


def _text(record: object, names: Iterable[str] = ()) -> str:
    """``epochs 200, seed 0``: values of a record, by default all; empty for anything else."""
    if not isinstance(record, Mapping):
        return ""
    every = sorted(record, key=lambda name: name != "name")  # the name comes first
    values = {name: record.get(name) for name in names or every}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
