"""The contents of a bank by view, beside features: what belongs to the model that made them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featbank.bank import schema
from featbank.bank.checked import CheckedFile

PLACE = "place"
"""The attribute of a layer's mean that is its place in the network, from 0."""


@dataclass(frozen=True)
class Text:
    """Embeddings of class names: `features` [P, K, D] float32 of P prompts for each class, and the
    `logit_scale` > 0 that their cosines with features are multiplied by."""

    features: np.ndarray
    logit_scale: float


class Models:
    """Classifiers, text and statistics of the views of a bank; part of `featbank.bank.Bank`."""

    _file: CheckedFile
    views: tuple[str, ...]
    dim: int

    def shape(self, split: str, view: str = "instance") -> tuple[int, ...]:
        """As of `featbank.bank.Bank.shape`."""
        raise NotImplementedError

    def tokens(self, view: str = "instance") -> int | None:
        """Tokens T of each row of a view; None for a view of plain rows."""
        _, _, *tokens, _ = self.shape("train", view)
        return tokens[0] if tokens else None

    def dim_of(self, view: str = "instance") -> int:
        """Feature size D of a view; of one made of others all numbers of a row, F."""
        return self.shape("train", view)[-1]

    def classifier(self, view: str = "instance") -> tuple[np.ndarray, np.ndarray] | None:
        """The stage-1 classifier of a view, weight [K, D] and bias [K] float32, if there is one.

        A view without one uses that of ``instance``, if D is the same: views differ in BatchNorm
        statistics, not in the classifier. Inner layers, ``layer11/cls``, use no other's.
        """
        weight = self._of_view("classifier", view, "weight")
        if weight is None:
            return None
        return self._file.read(weight), self._file.read(weight.removesuffix("weight") + "bias")

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Views that have a classifier of their own, ``instance`` even where it has no features."""
        return self._holders("classifier", "weight")

    def text(self, view: str = "instance") -> Text | None:
        """Text embeddings of the classes in the space of a view, if there are any.

        A view without its own uses those of ``instance``, if D is the same, but for inner layers.

        Raises
        ------
        Corrupt
            If an embedding is not finite or 0, or the scale is not > 0.
        """
        name = self._of_view("text", view, "feature")
        if name is None:
            return None
        features = self._file.read(name)
        lengths = np.square(features, dtype=np.float64).sum(axis=-1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise self._file.corrupt(f"{name} has embeddings that are 0 or not finite")
        return Text(features, self._positive(name.removesuffix("feature") + "logit_scale", "scale"))

    @property
    def texts(self) -> tuple[str, ...]:
        """Views that have text of their own, ``instance`` even where it has no features."""
        return self._holders("text", "feature")

    def default_scale(self, view: str = "instance") -> str | None:
        """The recorded default of `feature_scale` for a view: ``unit``, ``standardise``, ``none``
        or a number > 0 as text; None unless it is recorded."""
        name = f"scale/{view}/default"
        if name not in self._file.datasets:
            return None
        (text,) = self._file.texts(name)
        if not schema.is_scale(text):
            raise self._file.corrupt(f"{name} is {text[:40]!r}, which is no scale")
        return text

    def norm(self, view: str = "instance") -> float | None:
        """Root mean square norm of the training features of a view, over all copies and tokens.

        None unless it is recorded: banks do so for features that stage 1 was not trained on, and
        recipes scale these by default (`stage2.features.scale`).
        """
        name = f"scale/{view}/norm"
        if name not in self._file.datasets:
            return None
        value = float(self._file.read(name)[0])
        if not 0 <= value < math.inf:
            raise self._file.corrupt(f"{name} is {value}, which is no norm")
        return value

    def expert_weight(self, view: str) -> float:
        """ε > 0 of the expert that a view belongs to in averages over views [SLA eq. 19], 1 unless
        it is recorded."""
        name = f"experts/{view}/weight"
        return self._positive(name, "weight") if name in self._file.datasets else 1.0

    def batchnorm(self, view: str = "instance") -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """BatchNorm statistics of a view: (running mean, running variance) by layer name, in the
        order of the network where `is_ordered`, else in that of their names."""
        means = self._means(view)
        if self.is_ordered(view):
            means.sort(key=lambda name: self._file.number(self._file.datasets[name].attrs, PLACE))
        return {
            name.removeprefix(f"batchnorm/{view}/").removesuffix("/mean"): (
                self._file.read(name),
                self._file.read(name.removesuffix("mean") + "variance"),
            )
            for name in means
        }

    def is_ordered(self, view: str = "instance") -> bool:
        """Whether the bank records the order of a view's BatchNorm layers in the network."""
        return all(PLACE in self._file.datasets[name].attrs for name in self._means(view))

    def _means(self, view: str) -> list[str]:
        root = f"batchnorm/{view}/"
        names = self._file.datasets
        return [name for name in names if name.startswith(root) and name.endswith("/mean")]

    def _holders(self, kind: str, part: str) -> tuple[str, ...]:
        names = dict.fromkeys((*self.views, "instance"))
        return tuple(v for v in names if f"{kind}/{v}/{part}" in self._file.datasets)

    def _of_view(self, kind: str, view: str, part: str) -> str | None:
        """Name of the dataset [..., D] of a view, or of ``instance`` if D is the same."""
        holders = (view, "instance") if schema.borrows(view) else (view,)
        for name in (f"{kind}/{holder}/{part}" for holder in holders):
            stored = self._file.datasets.get(name)
            if stored is None:
                continue
            if view not in self.views or stored.shape[-1] == self.dim_of(view):
                return name
        return None

    def _positive(self, name: str, what: str) -> float:
        """The number > 0 in the dataset `name` [1]."""
        value = float(self._file.read(name)[0])
        if not 0 < value < math.inf:
            raise self._file.corrupt(f"{name} is {value}, which is no {what}")
        return value
