"""Reading a bank: everything is checked before anything is exposed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featbank import errors
from featbank.bank import schema
from featbank.bank.classes import class_groups


class Bank:
    """A bank opened for reading; a context manager.

    Parameters
    ----------
    path
        A file written by `featbank extract`, `featbank import` or `write_bank`.

    Attributes
    ----------
    splits, views
        Names of what is there; every view is in every split.
    num_classes, dim
        K and D.
    class_names, train_counts
        K names; training counts [K] int64.
    fingerprint
        64 hex digits that stand for the content.
    provenance
        How the bank was made.

    Raises
    ------
    NotABank, Incomplete, TooNew, Corrupt, Unsafe
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise errors.NotABank(f"{self.path}: no such file. Check the path.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise errors.NotABank(
                f"{self.path} is not a readable HDF5 file ({_first_line(error)}). "
                "Give a bank made by `featbank extract` or `featbank import`."
            ) from None
        try:
            self._read_head()
            self._read_tree()
        except errors.BankError:
            self.close()
            raise
        except (OSError, KeyError, RuntimeError, ValueError, UnicodeDecodeError) as error:
            self.close()
            raise self._corrupt(_first_line(error)) from None

    def load(
        self, split: str, view: str = "instance", *, copy: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a split: features [N, D] float32 and labels [N] int64.

        Parameters
        ----------
        split, view
            Names from `splits` and `views`.
        copy
            Which augmentation copy, 0…A−1.

        Raises
        ------
        ConfigError
            For a split, view or copy the bank does not have.
        Corrupt
            Where a checksum fails.
        """
        dataset = self._feature(split, view)
        if not 0 <= copy < dataset.shape[0]:
            raise errors.ConfigError(
                f"{self.path}: {split}/{view} has copies 0…{dataset.shape[0] - 1}, not {copy}."
            )
        features = np.empty(dataset.shape[1:], np.float32)
        try:
            if len(features):
                dataset.read_direct(features, np.s_[copy])
        except OSError as error:
            raise self._corrupt(f"{split}/{view}/feature: {_first_line(error)}") from None
        return features, self.labels(split)

    def labels(self, split: str) -> np.ndarray:
        """Labels [N] int64 of a split."""
        self._known("split", split, self.splits)
        return self._read(f"{split}/label")

    def index(self, split: str) -> np.ndarray:
        """Rows [N] int64 of a split in the source data."""
        self._known("split", split, self.splits)
        return self._read(f"{split}/index")

    def copies(self, split: str, view: str = "instance") -> int:
        """Number A of augmentation copies of a view."""
        return self._feature(split, view).shape[0]

    def dtype(self, split: str, view: str = "instance") -> str:
        """Stored type of a view's features."""
        return str(self._feature(split, view).dtype)

    def classifier(self, view: str = "instance") -> tuple[np.ndarray, np.ndarray] | None:
        """The stage-1 classifier of a view, weight [K, D] and bias [K] float32, if there is one.

        A view without its own has the ``instance`` view's: BatchNorm statistics change, the
        classifier does not.
        """
        for name in (view, "instance"):
            if f"classifier/{name}" in self._file:
                weight = self._read(f"classifier/{name}/weight")
                bias = self._read(f"classifier/{name}/bias")
                if weight.shape != (self.num_classes, self.dim) or bias.shape != weight.shape[:1]:
                    raise self._corrupt(f"classifier/{name} has a wrong shape")
                return weight, bias
        return None

    def batchnorm(self, view: str = "instance") -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """BatchNorm statistics of a view: (running mean, running variance) by layer name."""
        group = self._file.get(f"batchnorm/{view}")
        if group is None:
            return {}
        return {name: (layer["mean"][()], layer["variance"][()]) for name, layer in group.items()}

    def groups(self) -> dict[str, np.ndarray]:
        """Masks [K] of the class groups many / medium / few."""
        return class_groups(self.train_counts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read_head(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") != schema.FORMAT.encode():
            raise errors.NotABank(
                f"{self.path} is an HDF5 file, but not a bank. "
                "Bring features in with `featbank import`."
            )
        if int(attributes["schema"]) > schema.SCHEMA:
            raise errors.TooNew(
                f"{self.path} has schema {int(attributes['schema'])}, this version reads up to "
                f"{schema.SCHEMA}. Update featbank."
            )
        if int(attributes["complete"]) != 1:
            raise errors.Incomplete(
                f"{self.path} was not finished by the run that wrote it. Run that command again."
            )
        self.num_classes, self.dim = int(attributes["num_classes"]), int(attributes["dim"])
        self.fingerprint = bytes(attributes["fingerprint"]).decode()
        self.provenance: dict[str, Any] = json.loads(self._dataset("provenance")[()].tobytes())
        self.class_names = [name.decode() for name in self._dataset("classes/name")[()]]
        self.train_counts = self._dataset("classes/train_count")[()]
        if not len(self.class_names) == len(self.train_counts) == self.num_classes:
            raise self._corrupt("the class table does not have num_classes rows")

    def _read_tree(self) -> None:
        self.splits = tuple(s for s in schema.SPLITS if s in self._file)
        if "train" not in self.splits:
            raise self._corrupt("there is no train split")
        views = {split: self._views_of(self._file[split]) for split in self.splits}
        self.views = tuple(views["train"])
        if not self.views:
            raise self._corrupt("there are no features")
        for split in self.splits:
            rows = len(self._dataset(f"{split}/label"))
            if len(self._dataset(f"{split}/index")) != rows:
                raise self._corrupt(f"{split}/index and {split}/label disagree in length")
            if set(views[split]) != set(self.views):
                raise self._corrupt(f"{split} has the views {views[split]}, train {self.views}")
            for view in self.views:
                dataset = self._dataset(f"{split}/{view}/feature")
                if dataset.ndim != 3 or dataset.shape[1:] != (rows, self.dim):
                    raise self._corrupt(
                        f"{split}/{view}/feature has shape {list(dataset.shape)}, "
                        f"not [A, {rows}, {self.dim}]"
                    )

    def _views_of(self, group: h5py.Group) -> list[str]:
        names = []
        for name, item in group.items():
            if isinstance(item, h5py.Group):
                inner = [""] if "feature" in item else [f"/{n}" for n in item]
                names += [name + suffix for suffix in inner]
        return sorted(names, key=lambda view: (view != "instance", view))

    def _dataset(self, name: str) -> h5py.Dataset:
        """A dataset reached through hard links only, stored in this file only."""
        place = self._file
        for part in name.split("/"):
            link = place.get(part, getlink=True)
            if link is None:
                raise self._corrupt(f"{name} is missing")
            if not isinstance(link, h5py.HardLink):
                raise errors.Unsafe(f"{self.path}: {name} is a link out of its place. Refused.")
            place = place[part]
        if not isinstance(place, h5py.Dataset):
            raise self._corrupt(f"{name} is not a dataset")
        if place.external or place.is_virtual:
            raise errors.Unsafe(f"{self.path}: {name} is stored in another file. Refused.")
        return place

    def _read(self, name: str) -> np.ndarray:
        try:
            return self._dataset(name)[()]
        except OSError as error:
            raise self._corrupt(f"{name}: {_first_line(error)}") from None

    def _feature(self, split: str, view: str) -> h5py.Dataset:
        self._known("split", split, self.splits)
        self._known("view", view, self.views)
        return self._dataset(f"{split}/{view}/feature")

    def _known(self, what: str, name: str, choices: tuple[str, ...]) -> None:
        if name not in choices:
            raise errors.ConfigError(
                f"{self.path} has no {what} {name!r}. It has: {', '.join(choices)}."
            )

    def _corrupt(self, what: str) -> errors.Corrupt:
        return errors.Corrupt(f"{self.path} is damaged: {what}. Restore or rebuild it.")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
