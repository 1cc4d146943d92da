"""Accuracy of a stage-1 model on a split, overall and by class group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from featbank.bank import class_groups
from stage1.augment import normalise
from stage1.backbones import Backbone
from stage1.data.images import Images, Preprocessing, batches_of
from stage1.inference.options import BATCH


def plain_batches(
    images: Images, preprocessing: Preprocessing, device: torch.device
) -> Iterator[torch.Tensor]:
    """All images as they are, normalised, [B, C, H, W] float32 on the device, in order."""
    for batch in batches_of(images, torch.arange(len(images)).split(BATCH), device):
        yield normalise(batch, preprocessing)


@torch.inference_mode()
def predict(model: Backbone, images: Images, *, preprocessing: Preprocessing) -> np.ndarray:
    """Predicted classes [N] int64 of images [N, C, H, W] uint8, the model in eval mode."""
    model.eval()
    batches = plain_batches(images, preprocessing, model.device)
    predictions = [model(batch).argmax(1) for batch in batches]
    return torch.cat(predictions).cpu().numpy()


def accuracies(
    predictions: np.ndarray, labels: np.ndarray, *, train_counts: np.ndarray
) -> dict[str, float | None]:
    """Accuracies in percent: METHODS.md §8.

    Parameters
    ----------
    predictions, labels
        [N] int64.
    train_counts
        [K] int64, which define the groups of classes.

    Returns
    -------
    ``top1`` over the images; ``macro``, ``many``, ``medium``, ``few`` as means over the classes
    that occur in `labels`, None where there is none.
    """
    K = len(train_counts)
    total = np.bincount(labels, minlength=K)
    right = np.bincount(labels[predictions == labels], minlength=K)
    occurs = total > 0
    per_class = np.divide(right, total, out=np.zeros(K), where=occurs)
    masks = {"macro": np.ones(K, bool), **class_groups(train_counts)}
    means = {
        name: 100 * float(per_class[mask & occurs].mean()) if (mask & occurs).any() else None
        for name, mask in masks.items()
    }
    return {"top1": 100 * float(right.sum() / total.sum()), **means}
