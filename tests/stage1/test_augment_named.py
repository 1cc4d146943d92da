"""The named augmentations, against torchvision on one image at a time."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, v2
from torchvision.transforms.v2 import functional as TF

from featbank.errors import ConfigError
from stage1.augment import (
    AUGMENTATIONS,
    augment,
    colour,
    geometry,
    named,
    normalise,
    pad_crop_flip,
    policy,
)
from stage1.data.images import Preprocessing
from stage1.extraction.extract import extract
from stage1.training.checkpoint import load_checkpoint, save_checkpoint
from stage1.training.settings import default_settings
from stage1.training.train import train

PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, pad=4, flip=True)
"""Normalisation leaves the grey levels as they are."""


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int, channels: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Smooth images with noise, of differing contrast: [count, channels, H, W] uint8."""
    generator = _generator(count)
    coarse = 255 * torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    noise = 40 * torch.rand(count, channels, *size, generator=generator)
    contrast = 0.2 + 0.8 * torch.rand(count, 1, 1, 1, generator=generator)
    return ((smooth + noise) * contrast).clamp(0, 255).to(torch.uint8)


def _of(name: str, channels: int = 3, **changes: Any) -> Preprocessing:
    few = {"mean": PLAIN.mean[:channels], "std": PLAIN.std[:channels]}
    return dataclasses.replace(PLAIN, augmentation=name, **few, **changes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_keeps_the_contract(name: str, channels: int) -> None:
    """Reference: itself. Seeded, finite, in range; images stay, and equal ones get unlike views."""
    images = _images(1, channels).expand(32, -1, -1, -1).contiguous()
    given, pre = images.clone(), _of(name, channels)
    made, again = (augment(images, pre, generator=_generator(3)) for _ in range(2))
    assert made.equal(again)
    assert images.equal(given)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert 0 <= made.min() <= made.max() <= 255.01
    if name != "none":
        assert len(made.flatten(1).unique(dim=0)) > 25
        assert not made.equal(augment(images, pre, generator=_generator(4)))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_are_not_mirrored_where_the_data_set_forbids(name: str) -> None:
    """Reference: a ramp that rises to the right, which only a mirror turns to fall.

    Shears, rotations and holes leave its trend; inversions do not, and are undone by the sign of
    a second, vertical ramp.
    """
    ramp = torch.arange(32.0)
    image = 2 * ramp[None, :] + 5 * ramp[:, None]
    images = image.to(torch.uint8).expand(200, 3, 32, 32)
    made = augment(images, _of(name, flip=False, pad=0), generator=_generator())
    grey = made.mean(1)
    right = grey[:, :, 24:].mean((1, 2)) - grey[:, :, :8].mean((1, 2))
    down = grey[:, 24:].mean((1, 2)) - grey[:, :8].mean((1, 2))
    trend = (right * down.sign() > 0).double().mean()
    assert trend > 0.7
    mirrored = augment(images, _of(name, pad=0), generator=_generator()).mean(1)
    right = mirrored[:, :, 24:].mean((1, 2)) - mirrored[:, :, :8].mean((1, 2))
    if name != "none":
        assert 0.3 < (right > 0).double().mean() < 0.7


def test_standard_is_pad_crop_flip_and_normalise() -> None:
    """Reference: the two steps, drawn from the same generator; and `none` is the last alone."""
    images, pre = _images(16), _of("standard")
    crops = pad_crop_flip(images, 4, flip=True, generator=_generator(1))
    assert augment(images, pre, generator=_generator(1)).equal(normalise(crops, pre))
    assert augment(images, _of("none"), generator=_generator()).equal(images.float())


def test_cutout_clears_clipped_squares_with_uniform_centres() -> None:
    """Reference: the standard crop outside a square drawn by loops; χ² of the centres."""
    images, pre = _images(8), Preprocessing((100.0,) * 3, (50.0,) * 3, 4, True, "cutout")
    made = augment(images, pre, generator=_generator(2))
    generator = _generator(2)
    standard = normalise(pad_crop_flip(images, 4, flip=True, generator=generator), pre)
    rows, columns = (torch.randint(32, (8, 1), generator=generator) for _ in range(2))
    for image, y, x in zip(
        standard, rows.flatten().tolist(), columns.flatten().tolist(), strict=True
    ):
        image[:, max(y - 8, 0) : y + 8, max(x - 8, 0) : x + 8] = 0
    assert made.equal(standard)

    holes = geometry.draw_holes(torch.zeros(6000, 1, 6, 10), 1, generator=_generator())
    assert (holes.flatten(1).sum(1) == 1).all()
    counts = holes.sum(0).double()  # 100 expected of each of 60
    assert ((counts - 100) ** 2 / 100).sum() < 108  # beyond in 1 of 10,000


def test_boxes_follow_torchvisions_random_resized_crop() -> None:
    """Reference: the formula on drawn boxes, and moments of torchvision's own draws."""
    from torchvision.transforms import RandomResizedCrop

    size, scale, ratio = (32, 40), (0.2, 1.0), (3 / 4, 4 / 3)
    made = geometry.draw_boxes(size, 4000, scale=scale, generator=_generator()).double()
    top, left, height, width = made.unbind(1)
    assert (made >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 40).all()
    assert 0.19 < (height * width / 1280).min() < 0.21
    assert 0.70 < (width / height).min() < (width / height).max() < 1.43
    torch.manual_seed(0)
    image = torch.zeros(1, *size)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)],
        dtype=torch.float64,
    )
    error = (made.var(0) / 4000 + theirs.var(0) / 4000).sqrt()
    assert ((made.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert (made.std(0) / theirs.std(0) - 1).abs().max() < 0.06


@pytest.mark.parametrize("size", [(8, 40), (40, 8)])
def test_boxes_that_never_fit_are_the_largest_in_the_middle(size: tuple[int, int]) -> None:
    """Reference: torchvision's fall-back, which draws nothing."""
    from torchvision.transforms import RandomResizedCrop

    made = geometry.draw_boxes(size, 3, scale=(1.0, 1.0), generator=_generator())
    theirs = RandomResizedCrop.get_params(torch.zeros(1, *size), (1.0, 1.0), (3 / 4, 4 / 3))
    assert made.tolist() == [list(theirs)] * 3


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_crop_resize_is_torchvisions(size: tuple[int, int]) -> None:
    """Reference: torchvision's resized_crop and hflip of each image, unrounded; levels of 255."""
    images = _images(40, size=size)
    boxes = geometry.draw_boxes(size, 40, scale=(0.08, 1.0), generator=_generator(1))
    mirrored = torch.rand(40, generator=_generator(2)) < 0.5
    made = geometry.crop_resize(images, boxes, mirrored)
    for image, box, mirror, got in zip(images, boxes.tolist(), mirrored, made, strict=True):
        expected = TF.resized_crop(image.float(), *box, size=list(size), antialias=True)
        expected = TF.horizontal_flip(expected) if mirror else expected
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)
        rounded = TF.resized_crop(image, *box, size=list(size), antialias=True).float()
        rounded = TF.horizontal_flip(rounded) if mirror else rounded
        assert (got - rounded).abs().max() < 1.002


_ADJUST = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
}


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_in_the_order_drawn(channels: int) -> None:
    """Reference: torchvision's adjustments of each image as floats, one after the other."""
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    images = _images(60, channels).float()
    images[:5] = images[:5].mean(1, keepdim=True)  # grey pixels have no hue
    factors, order = colour.draw_jitter(strengths, 60, generator=_generator(1))
    made = colour.jitter(images, tuple(strengths), factors, order)
    for image, by, steps, got in zip(images, factors.tolist(), order.tolist(), made, strict=True):
        expected = image / 255
        for step in steps:
            name = [*strengths][step]
            expected = _ADJUST[name](expected, by[step])
        torch.testing.assert_close(got, 255 * expected, rtol=0, atol=0.02)


