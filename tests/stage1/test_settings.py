"""Settings of a run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from featbank import errors
from stage1.data.images import DatasetSettings
from stage1.training.settings import TrainSettings, default_settings, learning_rate, settings_from


def test_defaults_are_the_row_of_mislas() -> None:
    """Against METHODS.md §9, CIFAR-LT [MiSLAS]; mixup is off."""
    s = default_settings("cifar100-lt")
    assert (s.epochs, s.lr, s.warmup, s.batch_size) == (200, 0.1, 5, 128)
    assert (s.weight_decay, s.schedule, s.momentum, s.mixup) == (2e-4, "multistep", 0.9, 0)


def test_changes_stand_over_the_data_sets_own_defaults() -> None:
    """A shorter run also gets a shorter warm-up, unless that is given."""
    assert default_settings("digits-lt").backbone == "resnet8"
    assert default_settings("digits-lt", backbone="resnet14").backbone == "resnet14"
    assert default_settings("cifar10-lt", epochs=1).warmup == 0
    assert default_settings("cifar10-lt", epochs=20, warmup=7).warmup == 7


def test_multistep_with_warmup() -> None:
    """Against the MiSLAS release: (t+1)/5 of the rate, ×0.1 from epochs 160 and 180 on."""
    s = default_settings("cifar100-lt")
    rates = {epoch: learning_rate(s, epoch) for epoch in (0, 3, 4, 5, 159, 160, 179, 180, 199)}
    expected = dict(zip(rates, (0.02, 0.08, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001), strict=True))
    assert rates == pytest.approx(expected)


def test_cosine() -> None:
    """Against ½(1 + cos(πt/T)) at the start, the middle and the last epoch."""
    s = default_settings("cifar100-lt", schedule="cosine", warmup=0, lr=1)
    assert [learning_rate(s, t) for t in (0, 100, 199)] == pytest.approx(
        [1, 0.5, (1 + math.cos(math.pi * 199 / 200)) / 2]
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": -1.0}, "The 'lr' of stage 1 must be a float > 0, got -1."),
        ({"lr": 0}, "The 'lr' of stage 1 must be a float > 0, got 0."),
        ({"lr": float("inf")}, "The 'lr' of stage 1 must be a float > 0, got inf."),
        ({"lr": "fast"}, "The 'lr' of stage 1 must be a float > 0, got 'fast'."),
        ({"epochs": 0}, "The 'epochs' of stage 1 must be an integer ≥ 1, got 0."),
        ({"batch_size": True}, "The 'batch_size' of stage 1 must be an integer ≥ 1, got True."),
        ({"momentum": 1.0}, "The 'momentum' of stage 1 must be a float ≥ 0 and < 1, got 1."),
        ({"weight_decay": -1e-4}, "must be a float ≥ 0, got -0.0001."),
        ({"mixup": math.nan}, "The 'mixup' of stage 1 must be a float ≥ 0, got nan."),
        ({"seed": -3}, "must be an integer ≥ 0 and ≤ 9223372036854775807, got -3."),
        (
            {"schedule": "step"},
            "The 'schedule' of stage 1 must be one of multistep, cosine, got 'step'.",
        ),
        ({"precision": "fp16"}, "must be one of fp32, bf16, got 'fp16'. Did you mean 'bf16'?"),
        ({"keep": "all"}, "The 'keep' of stage 1 must be one of last, best, got 'all'."),
        (
            {"checkpoint_every": 0},
            "The 'checkpoint_every' of stage 1 must be an integer ≥ 1, got 0.",
        ),
        ({"compile": 1}, "The 'compile' of stage 1 must be true or false, got 1."),
        ({"warmup": 9, "epochs": 9}, "must be shorter than its 9 epochs, got 9."),
        ({"nesterov": True, "momentum": 0.0}, "The 'nesterov' of stage 1 needs a 'momentum' > 0"),
        (
            {"sampler": "root"},
            "The 'sampler' of stage 1 must be one of instance, class_balanced, sqrt, got",
        ),
        (
            {"sampler": "class_balanced", "deferred_sampling": True},
            "--drs changes nothing after --sampler class_balanced. Leave one of them out.",
        ),
        ({"backbone": "resnet30"}, "Unknown backbone 'resnet30'"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    """In the house's form, with the value that was given."""
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("digits-lt", **changes)
    assert sentence in str(caught.value)


def test_all_wrong_settings_are_told_at_once() -> None:
    """Four mistakes, one error, one line; the data set's among them."""
    with pytest.raises(errors.ConfigError) as caught:
        TrainSettings(DatasetSettings("lists"), lr=-1, epochs=0, backbone="alexnet")
    message = str(caught.value)
    for part in ("needs --root", "'lr'", "'epochs'", "'alexnet'"):
        assert part in message
    assert "\n" not in message


def test_settings_survive_the_way_through_a_document() -> None:
    """Against the settings before `dataclasses.asdict`."""
    s = default_settings(DatasetSettings("digits-lt", imbalance=10), lr=0.3)
    assert settings_from(dataclasses.asdict(s)) == s
