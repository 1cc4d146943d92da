"""Writing what belongs to the views of a bank beside features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from featbank import errors
from featbank.bank import checks, schema
from featbank.bank.models import PLACE


class ModelWriter(ABC):
    """Classifiers, text and statistics of views; part of `featbank.bank.BankWriter`.

    Parameters
    ----------
    path
        The bank, for messages.
    num_classes, dim
        K, and D of views whose own is not known yet.
    """

    _file: h5py.File

    def __init__(self, path: Path, num_classes: int, dim: int) -> None:
        self.path, self.num_classes, self.dim = path, num_classes, dim
        self._of_row: dict[str, tuple[int, ...]] = {}  # (D,) or (T, D) by view
        self._modelled: list[tuple[str, str]] = []  # (classifier, text, …; view)
        self._widths: dict[str, int] = {}  # D of classifiers and text, by their names in messages

    def classifier(self, view: str, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        """Store the stage-1 classifier of a view: `weight` [K, D] and `bias` [K], by default 0."""
        name = f"classifier/{view}"
        bias = np.zeros(self.num_classes, np.float32) if bias is None else bias
        shape = (self.num_classes, self._width(view, np.asarray(weight)))
        self._put_model(f"{name}/weight", weight, shape)
        self._put_model(f"{name}/bias", bias, (self.num_classes,))
        self._modelled.append(("classifier", view))
        self._widths[name] = shape[-1]

    def text(self, view: str, features: np.ndarray, logit_scale: float) -> None:
        """Store text embeddings of the classes in the space of a view.

        Parameters
        ----------
        view
            A view of the bank; those of ``instance`` serve every view of the same D.
        features
            [K, D], or [P, K, D] of P prompts for each class; of any length but 0.
        logit_scale
            The factor > 0 of the cosines of text and features.
        """
        name, features = f"text/{view}", np.asarray(features)
        features = features[None] if features.ndim == 2 else features
        prompts = max(1, len(features)) if features.ndim else 1
        shape = (prompts, self.num_classes, self._width(view, features))
        stored = checks.as_text(features, f"{name}/feature", shape)
        if not 0 < logit_scale < math.inf:
            raise errors.DataError(
                f"{name}: the logit scale is {logit_scale:g}. It must be > 0; CLIP's is 100."
            )
        self._put_model(f"{name}/feature", stored, stored.shape)
        self._put(f"{name}/logit_scale", np.array([logit_scale], np.float64))
        self._modelled.append(("text", view))
        self._widths[name] = stored.shape[-1]
        self._require_schema(schema.FOUNDATION)

    def default_scale(self, view: str, scale: str) -> None:
        """Record the default of recipes' `feature_scale` for a view: ``unit``, ``standardise``,
        ``none`` or a number > 0 as text. Features are stored as they are given."""
        if not schema.is_scale(scale):
            raise errors.ConfigError(
                f"The scale of view {view!r} is {scale!r}. Give {', '.join(schema.SCALES)} or a "
                "number > 0."
            )
        self._put_new(f"scale/{view}/default", checks.as_bytes([scale], f"scale/{view}/default"))
        self._modelled.append(("scale", view))
        self._require_schema(schema.FOUNDATION)

    def batchnorm(
        self,
        view: str,
        statistics: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        ordered: bool = False,
    ) -> None:
        """Store a view's BatchNorm statistics: (running mean, running variance) by layer name.

        If they are `ordered`, the order of the mapping is that of the network, and is stored too.
        """
        for place, (layer, (mean, variance)) in enumerate(statistics.items()):
            if not schema.is_name(layer):
                raise errors.ConfigError(f"Layer name {layer!r} is not usable in a bank.")
            shape = (np.size(mean),)
            self._put_model(f"batchnorm/{view}/{layer}/mean", mean, shape)
            self._put_model(f"batchnorm/{view}/{layer}/variance", variance, shape)
            if ordered:
                self._file[f"batchnorm/{view}/{layer}/mean"].attrs[PLACE] = np.int64(place)
        self._modelled.append(("batchnorm", view))

    def expert_weight(self, view: str, weight: float) -> None:
        """Store ε > 0 of the expert that a view belongs to, for averages over views."""
        if not 0 < weight < math.inf:
            raise errors.DataError(
                f"The expert of view {view!r} has the weight {weight:g}. It must be > 0."
            )
        self._put(f"experts/{view}/weight", np.array([weight], np.float64))
        self._modelled.append(("weight", view))
        self._require_schema(schema.EXPERTS)

    @abstractmethod
    def _put(self, name: str, array: np.ndarray) -> None:
        """Store a dataset."""

    @abstractmethod
    def _put_new(self, name: str, array: np.ndarray) -> None:
        """Store a dataset, unless it is there."""

    @abstractmethod
    def _require_schema(self, least: int) -> None:
        """Raise the schema of the bank to one that has what was stored."""

    def _put_model(self, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        self._put_new(name, checks.as_float32(array, name, shape))

    def _width(self, view: str, array: np.ndarray) -> int:
        """D of a view; where only other views are known, that of `array` if it is one of theirs."""
        if view in self._of_row:
            return self._of_row[view][-1]
        widths = {shape[-1] for shape in self._of_row.values()}
        return array.shape[-1] if array.ndim and array.shape[-1] in widths else self.dim

    def _check_models(self, views: set[str]) -> None:
        """Raise unless models belong to views, and have the D of these."""
        for kind, view in self._modelled:
            checks.check_model_view(kind, view, views, f"{self.path}: ")
        widths = {shape[-1] for shape in self._of_row.values()}
        for name, width in self._widths.items():
            view = name.partition("/")[2]
            own = {self._of_row[view][-1]} if view in views else widths
            if width not in own:
                raise errors.DataError(
                    f"{self.path}: {name} has D = {width}, its features have {min(own)}. Check "
                    "that it belongs to these features."
                )
