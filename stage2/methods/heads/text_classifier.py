"""The classifier that text embeddings make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TextClassifier:
    """The classifier that text embeddings of the class names make, for features of one length c.

    Attributes
    ----------
    weight
        [K, D] float32, (s/c)·t_k: weight·x are the logits s·⟨t_k, x/‖x‖⟩ of features x, ‖x‖ = c.
        t_k is the mean over the prompts of a class, each of length 1, at length 1.
    logit_scale
        s > 0.
    """

    weight: Tensor
    logit_scale: float
