"""Preprocessing of images in memory."""

from __future__ import annotations

import numpy as np
import torch

from stage1.augment import normalise
from stage1.data.images import preprocessing_for


def test_channel_moments_are_those_of_numpy() -> None:
    """Against NumPy's float64 mean and deviation; a flat channel has deviation 1."""
    images = np.random.default_rng(0).integers(0, 200, (7, 3, 5, 4), np.uint8)
    images[:, 2] = 9
    made = preprocessing_for(torch.from_numpy(images), pad=2, flip=True)
    np.testing.assert_allclose(made.mean, images.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(made.std[:2], images.std((0, 2, 3))[:2], rtol=1e-12)
    assert made.std[2] == 1
    normalised = normalise(torch.from_numpy(images), made)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-5
    assert normalised.std((0, 2, 3), correction=0)[:2].sub(1).abs().max() < 1e-5
