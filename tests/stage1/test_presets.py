"""Published settings of stage 1."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from featbank import errors
from featbank.cli.methods import methods
from featbank.cli.train import _with_loss
from stage1.augment import AUGMENTATIONS
from stage1.augment.named import names_of
from stage1.backbones import backbone_problem
from stage1.training.presets import PRESETS
from stage1.training.settings import (
    TrainSettings,
    default_settings,
    deferral_epoch,
    learning_rate,
)

CROP, FLIP = "resized-crop", "resized-flip"
SLA_CIFAR = "standard+simclr-blur+autoaugment-cifar"
SLA_IMAGENET = f"{CROP}+simclr+autoaugment-imagenet"

ROWS: dict[str, tuple[Any, ...]] = {
    # epochs, lr, warm-up, batch, weight decay, schedule, mixup α, backbone, augmentation, loss
    "mislas-cifar": (200, 0.1, 5, 128, 2e-4, "multistep", 1.0, "resnet32", "standard", "ce"),
    "sla-cifar": (200, 0.1, 0, 128, 5e-4, "multistep", 0.2, "resnet32", SLA_CIFAR, "sla"),
    "los-cifar100": (200, 0.01, 0, 64, 5e-3, "cosine", 0.0, "cifar-resnet34", "standard", "ce"),
    "glag-cifar": (200, 0.1, 0, 128, 5e-4, "cosine", 0.0, "resnet32", "autoaugment", "gradual"),
    "crt-imagenet-lt": (90, 0.2, 0, 512, 5e-4, "cosine", 0.0, "resnet50", CROP, "ce"),
    "glag-imagenet-lt": (200, 0.2, 0, 512, 5e-4, "cosine", 0.0, "resnet50", CROP, "gradual"),
    "sla-imagenet-lt": (180, 0.025, 0, 128, 5e-4, "cosine", 0.1, "resnet50", SLA_IMAGENET, "sla"),
    "mislas-imagenet-lt": (180, 0.1, 0, 256, 5e-4, "cosine", 0.2, "resnet50", CROP, "ce"),
    "mislas-places-lt": (90, 0.1, 0, 256, 5e-4, "cosine", 0.2, "resnet152", CROP, "ce"),
    "mislas-inaturalist": (200, 0.1, 0, 256, 1e-4, "cosine", 0.2, "resnet50", FLIP, "ce"),
    "glag-inaturalist": (200, 0.2, 0, 512, 1e-4, "cosine", 0.0, "resnet50", FLIP, "gradual"),
}
"""METHODS.md §9, line by line; backbones where §9 has none by the numbers of §11. The last row, of
which the papers give loss and epochs, is cRT's release beside these."""

LIKE_SLA = {"experts": 3, "expert_weights": "1", "drop_augmentation": False}
MORE: dict[str, dict[str, Any]] = {
    "sla-cifar": {**LIKE_SLA, "deferral": 0.8},
    "sla-imagenet-lt": {**LIKE_SLA, "deferral": 0.889},
    "mislas-places-lt": {"freeze_but_last_block": True, "normalisation": "imagenet"},
    "glag-inaturalist": {"loss_settings": {"strength": 0.5}},
}
"""What a row sets beside them; all else is SGD with momentum .9 on one branch."""

PLAIN = {
    "experts": 1,
    "expert_weights": "1",
    "momentum": 0.9,
    "nesterov": False,
    "sampler": "instance",
    "deferred_sampling": False,
    "classifier": "linear",
    "freeze_but_last_block": False,
    "normalisation": "data",
    "loss_settings": {},
    "deferral": 0.8,
    "drop_augmentation": False,
}


def _settings(name: str, **changes: Any) -> TrainSettings:
    weights = {"weights": "resnet152.pth"} if PRESETS[name].weights else {}
    return default_settings("digits-lt", preset=name, **weights, **changes)


@pytest.mark.parametrize("name", ROWS)
def test_the_table(name: str) -> None:
    """Reference: METHODS.md §7 and §9; the data set's own defaults give way."""
    s = _settings(name)
    got = (s.epochs, s.lr, s.warmup, s.batch_size, s.weight_decay, s.schedule, s.mixup)
    assert (*got, s.backbone, s.augmentation, s.loss) == ROWS[name]
    expected = {**PLAIN, **MORE.get(name, {})}
    assert {option: getattr(s, option) for option in expected} == expected
    assert set(PRESETS) == set(ROWS)
    assert backbone_problem(s.backbone) is None


