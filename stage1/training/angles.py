"""Angles of training images to the weights of their classes, for the loss `sla` [SLA eq. 9–12]."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stage1.backbones import Backbone


@torch.no_grad()
def class_cosines(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """cosθ between features [B, D] and the weight [K, D] of their classes, [B], no gradient.

    0 where either is 0. The bias of a linear classifier is ignored; for a cosine classifier the
    cosine is that of its logits.
    """
    x, w = features.to(weight.dtype), weight[labels]  # features may be bfloat16 of autocast
    return (normalize(x, dim=1) * normalize(w, dim=1)).sum(1).clamp_(-1, 1)


@torch.no_grad()
def best_cosines(
    model: Backbone, batches: Iterable[Tensor], labels: Tensor, num_classes: int
) -> Tensor:
    """cosθ*_k of the training image of class k with the largest logit z_k, by branch.

    Among images with equal logits, the largest cosine counts.

    Parameters
    ----------
    model
        Evaluated in eval mode; its mode is restored.
    batches
        Normalised images [B, C, H, W] on the model's device, N in all; each is needed once.
    labels
        [N] int64, in the order of the images.
    num_classes
        K.

    Returns
    -------
    [E, K] float32 on the model's device; 0 for a class without an image.
    """
    labels = labels.to(model.device)
    shape = len(model.branches), num_classes
    logit = torch.full(shape, -math.inf, device=model.device)
    cosine = logit.clone()
    weights = [weight for weight, _ in model.linear_classifiers()]
    training, done = model.training, 0
    model.eval()
    try:
        for images in batches:
            y = labels[done : done + len(images)]
            done += len(y)
            outputs = model.outputs(images)
            pairs = zip(outputs.features, outputs.logits, strict=True)
            for e, (features, z) in enumerate(pairs):
                z_y = z.gather(1, y[:, None]).squeeze(1).float()
                cosine_y = class_cosines(features, weights[e], y).float()
                largest = logit[e].scatter_reduce(0, y, z_y, "amax")
                # A logit larger than all before makes the old cosine void; an equal one does not.
                cosine[e].masked_fill_(largest > logit[e], -math.inf)
                candidates = cosine_y.masked_fill(z_y < largest[y], -math.inf)
                cosine[e].scatter_reduce_(0, y, candidates, "amax")
                logit[e] = largest
    finally:
        model.train(training)
    assert done == len(labels), f"{done} images for {len(labels)} labels"
    return cosine.masked_fill_(cosine == -math.inf, 0)
