"""What stage 1 minimises, and the rows it draws for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from featbank import errors
from stage1.augment import augment, mixup
from stage1.backbones import build_backbone
from stage1.batchnorm import draw_balanced
from stage1.checkpoint import load_checkpoint
from stage1.datasets import load_dataset
from stage1.images import DatasetSettings, Preprocessing, Split
from stage1.repeatable import repeatable
from stage1.settings import (
    TrainSettings,
    default_settings,
    deferral_epoch,
    learning_rate,
    settings_from,
)
from stage1.train import fit, train

PLAIN = Preprocessing(mean=(120.0,), std=(60.0,), pad=1, flip=True)


class Recorder:
    """Cross-entropy that keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, torch.Tensor]] = []

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> torch.Tensor:
        self.calls.append((epoch, labels.clone()))
        return F.cross_entropy(logits, labels)

    def labels_of(self, epoch: int) -> torch.Tensor:
        """All labels of an epoch, in order."""
        return torch.cat([labels for t, labels in self.calls if t == epoch])


def long_tailed() -> Split:
    """Noise of four classes with 180, 60, 30 and 30 rows."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300, 1, 8, 8), dtype=torch.uint8, generator=draws)
    labels = torch.tensor([0] * 180 + [1] * 60 + [2] * 30 + [3] * 30)
    return Split(images, labels, np.arange(300))


def recorded(**changes: Any) -> tuple[Recorder, TrainSettings]:
    settings = default_settings("digits-lt", batch_size=50, lr=0.01, **changes)
    model = build_backbone("resnet8", in_channels=1, num_classes=4)
    recorder = Recorder()
    list(fit(model, long_tailed(), PLAIN, settings=settings, objective=recorder))
    return recorder, settings


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_default_is_cross_entropy_bit_by_bit(alpha: float, tmp_path: Path) -> None:
    """Reference: the loop written out with `F.cross_entropy` and no objective; equal weights."""
    settings = default_settings("digits-lt", epochs=2, mixup=alpha)
    train(settings, tmp_path / "run")
    weights = load_checkpoint(tmp_path / "run")[1].weights

    dataset = load_dataset(DatasetSettings("digits-lt"))
    images, labels = dataset.splits["train"].images, dataset.splits["train"].labels
    torch.manual_seed(0)
    model = build_backbone("resnet8", in_channels=1, num_classes=10)
    draws, shares = torch.Generator().manual_seed(0), np.random.default_rng(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    model.train()
    with repeatable():
        for epoch in range(2):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, epoch)
            for rows in torch.randperm(328, generator=draws)[:320].split(32):
                x, y = augment(images[rows], dataset.preprocessing, generator=draws), labels[rows]
                if alpha:
                    x, other, share = mixup(x, y, alpha, generator=draws, weights=shares)
                z = model(x)
                loss = F.cross_entropy(z, y)
                if alpha:
                    loss = share * loss + (1 - share) * F.cross_entropy(z, other)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    for name, expected in model.state_dict().items():
        assert weights[name].equal(expected), f"{name} differs"


def test_an_objective_sees_epochs_and_both_labels_of_a_mixture() -> None:
    """Reference: by hand, six steps of two calls an epoch; a batch's partners are its labels."""
    recorder, _ = recorded(epochs=2, mixup=0.5)
    assert [epoch for epoch, _ in recorder.calls] == [0] * 12 + [1] * 12
    for (_, own), (_, partner) in zip(recorder.calls[::2], recorder.calls[1::2], strict=True):
        assert own.sort().values.equal(partner.sort().values)


def test_deferred_sampling_draws_classes_alike() -> None:
    """Reference: every row once in each of the first 3 epochs, then ¼ a class, within 5 σ."""
    recorder, settings = recorded(epochs=5, deferred_sampling=True, deferral=0.6)
    assert deferral_epoch(settings) == 3
    for epoch in range(3):
        counts = torch.bincount(recorder.labels_of(epoch), minlength=4)
        assert counts.tolist() == [180, 60, 30, 30], f"epoch {epoch}: got {counts}"
    later = torch.cat([recorder.labels_of(epoch) for epoch in (3, 4)])
    share = torch.bincount(later, minlength=4).double() / 600
    assert ((share - 0.25).abs() < 5 * (0.25 * 0.75 / 600) ** 0.5).all(), f"got {share}"


def test_deferred_sampling_draws_from_the_generator_of_the_run() -> None:
    """Reference: `draw_balanced` on the run's seed, of which the first draw is the epoch's rows."""
    recorder, _ = recorded(epochs=1, deferred_sampling=True, deferral=0.0, seed=4)
    labels = long_tailed().labels
    rows = draw_balanced(labels, 300, generator=torch.Generator().manual_seed(4))
    assert recorder.labels_of(0).equal(labels[rows])


@pytest.mark.parametrize(
    ("epochs", "deferral", "expected"),
    [(200, 0.8, 160), (300, 0.8, 240), (10, 0.75, 8), (4, 0.0, 0), (3, 0.99, 2), (1, 0.8, 0)],
)
def test_deferral_epoch(epochs: int, deferral: float, expected: int) -> None:
    """Reference: by hand; 160 of 200 as the LDAM release has it, the last epoch at the latest."""
    s = default_settings("cifar10-lt", epochs=epochs, deferral=deferral)
    assert deferral_epoch(s) == expected


@pytest.mark.parametrize("changes", [{"loss": "las"}, {"loss_settings": {"tau": 1.0}}])
def test_a_loss_without_its_objective_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Reference: the sentence; nothing is left behind."""
    settings = default_settings("digits-lt", epochs=1, **changes)
    with pytest.raises(errors.ConfigError, match="needs an objective. Give one, or use `featbank"):
        train(settings, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_objective_is_made_from_the_training_counts(tmp_path: Path) -> None:
    """Reference: the counts of the checkpoint, which keeps the loss and its settings as given."""
    seen = []
    recorder = Recorder()

    def objective(counts: np.ndarray) -> Recorder:
        seen.append(tuple(counts.tolist()))
        return recorder

    settings = default_settings("digits-lt", epochs=1, loss="mine", loss_settings={"a": 0.5})
    lines: list[str] = []
    train(settings, tmp_path, objective=objective, report=lines.append)
    _, checkpoint = load_checkpoint(tmp_path)
    assert seen == [checkpoint.train_counts]
    assert (checkpoint.settings.loss, checkpoint.settings.loss_settings) == ("mine", {"a": 0.5})
    assert lines[1].endswith(", loss mine")
    assert len(recorder.calls) == 328 // 32


def test_settings_of_before_there_were_losses_are_read() -> None:
    """Reference: the defaults; a document without the new fields is a run of cross-entropy."""
    document = dataclasses.asdict(default_settings("digits-lt", lr=0.3))
    for field in ("loss", "loss_settings", "deferred_sampling", "deferral"):
        del document[field]
    assert settings_from(document) == default_settings("digits-lt", lr=0.3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"deferral": 1.0}, "The 'deferral' of stage 1 must be a float ≥ 0 and < 1, got 1."),
        ({"loss": 3}, "The 'loss' of stage 1 must be a text, got 3."),
    ],
)
def test_a_wrong_setting_gets_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    """Reference: the house's form."""
    with pytest.raises(errors.ConfigError) as told:
        default_settings("digits-lt", **changes)
    assert sentence in str(told.value)