def test_augmentations_of_the_table() -> None:
    """Reference: METHODS.md §7 and §9: crops of RandomResizedCrop(…, scale), pad-4 crops, blur."""
    for name, row in ROWS.items():
        areas = [AUGMENTATIONS[part].area for part in names_of(row[8])]
        if "cifar" in name:
            assert areas == ([None, (0.2, 1.0), None] if name == "sla-cifar" else [None])
        elif name == "sla-imagenet-lt":
            assert areas == [(0.08, 1.0), (0.2, 1.0), (0.08, 1.0)]
        else:
            assert areas == [(0.08, 1.0)]


@pytest.mark.parametrize(
    ("name", "epochs", "switch", "drops"),
    [("sla-cifar", 200, 160, (160, 180)), ("sla-cifar", 400, 320, (320, 360))],
)
def test_rates_and_switch_of_sla(
    name: str, epochs: int, switch: int, drops: tuple[int, int]
) -> None:
    """Reference: METHODS.md §7, 200 and 400 epochs: no warm-up, the switch with the first ×0.1."""
    s = _settings(name, epochs=epochs)
    assert deferral_epoch(s) == switch
    first, second = drops
    rates = [learning_rate(s, t) for t in (0, first - 1, first, second - 1, second)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert deferral_epoch(_settings("sla-imagenet-lt")) == 160


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


def test_settings_of_a_loss_are_for_this_loss() -> None:
    """Reference: strength .5 of METHODS.md §9, unless --set or another loss stands over it."""
    s = _with_loss(_settings("glag-inaturalist"), [], drw=False)
    assert (s.loss_settings["strength"], s.loss_settings["base"]) == (0.5, 2.0)
    s = _with_loss(_settings("glag-inaturalist"), ["strength=0.7"], drw=False)
    assert s.loss_settings["strength"] == 0.7
    assert _settings("glag-inaturalist", loss="ce").loss_settings == {}


def test_a_preset_sets_fields_of_the_settings() -> None:
    """Reference: the fields of `TrainSettings`; all presets set the nine of the table."""
    fields = set(TrainSettings.__dataclass_fields__)
    assert all(set(preset.settings) <= fields for preset in PRESETS.values())
    nine = set.intersection(*(set(preset.settings) for preset in PRESETS.values()))
    assert len(nine) == 9


def test_no_two_presets_are_the_same() -> None:
    """Reference: all settings of each, and descriptions, against those of the others."""
    settings = [vars(_settings(name)) for name in PRESETS]
    for number, one in enumerate(settings):
        assert one not in settings[:number]
    assert len({preset.description for preset in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_where_it_comes_from(name: str) -> None:
    """Reference: paper, release or ours, and every option, in what `featbank methods` prints."""
    preset = PRESETS[name]
    assert preset.source.startswith(("paper", "release", "ours"))
    if name.startswith("glag"):
        assert "not given" in preset.source
    listed = CliRunner().invoke(methods, []).output
    assert f"{preset.description} ({preset.source})" in listed
    shown = CliRunner().invoke(methods, [name]).output.splitlines()
    assert shown[:2] == [
        f"preset of stage 1 {name}: {preset.description}",
        f"  from {preset.source}",
    ]
    assert [line.strip() for line in shown[2:]] == [*preset.options]


def test_a_preset_asks_for_the_weights_it_starts_from() -> None:
    """Reference: the line; ResNet-152 from ImageNet weights, METHODS.md §9."""
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("digits-lt", preset="mislas-places-lt")
    assert str(caught.value) == (
        "Preset 'mislas-places-lt' starts from a ResNet-152 trained on ImageNet. Give the file of "
        "its weights by --weights."
    )


def test_an_unknown_preset() -> None:
    """Reference: the sentence, with the nearest name."""
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("cifar10-lt", preset="mislas-cifar10")
    assert str(caught.value) == "Unknown preset 'mislas-cifar10'. Did you mean 'mislas-cifar'?"
