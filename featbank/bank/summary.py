"""What there is to know of a bank without reading its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from featbank.bank.classes import GROUPS, class_counts
from featbank.bank.file import Bank


def summary(bank: Bank) -> dict[str, Any]:
    """Describe a bank in JSON values, complete: what `featbank info --json` prints."""
    return {
        "path": str(bank.path),
        "size": bank.path.stat().st_size,
        "schema": bank.schema,
        "fingerprint": bank.fingerprint,
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "dtype": bank.dtype,
        "splits": {split: _split(bank, split) for split in bank.splits},
        "views": {view: _view(bank, view) for view in bank.views},
        "train_counts": bank.train_counts.tolist(),
        "full_counts": bank.full_counts.tolist(),
        "groups": {
            name: {
                "rule": GROUPS[name],
                "classes": np.flatnonzero(mask).tolist(),
                "samples": int(bank.train_counts[mask].sum()),
            }
            for name, mask in bank.groups().items()
        },
        "class_names": bank.class_names,
        "provenance": bank.provenance,
    }


def _split(bank: Bank, split: str) -> dict[str, Any]:
    labels = bank.labels(split)
    counts = class_counts(labels, bank.num_classes)
    taken = bank.held_out(split)
    return {
        "rows": len(labels),
        "classes": int((counts > 0).sum()),
        "per_class": [int(counts.min()), int(counts.max())],
        "source": bank.source(split),
        "paths": f"{split}/path" in bank.datasets,
        "seen": int(bank.seen(split).sum()),
        "held_out": 0 if taken is None else int(taken.sum()),
    }


def _view(bank: Bank, view: str) -> dict[str, Any]:
    own = view in bank.classifiers
    return {
        "copies": {split: bank.copies(split, view) for split in bank.splits},
        "classifier": view if own else "instance" if "instance" in bank.classifiers else None,
        "batchnorm_layers": len(bank.batchnorm(view)),
    }


def history(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a bank was made, newest step first: (what, told) pairs for people.

    Knows what `featbank extract`, `import`, `merge` and `split` leave; of anything else, who made
    it.
    """
    steps: list[tuple[str, str]] = []
    step: object = provenance
    while isinstance(step, Mapping):
        steps += _step(step)
        parts = step.get("parts")
        parts = parts if isinstance(parts, list) and parts else [step.get("from")]
        step = None
        if isinstance(parts[0], Mapping):
            more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
            digest = str(parts[0].get("fingerprint"))[:12]
            steps.append(("from", f"{parts[0].get('path')} ({digest}…){more}"))
            step = parts[0].get("provenance")
    return steps


def _step(step: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [("made by", str(step.get("made_by", "unknown")))]
    chosen: list[str] = [
        k for k in ("val_per_class", "val_fraction", "seed", "shard", "shards") if k in step
    ]
    if chosen:
        told.append(("settings", _told({key: step[key] for key in chosen})))
    if "run" in step:
        digest = str(step.get("checkpoint_sha256"))[:12]
        told.append(("run", f"{step['run']}, checkpoint {digest}…"))
    if "weights" in step:
        digest = str(step.get("weights_sha256"))[:12]
        told.append(("weights", f"{step['weights']}, SHA-256 {digest}…"))
        names = [name for name in ("backbone", "normalisation", "augmentation") if name in step]
        told.append(("model", _told({name: step[name] for name in names})))
    stage1 = step.get("stage1")
    if isinstance(stage1, Mapping) and isinstance(stage1.get("settings"), Mapping):
        training = stage1["settings"]
        names = [name for name in ("backbone", "epochs", "mixup", "seed") if name in training]
        told.append(("training", _told({name: training[name] for name in names})))
    for what in ("dataset", "augmentations"):
        if isinstance(step.get(what), Mapping):
            named_first = sorted(step[what].items(), key=lambda item: item[0] != "name")
            told.append((what, _told(dict(named_first))))
    views = step.get("views")
    for view, made in views.items() if isinstance(views, Mapping) else ():
        if isinstance(made, Mapping) and made:
            told.append((str(view), _told(made)))
    return told


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