def test_jitter_draws_uniform_factors_and_orders() -> None:
    """Reference: bounds and deviations s/√3 of uniform laws, 1/6 for each of 3! orders."""
    strengths = {"brightness": 0.4, "saturation": 0.2, "hue": 0.1}
    factors, order = colour.draw_jitter(strengths, 6000, generator=_generator())
    spread = torch.tensor([*strengths.values()])
    deviation = factors - torch.tensor([1.0, 1.0, 0.0])
    assert (deviation.abs() <= spread + 1e-6).all()
    torch.testing.assert_close(deviation.std(0), spread / math.sqrt(3), rtol=0.03, atol=0)
    counts = Counter(map(tuple, order.tolist()))
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 4 * math.sqrt(1000)


def test_blur_is_torchvisions() -> None:
    """Reference: torchvision's gaussian_blur of each image as floats."""
    images = _images(12, size=(20, 24)).float()
    sigmas = torch.linspace(0.1, 2.0, 12)
    for image, sigma, got in zip(images, sigmas, colour.blur(images, sigmas, 7), strict=True):
        expected = TF.gaussian_blur(image, [7, 7], [sigma.item()])
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)


def test_simclr_greys_a_fifth_and_jitters_most() -> None:
    """Reference: the probabilities 0.2 and 0.8·(1 − 0.2), four deviations wide."""
    pure = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    made = augment(pure.expand(2000, 3, 8, 8), _of("simclr"), generator=_generator())
    turned_grey = (made[:, 0] == made[:, 2]).flatten(1).all(1)
    assert abs(turned_grey.double().mean() - 0.2) < 0.036
    same = (made - pure).abs().flatten(1).amax(1) < 0.01
    assert abs(same.double().mean() - 0.2 * 0.8) < 0.033


