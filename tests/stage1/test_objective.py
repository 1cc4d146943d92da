"""Losses that stage 1 minimises, and the rows it draws for them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from featbank import errors
from stage1.augment import augment, mixup
from stage1.backbones import Backbone, build_backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, Preprocessing, Split
from stage1.inference.batchnorm import draw_by_class
from stage1.processes.distributed import ProcessGroup
from stage1.processes.repeatable import repeatable
from stage1.training.angles import best_cosines, class_cosines
from stage1.training.checkpoint import load_checkpoint
from stage1.training.fit import draws_of, fit
from stage1.training.settings import (
    TrainSettings,
    default_settings,
    deferral_epoch,
    learning_rate,
    settings_from,
)
from stage1.training.train import train
from stage2.engine import angles
from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.engine.rows import MemoryRows
from stage2.methods.heads import HEADS, Context, TrainedHead
from stage2.methods.losses import LOSSES
from stage2.objective import AutogradLoss
from tests.stage2.compare import assert_relative

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
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
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    model.train()
    with repeatable():
        for epoch in range(2):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, epoch)
            draws = draws_of(0, epoch, ALONE)
            for rows in torch.randperm(328, generator=draws.order)[:320].split(32):
                x = augment(images[rows], dataset.preprocessing, generator=draws.images)
                y = labels[rows]
                if alpha:
                    x, other, share = mixup(
                        x, y, alpha, generator=draws.images, weights=draws.shares
                    )
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


def test_square_root_sampling_draws_by_the_root_of_counts() -> None:
    """Reference: p(class) ∝ √n_k of the run's seed, with which DRS ends at its epoch."""
    recorder, _ = recorded(epochs=2, sampler="sqrt", deferred_sampling=True, deferral=0.5, seed=4)
    labels = long_tailed().labels
    for epoch, power in ((0, 0.5), (1, 0.0)):
        order = draws_of(4, epoch, ALONE).order
        rows = draw_by_class(labels, 300, generator=order, power=power)
        assert recorder.labels_of(epoch).equal(labels[rows])


def test_deferred_sampling_draws_from_the_generator_of_the_run() -> None:
    """Reference: `draw_by_class` on the run's seed, of which the first draw is the epoch's rows."""
    recorder, _ = recorded(epochs=1, deferred_sampling=True, deferral=0.0, seed=4)
    labels = long_tailed().labels
    rows = draw_by_class(labels, 300, generator=draws_of(4, 0, ALONE).order)
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
    with pytest.raises(errors.ConfigError) as caught:
        default_settings("digits-lt", **changes)
    assert sentence in str(caught.value)


def noise(classifier: str, experts: int = 1) -> tuple[Backbone, torch.Tensor, torch.Tensor]:
    """A model in eval mode, images [12, 1, 8, 8] and labels of four classes."""
    torch.manual_seed(3)
    model = build_backbone(
        "resnet8", in_channels=1, num_classes=4, classifier=classifier, experts=experts
    )
    return model.eval(), torch.randn(12, 1, 8, 8), torch.arange(12) % 4


def test_ldam_of_a_cosine_classifier_is_its_equation() -> None:
    """Reference: LDAM eq. 13 on the cosines, Δ_k = ½·(n_min/n_k)^¼ off the own one, times s = 30;
    value and slopes of every weight by autograd in float64."""
    model, images, labels = noise("cosine")
    exact = copy.deepcopy(model).double()
    counts = torch.tensor([180.0, 60, 30, 20]).double()
    x, w = exact.deep(exact.early(images.double())), exact.classifier.weight
    cosines = (x @ w.T) / (x.norm(dim=1, keepdim=True) * w.norm(dim=1))
    margins = torch.zeros_like(cosines)
    margins[torch.arange(12), labels] = 0.5 * (counts.min() / counts[labels]) ** 0.25
    expected = F.cross_entropy(30 * (cosines - margins), labels)
    expected.backward()

    objective = AutogradLoss("ldam", class_counts=counts.numpy(), epochs=2, classifier="cosine")
    got = objective(model(images), labels, epoch=0)
    got.backward()
    assert_relative(got, expected, 1e-5, "value")
    slopes = dict(exact.named_parameters())
    for name, weight in model.named_parameters():
        assert_relative(weight.grad, slopes[name].grad, 1e-4, f"slope of {name}")


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_sla_of_experts_is_that_of_stage_2(classifier: str) -> None:
    """Reference: the engine's own: the linear head on the features of each expert, its cosines,
    best cosines and kernel; value and slope of the logits."""
    model, images, labels = noise(classifier, experts=3)
    counts, settings = np.array([9.0, 3, 2, 1]), {"gamma": 1.5, "tau": 2.0, "tau_prior": 0.7}
    objective = AutogradLoss("sla", settings, class_counts=counts, epochs=2)
    assert objective.needs_angles(0)
    best = best_cosines(model, [images], labels, 4)
    outputs, linear = model.outputs(images), HEADS["linear"]
    assert isinstance(linear, TrainedHead)
    rows = LossRows.stack([LOSSES["sla"](counts, settings)], 4)
    assert rows.angle is not None
    for e, (weight, bias) in enumerate(model.linear_classifiers()):
        x, z = outputs.features[e], outputs.logits[e].detach().requires_grad_()
        cosine = class_cosines(x, weight, labels)
        got = objective(z, labels, 0, cosine=cosine, best=best[e])
        got.backward()

        parameters = {"weight": weight[None], "bias": bias[None]}
        seen = MemoryRows(x.detach(), labels)
        batch = Context(counts, seen.dim, seen.device, seen.blocks).batch(seen.x)
        of_stage2 = linear.logits(parameters, batch)
        own = linear.cosine(parameters, batch, of_stage2, labels)
        kappa = angles.angle_factors(best[e][None], own, labels, rows.angle)
        expected, slope = loss_and_gradient(of_stage2, labels, rows, kappa=kappa)
        assert_relative(got, expected[0], 1e-5, f"value of expert {e}")
        assert_relative(z.grad, slope[:, 0], 1e-5, f"slope of expert {e}")
