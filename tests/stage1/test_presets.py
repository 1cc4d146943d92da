"""Published settings of stage 1."""

from __future__ import annotations

import pytest

from featbank import errors
from stage1.backbones import backbone_problem
from stage1.training.presets import PRESETS
from stage1.training.settings import TrainSettings, default_settings, learning_rate

ROWS = {
    # epochs, lr, warm-up, batch, weight decay, schedule, mixup α, backbone
    "mislas-cifar": (200, 0.1, 5, 128, 2e-4, "multistep", 1.0, "resnet32"),
    "sla-cifar": (200, 0.1, 5, 128, 2e-4, "multistep", 1.0, "resnet32"),
    "los-cifar100": (200, 0.01, 0, 64, 5e-3, "cosine", 0.0, "cifar-resnet34"),
    "crt-imagenet-lt": (90, 0.2, 0, 512, 5e-4, "cosine", 0.0, "resnet50"),
    "mislas-imagenet-lt": (180, 0.1, 0, 256, 5e-4, "cosine", 0.2, "resnet50"),
    "mislas-places-lt": (90, 0.1, 0, 256, 5e-4, "cosine", 0.2, "resnet152"),
    "mislas-inaturalist": (200, 0.1, 0, 256, 1e-4, "cosine", 0.2, "resnet50"),
}
"""METHODS.md §9, line by line; backbones where §9 has none by the numbers of §11."""


@pytest.mark.parametrize("name", ROWS)
def test_the_table(name: str) -> None:
    """Reference: METHODS.md §9; the data set's own defaults give way, and SGD is the usual one."""
    s = default_settings("digits-lt", preset=name)
    got = (s.epochs, s.lr, s.warmup, s.batch_size, s.weight_decay, s.schedule, s.mixup, s.backbone)
    assert got == ROWS[name]
    assert (s.momentum, s.nesterov, s.deferred_sampling) == (0.9, False, False)
    experts = (3, "sla", "standard+cutout+autoaugment")
    crop = {"mislas-inaturalist": "resized-flip"}.get(
        name, "standard" if "cifar" in name else "resized-crop"
    )
    single = (1, "ce", crop)
    assert (s.experts, s.loss, s.augmentation) == (experts if name == "sla-cifar" else single)
    assert set(PRESETS) == set(ROWS)
    assert backbone_problem(s.backbone) is None


def test_rates_of_the_cifar_preset() -> None:
    """Reference: METHODS.md §9, ×0.1 at 160 and 180 after five epochs of warm-up."""
    s = default_settings("cifar100-lt", preset="mislas-cifar")
    rates = [learning_rate(s, t) for t in (0, 5, 159, 160, 180)]
    assert rates == pytest.approx([0.02, 0.1, 0.1, 0.01, 0.001])


def test_what_is_given_by_hand_stands_over_a_preset() -> None:
    """Reference: the values given; a warm-up that is not stays within a tenth of the epochs."""
    s = default_settings("cifar10-lt", preset="mislas-cifar", epochs=20, lr=0.3, mixup=0.0)
    assert (s.epochs, s.lr, s.mixup, s.warmup) == (20, 0.3, 0.0, 2)
    assert s.batch_size == 128
    assert default_settings("cifar10-lt", preset="mislas-cifar", warmup=7).warmup == 7
    assert default_settings("cifar10-lt", preset="crt-imagenet-lt", warmup=3).warmup == 3


def test_a_preset_sets_fields_of_the_settings() -> None:
    """Reference: the fields of `TrainSettings`; all presets set the same, but for experts."""
    fields = set(TrainSettings.__dataclass_fields__)
    assert all(set(preset.settings) <= fields for preset in PRESETS.values())
    more = {"experts", "augmentation", "loss"}
    assert len({frozenset(preset.settings.keys() - more) for preset in PRESETS.values()}) == 1


def test_an_unknown_preset() -> None:
    """Reference: the sentence, with the nearest name."""
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("cifar10-lt", preset="mislas-cifar10")
    assert str(caught.value) == "Unknown preset 'mislas-cifar10'. Did you mean 'mislas-cifar'?"
