"""Batched augmentation."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

from stage1.augment import augment, mixup, normalise, pad_crop_flip
from stage1.data.images import Preprocessing


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_output_is_one_of_torchvisions_crops_and_all_occur() -> None:
    """Against torchvision's pad, crop and hflip at each of the 2·(2p+1)² choices."""
    pad, image = 2, torch.randint(1, 256, (3, 5, 6), generator=_generator(), dtype=torch.uint8)
    padded = TF.pad(image, [pad] * 4)
    crops = [TF.crop(padded, y, x, 5, 6) for y in range(5) for x in range(5)]
    choices = torch.stack([*crops, *map(TF.horizontal_flip, crops)])  # [50, 3, 5, 6]
    batch = image.expand(2000, -1, -1, -1)
    made = pad_crop_flip(batch, pad, flip=True, generator=_generator(1))
    assert made.dtype == torch.uint8
    same = (made[:, None] == choices).flatten(2).all(2)  # [2000, 50]
    assert (same.sum(1) == 1).all()
    counts = same.sum(0).double()  # 40 expected of each
    assert ((counts - 40) ** 2 / 40).sum() < 95  # χ² of 49 degrees: beyond 95 in 1 of 10,000


def test_no_pad_and_no_flip_leave_the_batch() -> None:
    """Against the input; images keep their own content and place."""
    batch = torch.randint(256, (9, 3, 4, 4), generator=_generator(), dtype=torch.uint8)
    assert pad_crop_flip(batch, 0, flip=False, generator=_generator()).equal(batch)
    flipped = pad_crop_flip(batch, 0, flip=True, generator=_generator())
    mirrored = (flipped != batch).flatten(1).any(1)
    assert 0 < mirrored.sum() < 9
    assert flipped[mirrored].equal(batch[mirrored].flip(3))


def test_augment_is_seeded_and_normalises_last() -> None:
    """The same generator state gives the same batch, so that black padding is −mean/std."""
    preprocessing = Preprocessing(mean=(10.0,), std=(4.0,), pad=3, flip=True)
    batch = torch.full((8, 1, 6, 6), 200, dtype=torch.uint8)
    first, again = (augment(batch, preprocessing, generator=_generator(5)) for _ in range(2))
    assert first.equal(again)
    crops = pad_crop_flip(batch, 3, flip=True, generator=_generator(5))
    assert first.equal(normalise(crops, preprocessing))
    assert first.min() == -2.5


def test_mixup_blends_images_with_their_partners() -> None:
    """Against λx_i + (1−λ)x_j in float64, x_j found through its label."""
    images = torch.rand(16, 3, 4, 4, generator=_generator())
    labels = torch.arange(16)
    mixed, partners, share = mixup(
        images, labels, 0.7, generator=_generator(2), weights=np.random.default_rng(0)
    )
    assert 0 <= share <= 1
    assert sorted(partners.tolist()) == labels.tolist()
    expected = share * images.double() + (1 - share) * images[partners].double()
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=1e-6)


def test_mixup_shares_follow_beta() -> None:
    """Against the mean ½ and the variance 1/(4(2α+1)) of Beta(α, α)."""
    images, labels, weights = torch.zeros(2, 1, 1, 1), torch.zeros(2), np.random.default_rng(0)
    shares = [
        mixup(images, labels, 0.5, generator=_generator(), weights=weights)[2] for _ in range(4000)
    ]
    assert abs(np.mean(shares) - 0.5) < 0.02
    assert abs(np.var(shares) - 0.125) < 0.006
