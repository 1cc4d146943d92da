"""Features made elsewhere: NumPy files become the arrays of a bank."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.bank import schema


@dataclass
class Arrays:
    """What an import understood, by split and view, ready for `featbank.write_bank`."""

    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    classifier: dict[str, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)

    def add(self, split: str, view: str, features: np.ndarray) -> None:
        """Add a view's features."""
        self.features.setdefault(split, {})[view] = features

    def report(self) -> list[str]:
        """One line per split and view: what was understood."""
        lines = [
            f"{split}/{view}: {' × '.join(map(str, x.shape))} {x.dtype}, labels "
            f"{len(self.labels.get(split, ()))}"
            for split, views in self.features.items()
            for view, x in views.items()
        ]
        lines += [
            f"classifier/{view}: {w.shape[0]} × {w.shape[1]}"
            for view, (w, _) in self.classifier.items()
            if w.ndim == 2
        ]
        return lines


def read_array(place: str) -> np.ndarray:
    """Read ``file.npy``, ``file.npz`` with one array in it, or ``file.npz:key``.

    Raises
    ------
    DataError
        For a missing or unreadable file, a missing key, or a pickle.
    """
    path, key = Path(place), ""
    if not path.exists() and ":" in place:
        head, _, key = place.rpartition(":")
        path = Path(head)
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        if key:
            raise errors.DataError(f"{path} is a single array without key {key!r}. Drop it.")
        return loaded
    if not key and len(loaded) == 1:
        return next(iter(loaded.values()))
    if key not in loaded:
        asked = f"has no key {key!r}" if key else "has several arrays"
        raise errors.DataError(
            f"{path} {asked}. Write {path}:KEY with one of: {', '.join(loaded)}."
        )
    return loaded[key]


def read_npz(path: Path) -> Arrays:
    """Read a whole ``.npz`` whose keys say what they are.

    ``x_<split>`` or ``x_<split>_<view>`` are features of a split that has labels ``y_<split>``;
    ``w0`` and ``b0`` are the stage-1 classifier. So ``x_train_balanced`` is the view ``balanced``
    of ``train``, unless there is a ``y_train_balanced``. Other keys are an error, so that nothing
    is left out unnoticed.

    Raises
    ------
    DataError
    """
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        raise errors.DataError(f"{path} is a single array. Give it with --train {path} LABELS.")
    arrays = Arrays()
    labelled = [split for split in schema.SPLITS if f"y_{split}" in loaded]
    features = re.compile(rf"x_({'|'.join(sorted(labelled, key=len, reverse=True))})(?:_(.+))?")
    for key, array in loaded.items():
        if match := features.fullmatch(key):
            arrays.add(match[1], match[2] or "instance", array)
        elif key.startswith("y_") and key[2:] in schema.SPLITS:
            arrays.labels[key[2:]] = array
        elif key == "w0":
            arrays.classifier["instance"] = (array, loaded.get("b0"))
        elif key != "b0" or "w0" not in loaded:
            raise errors.DataError(
                f"{path}: key {key!r} is not understood. Name keys x_train, y_train, x_test, "
                "y_test, …, further views x_train_balanced, w0 and b0, or give arrays with --train."
            )
    return arrays


def read_class_names(path: Path) -> Sequence[str]:
    """Read one class name per line."""
    if not path.is_file():
        raise errors.DataError(f"{path}: no such file. Check the path.")
    return path.read_text(encoding="utf-8").splitlines()


def _load(path: Path) -> np.ndarray | Mapping[str, np.ndarray]:
    if not path.is_file():
        raise errors.DataError(f"{path}: no such file. Check the path.")
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise errors.DataError(
            f"{path} is not a readable .npy or .npz file of numbers ({reason}). Save it with "
            "numpy.save or numpy.savez."
        ) from None
