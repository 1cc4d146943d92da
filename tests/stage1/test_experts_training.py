"""Training of experts, and of the loss that weighs by angles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from featbank import Bank, errors
from featbank.cli.train import train as command
from stage1.augment import normalise
from stage1.backbones import Backbone, Outputs, build_backbone
from stage1.data.images import Preprocessing, Split
from stage1.extraction.extract import extract
from stage1.inference.batchnorm import rebalanced
from stage1.inference.evaluate import accuracies
from stage1.inference.features import RowRange, features_of
from stage1.processes.distributed import ProcessGroup
from stage1.training.checkpoint import load_checkpoint
from stage1.training.fit import batch_loss, cross_entropy, draws_of, fit
from stage1.training.settings import TrainSettings, default_settings
from stage1.training.train import train
from tests.stage2.compare import assert_close

K = 5
PLAIN = Preprocessing((128.0,), (64.0,), pad=1, flip=False, augmentation="none")
ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def _split(rows: int = 40) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (rows, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(rows) % K, np.arange(rows))


def _model(count: int, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone("resnet8", in_channels=1, num_classes=K, experts=count, **options)


def _settings(**changes: Any) -> TrainSettings:
    return default_settings("digits-lt", **{"epochs": 1, "batch_size": 40, "lr": 0.05, **changes})


def test_a_step_follows_the_sum_of_the_experts_losses() -> None:
    """Reference: one step of torch's SGD on the sum of their cross-entropies, in float64."""
    split, model = _split(), _model(3)
    reference = copy.deepcopy(model).double()
    list(fit(model, split, PLAIN, settings=_settings(experts=3)))
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    logits = reference.outputs(normalise(split.images, PLAIN).double()).logits  # type: ignore[arg-type]
    torch.stack([F.cross_entropy(z, split.labels) for z in logits]).sum().backward()
    optimiser.step()
    for name, weight in reference.named_parameters():
        actual = model.get_parameter(name).double()
        assert_close(actual, weight, 2e-5, name)


def test_weights_of_experts_are_in_loss_prediction_and_checkpoint(tmp_path: Path) -> None:
    """Reference: Σ ε_k L_k by one step of torch's SGD, and eq. 19's Σ ε_k softmax, in float64."""
    split, epsilon = _split(), (1.0, 0.25, 3.0)
    settings = _settings(experts=3, expert_weights="1+0.25+3")
    torch.manual_seed(0)
    model = settings.model(in_channels=1, num_classes=K)
    reference = copy.deepcopy(model).double()
    list(fit(model, split, PLAIN, settings=settings))
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    x = normalise(split.images, PLAIN).double()  # type: ignore[arg-type]
    logits = reference.outputs(x).logits
    losses = [F.cross_entropy(z, split.labels) for z in logits]
    torch.stack([e * loss for e, loss in zip(epsilon, losses, strict=True)]).sum().backward()
    optimiser.step()
    for name, weight in reference.named_parameters():
        assert_close(model.get_parameter(name).double(), weight, 5e-5, name)

    mean = sum(e * z.softmax(1) for e, z in zip(epsilon, logits, strict=True)) / 3
    assert isinstance(mean, torch.Tensor)
    combined = Outputs(logits, logits, epsilon).combined
    assert combined.argmax(1).equal(mean.argmax(1))
    assert_close(combined.softmax(1), mean / mean.sum(1, keepdim=True), 1e-12, "softmax")
    assert_close(combined.exp().sum(1), torch.ones(40, dtype=torch.float64), 1e-12, "sum")

    stored = load_checkpoint(train(_settings(experts=2, expert_weights="1+0.5"), tmp_path / "run"))
    assert stored[1].model().branch_weights == (1.0, 0.5)
    extract(tmp_path / "run", tmp_path / "bank.h5", balanced_batches=1)
    with Bank(tmp_path / "bank.h5") as bank:
        assert bank.provenance["stage1"]["settings"]["expert_weights"] == "1+0.5"
        assert [bank.expert_weight(f"expert{e}/balanced") for e in (0, 1)] == [1.0, 0.5]
    assert _settings(experts=2).model(in_channels=1, num_classes=K).branch_weights == ()