def test_simclr_blurs_half_of_the_images_from_64_pixels_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the probability ½, four deviations wide; σ from 0.1 to 2."""
    given = []

    def marked(images: torch.Tensor, sigmas: torch.Tensor, size: int) -> torch.Tensor:
        given.append((sigmas, size))
        return torch.full_like(images, math.nan)

    monkeypatch.setattr(named, "blur", marked)
    pre = _of("simclr", 1)
    assert not augment(_images(9, 1, (63, 64)), pre, generator=_generator()).isnan().any()
    made = augment(_images(400, 1, (64, 66)), pre, generator=_generator())
    assert abs(made.isnan().flatten(1).all(1).double().mean() - 0.5) < 0.1
    ((sigmas, size),) = given
    assert size == 7
    assert 0.1 <= sigmas.min() < 0.15
    assert 1.95 < sigmas.max() <= 2


@pytest.mark.parametrize(("name", "signed"), [("CIFAR10", "TranslateY"), ("IMAGENET", "Rotate")])
def test_sub_policies_are_drawn_as_torchvision_draws_them(name: str, signed: str) -> None:
    """Reference: probabilities of its table, each sub-policy 1/25, signs ½."""
    drawn = policy.draw_policy(25_000, (32, 32), policy=name, generator=_generator())
    table = AutoAugment(AutoAugmentPolicy[name]).policies
    expected: Counter[str] = Counter()
    for pair in table:
        for operation, probability, _ in pair:
            expected[operation] += 1000 * probability
    made = Counter(operation for choice in drawn for operation, _ in choice)
    for operation, count in expected.items():
        assert abs(made[operation] - count) < 5 * math.sqrt(count), operation
    signs = [m > 0 for choice in drawn for step, m in choice if step == signed]
    assert abs(np.mean(signs) - 0.5) < 0.03
    assert all(len(choice) <= 2 for choice in drawn)


def _shear(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return TF.affine(image, 0.0, [0, 0], 1.0, degrees, center=[0, 0])


_REFERENCE: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "ShearX": lambda image, m: _shear(image, m, 0.0),
    "ShearY": lambda image, m: _shear(image, 0.0, m),
    "TranslateX": lambda image, m: TF.affine(image, 0.0, [int(m), 0], 1.0, [0.0, 0.0]),
    "TranslateY": lambda image, m: TF.affine(image, 0.0, [0, int(m)], 1.0, [0.0, 0.0]),
    "Rotate": TF.rotate,
    "Brightness": lambda image, m: TF.adjust_brightness(image, 1 + m),
    "Color": lambda image, m: TF.adjust_saturation(image, 1 + m),
    "Contrast": lambda image, m: TF.adjust_contrast(image, 1 + m),
    "Sharpness": lambda image, m: TF.adjust_sharpness(image, 1 + m),
    "Posterize": lambda image, m: TF.posterize(image, int(m)),
    "Solarize": TF.solarize,
    "AutoContrast": lambda image, _: TF.autocontrast(image),
    "Equalize": lambda image, _: TF.equalize(image),
    "Invert": lambda image, _: TF.invert(image),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", policy.OPERATIONS)
def test_each_operation_is_torchvisions(name: str, channels: int) -> None:
    """Reference: torchvision's function on each image alone, at every level and sign.

    Equal; but where a shear puts a pixel half-way between two, either may be taken.
    """
    plain = name in ("AutoContrast", "Equalize", "Invert")
    signs = (-1, 1) if name in policy.SIGNED else (1, 1)
    magnitudes = [
        sign * policy.magnitude_of(name, None if plain else level, (32, 32))
        for level in range(10)
        for sign in signs
    ]
    images = _images(20, channels)
    made = policy.OPERATIONS[name](images, torch.tensor(magnitudes, dtype=torch.float64))
    assert made.dtype == torch.uint8
    for image, magnitude, got in zip(images, magnitudes, made, strict=True):
        apart = (got.int() - _REFERENCE[name](image, magnitude).int()).abs()
        apart_share = (apart > 0).double().mean()
        assert apart_share <= (0.02 if name.startswith("Shear") else 0), magnitude


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (24, 40)])
@pytest.mark.parametrize("name", policy.POLICIES)
def test_sub_policies_are_torchvisions(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: torchvision's AutoAugment of each image, its random numbers chosen by hand."""
    module = v2.AutoAugment(AutoAugmentPolicy[name])
    images, choices, expected = _images(100, 3, size), [], []
    for number, image in enumerate(images):
        which, positive = number % 25, number // 25 % 2 == 0
        pair = policy.POLICIES[name][which]
        uniform = []
        for operation, _, _ in pair:
            # The operation happens, and its sign.
            uniform += [0.0, float(positive)] if operation in policy.SIGNED else [0.0]
        numbers = iter(uniform)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, which=which: torch.tensor(which))
            patch.setattr(torch, "rand", lambda *_, numbers=numbers: torch.tensor(next(numbers)))
            expected.append(module(image))
        choices.append(
            [
                (step, (-1 if step in policy.SIGNED and not positive else 1) * magnitude)
                for step, _, level in pair
                for magnitude in [policy.magnitude_of(step, level, size)]
            ]
        )
    given = images.clone()
    made = policy.apply_policy(images, choices)
    assert images.equal(given)
    for choice, got, wanted in zip(choices, made, expected, strict=True):
        assert got.equal(wanted), choice


def test_training_hands_its_augmentation_to_extraction(tmp_path: Path) -> None:
    """Reference: the checkpoint's preprocessing; one without the field is a standard one."""
    settings = default_settings(
        "digits-lt", backbone="resnet8", epochs=1, augmentation="autoaugment", device="cpu"
    )
    path, checkpoint = load_checkpoint(train(settings, tmp_path / "run"))
    assert checkpoint.preprocessing.augmentation == "autoaugment"
    assert checkpoint.settings.augmentation == "autoaugment"
    extract(path, tmp_path / "bank.h5", augmentations=1, balanced_batches=1, device="cpu")
    document = torch.load(path, weights_only=True)
    del document["preprocessing"]["augmentation"], document["settings"]["augmentation"]
    torch.save(document, path)
    older = load_checkpoint(path)[1]
    assert older.preprocessing.augmentation == older.settings.augmentation == "standard"
    save_checkpoint(tmp_path / "again.pt", older)


def test_an_unknown_augmentation_is_named() -> None:
    """Reference: the sentence, with the names there are."""
    with pytest.raises(ConfigError, match=r"Unknown augmentation 'cutmix'\. Choose from: standard"):
        default_settings("digits-lt", augmentation="cutmix")