def test_augmentation_ends_with_the_deferral(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the images of an epoch are those of `none` from 1 of 2 epochs on."""
    split = _split(8)
    pre = Preprocessing((128.0,), (64.0,), pad=1, flip=False, augmentation="standard+cutout")
    plain = normalise(split.images, pre).flatten(1).sort(0).values  # type: ignore[arg-type]
    seen: list[tuple[torch.Tensor, ...]] = []
    outputs = Backbone.outputs

    def spied(self: Backbone, *images: torch.Tensor) -> Outputs:
        seen.append(images)
        return outputs(self, *images)

    monkeypatch.setattr(Backbone, "outputs", spied)
    changes = {"experts": 2, "epochs": 2, "warmup": 0, "deferral": 0.5, "batch_size": 8}
    for drop in (False, True):
        seen.clear()
        settings = _settings(drop_augmentation=drop, **changes)
        list(fit(_model(2), split, pre, settings=settings))
        same = [[x.flatten(1).sort(0).values.equal(plain) for x in images] for images in seen]
        assert same == [[False, False], [True] if drop else [False, False]]


def test_each_expert_sees_its_own_augmentation_and_one_mixture() -> None:
    """Reference: λx_i + (1−λ)x_j with the same λ and j for all, so a shift stays."""
    seen: list[tuple[torch.Tensor, ...]] = []

    def network(*images: torch.Tensor) -> Outputs:
        seen.append(images)
        logits = tuple(x.flatten(1)[:, :K].requires_grad_() for x in images)
        return Outputs(logits, logits)

    x = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    batch_loss(
        network,
        (x, x + 3),
        torch.arange(6) % K,
        0,
        cross_entropy,
        alpha=1.0,
        draws=draws_of(0, 0, ALONE),
    )
    (first, second) = seen[0]
    assert_close(second - first, torch.full_like(x, 3), 1e-12)
    assert not torch.allclose(first, x)


def test_copies_and_statistics_are_augmented_as_each_expert_was() -> None:
    """Reference: with none+cutout, the first expert is as with none, the second is not."""
    split, model = _split(16), _model(2).eval()
    part = RowRange("train", 1, 0, 16)
    trained = {}
    for name in ("none", "none+cutout"):
        pre = Preprocessing((128.0,), (64.0,), pad=1, flip=False, augmentation=name)
        images = split.images
        assert isinstance(images, torch.Tensor)
        made = features_of(
            part, iter([images]), {"instance": model}, preprocessing=pre, augmentation_seed=0
        )()
        balanced = rebalanced(model, split, preprocessing=pre, batches=1, seed=0)
        trained[name] = made, balanced.state_dict()
    (plain, plain_state), (own, own_state) = trained.values()
    assert_close(own["expert0/instance"], plain["expert0/instance"], 1e-6)
    assert np.abs(own["expert1/instance"] - plain["expert1/instance"]).max() > 1e-3
    deep = "blocks.1.norm1.running_mean"
    assert_close(own_state[f"experts.0.{deep}"], plain_state[f"experts.0.{deep}"], 1e-6)
    assert (own_state[f"experts.1.{deep}"] - plain_state[f"experts.1.{deep}"]).abs().max() > 1e-4


class Angular:
    """An objective that needs angles from epoch 1 on, and keeps what it is called with."""

    def __init__(self, model: Backbone, split: Split) -> None:
        self.model, self.split = model, split
        self.calls: list[tuple[int, Any, Any]] = []
        self.expected: list[torch.Tensor] = []

    def needs_angles(self, epoch: int) -> bool:
        if epoch == 1:
            self.expected = self._best()
        return epoch >= 1

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, epoch: int, /, **angles: Any
    ) -> torch.Tensor:
        self.calls.append((epoch, angles.get("cosine"), angles.get("best")))
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def _best(self) -> list[torch.Tensor]:
        """For each expert and class, by a loop over images, in float64."""
        model = copy.deepcopy(self.model).double().eval()
        x = normalise(self.split.images, PLAIN).double()  # type: ignore[arg-type]
        cosines = []
        outputs = model.outputs(x)
        for features, logits, (weight, _) in zip(
            outputs.features, outputs.logits, model.linear_classifiers(), strict=True
        ):
            best = []
            for k in range(K):
                rows = [row for row in range(len(x)) if self.split.labels[row] == k]
                row = max(rows, key=lambda row: float(logits[row, k]))
                best.append(F.cosine_similarity(features[row], weight[k], dim=0))
            cosines.append(torch.stack(best))
        return cosines


def test_angles_are_measured_once_an_epoch_and_end_mixup() -> None:
    """Reference: cosines by a loop in float64; two calls an expert while images are mixed."""
    split, model = _split(), _model(2)
    objective = Angular(model, split)
    settings = _settings(experts=2, epochs=2, batch_size=20, mixup=1.0, warmup=0)
    list(fit(model, split, PLAIN, settings=settings, objective=objective))
    before = [call for call in objective.calls if call[0] == 0]
    after = [call for call in objective.calls if call[0] == 1]
    assert (len(before), len(after)) == (8, 4)  # 2 batches × 2 experts, twice where mixed
    assert all(cosine is None and best is None for _, cosine, best in before)
    for place, (_, cosine, best) in enumerate(after):
        assert_close(best.double(), objective.expected[place % 2], 1e-4)
        assert cosine.shape == (20,)
        assert not cosine.requires_grad


def test_one_command_trains_extracts_and_evaluates(tmp_path: Path) -> None:
    """Reference: the accuracy of the averaged softmax of the banked classifiers."""
    run, bank_path = tmp_path / "run", tmp_path / "bank.h5"
    options = ["--dataset", "digits-lt", "--preset", "sla-cifar", "--backbone", "resnet8"]
    options += ["--epochs", "2", "--batch-size", "64", "-o", str(run), "--bank", str(bank_path)]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith(f"Wrote {bank_path}. Next: featbank sweep")
    _, checkpoint = load_checkpoint(run)
    with Bank(bank_path) as bank:
        names = [f"expert{e}/{view}" for e in range(3) for view in ("balanced", "instance")]
        assert sorted(bank.views) == names
        mean = 0.0
        for e in range(3):
            x, y = bank.load("test", view=f"expert{e}/instance")
            weight, bias = bank.classifier(f"expert{e}/instance")  # type: ignore[misc]
            z = x.astype(np.float64) @ weight.T + bias
            p = np.exp(z - z.max(1, keepdims=True))
            mean = mean + p / p.sum(1, keepdims=True)
        measured = accuracies(np.asarray(mean).argmax(1), y, train_counts=bank.train_counts)
    assert measured == pytest.approx(checkpoint.accuracy["test"])


def test_a_bank_that_is_there_is_told_before_training(tmp_path: Path) -> None:
    """Nothing is trained first."""
    (tmp_path / "bank.h5").write_bytes(b"")
    options = ["--dataset", "digits-lt", "-o", str(tmp_path / "run")]
    with pytest.raises(errors.OutputExists, match=r"exists\. Choose another --bank"):
        CliRunner().invoke(
            command, [*options, "--bank", str(tmp_path / "bank.h5")], catch_exceptions=False
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"augmentation": "cutot"}, "Unknown augmentation 'cutot'. Did you mean 'cutout'?"),
        ({"augmentation": "none+cutout"}, "The 'augmentation' of stage 1 names 2, for 1 experts."),
        ({"experts": 0}, "The 'experts' of stage 1 must be"),
        (
            {"experts": 3, "expert_weights": "1+1"},
            "The 'expert_weights' of stage 1 are 2, for 3 experts. Give one for each.",
        ),
        (
            {"experts": 2, "expert_weights": "1+0"},
            "The 'expert_weights' of stage 1 must be floats > 0 joined by +, as 1+1+0.5, got '1+0'",
        ),
        ({"experts": 2, "expert_weights": "1,1"}, "The 'expert_weights' of stage 1 must be floats"),
        ({"expert_weights": "2"}, "The 'expert_weights' of stage 1 weigh several experts."),
        ({"classifier": "cosin"}, "The 'classifier' of stage 1 must be"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], line: str) -> None:
    """Reference: the line."""
    with pytest.raises(errors.ConfigError) as caught:
        _settings(**changes)
    assert str(caught.value).startswith(line)
