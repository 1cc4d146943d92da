"""`featbank train` with a loss of the registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch.nn import functional as F

from featbank import errors
from featbank.cli.train import train
from stage1.training.checkpoint import Checkpoint, load_checkpoint
from stage1.training.fit import BatchLoss
from stage1.training.settings import default_settings
from stage1.training.train import train as run_training
from stage2.methods.losses import LOSSES
from stage2.objective import AutogradLoss


def invoke(*options: str) -> Result:
    return CliRunner().invoke(train, options, catch_exceptions=False)


def trained(run: Path, *options: str) -> Checkpoint:
    """Checkpoint of `featbank train` on the digits."""
    result = invoke("--dataset", "digits-lt", *options, "-o", str(run))
    assert result.exit_code == 0, result.output
    return load_checkpoint(run)[1]


def balanced(counts: np.ndarray) -> BatchLoss:
    """Balanced softmax by PyTorch."""
    log_counts = torch.from_numpy(counts).log().float()
    return lambda logits, labels, epoch: F.cross_entropy(logits + log_counts, labels)


def smoothed(counts: np.ndarray) -> BatchLoss:
    """Label-aware smoothing, concave from 0.3 to 0.1, over all classes, by PyTorch."""
    n = torch.from_numpy(counts).float()
    epsilon = 0.1 + 0.2 * torch.sin((n - n.min()) / (n.max() - n.min()) * torch.pi / 2)

    def loss(logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> torch.Tensor:
        share = epsilon[labels][:, None]
        target = (1 - share) * F.one_hot(labels, len(n)) + share / len(n)
        return -(target * logits.log_softmax(1)).sum(1).mean()

    return loss


@pytest.mark.parametrize(
    ("loss", "given", "reference"),
    [("balanced_softmax", [], balanced), ("las", ["--set", "smooth_head=0.3"], smoothed)],
)
def test_a_loss_trains_as_written_in_pytorch(
    loss: str, given: list[str], reference: Any, tmp_path: Path
) -> None:
    """Reference: the same run under the loss by autograd; mixup is on."""
    options = ("--epochs", "1", "--lr", "0.01", "--mixup", "0.5")
    got = trained(tmp_path / "got", "--loss", loss, *given, *options)
    settings = default_settings("digits-lt", epochs=1, lr=0.01, mixup=0.5, loss=loss)
    run_training(settings, tmp_path / "expected", objective=reference)
    expected = load_checkpoint(tmp_path / "expected")[1].weights
    for name, weight in expected.items():
        torch.testing.assert_close(got.weights[name], weight, rtol=1e-3, atol=1e-4)
    assert got.settings.loss == loss
    if given:
        assert got.settings.loss_settings["smooth_head"] == 0.3
        assert got.settings.loss_settings["smooth_tail"] == 0.1


def test_gradual_follows_the_epochs(tmp_path: Path) -> None:
    """Reference: α(t) log π with α = 2^{t/2} − 1 of epochs t = 0, 1, 2, by PyTorch.

    The third run is stopped after its second epoch, and resumes: bit by bit the first.
    """
    options = ("--epochs", "3", "--warmup", "0", "--lr", "0.01", "--checkpoint-every", "2")
    got = trained(tmp_path / "got", "--loss", "gradual", *options).weights
    seen: list[int] = []

    def gradual(counts: np.ndarray) -> BatchLoss:
        log_prior = torch.from_numpy(counts / counts.sum()).log().float()

        def loss(logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> torch.Tensor:
            seen.append(epoch)
            return F.cross_entropy(logits + (2 ** (epoch / 2) - 1) * log_prior, labels)

        return loss

    settings = default_settings("digits-lt", epochs=3, warmup=0, lr=0.01, loss="gradual")
    run_training(settings, tmp_path / "expected", objective=gradual)
    assert sorted(set(seen)) == [0, 1, 2]
    expected = load_checkpoint(tmp_path / "expected")[1].weights
    for name, weight in expected.items():
        torch.testing.assert_close(got[name], weight, rtol=1e-3, atol=1e-4)

    class Stopped(AutogradLoss):
        def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> torch.Tensor:
            if epoch == 2:
                raise KeyboardInterrupt
            return super().__call__(logits, labels, epoch)

    command = ["--dataset", "digits-lt", "--loss", "gradual", *options]
    command += ["-o", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stage2.objective.AutogradLoss", Stopped)
        assert "2 of 3 epochs stay in" in invoke(*command).output
    result = invoke(*command)
    assert f"Resuming {tmp_path}/run after epoch 2 of 3" in result.output
    resumed = load_checkpoint(tmp_path / "run")[1].weights
    assert all(resumed[name].equal(weight) for name, weight in got.items())


def test_the_options_of_the_loop(tmp_path: Path) -> None:
    """Reference: what the checkpoint keeps; progress prints no line beside those of the epochs."""
    options = ("--epochs", "2", "--keep", "best", "--checkpoint-every", "1")
    result = invoke("--dataset", "digits-lt", *options, "-o", str(tmp_path / "run"))
    *dated, last = (line.split(" ") for line in result.output.splitlines())
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", line[0]) for line in dated), dated
    assert [*(line[1].rstrip(":") for line in dated), last[0]] == [
        "Loading",
        "digits-lt",
        "epoch",
        "epoch",
        "val",
        "test",
        "Wrote",
    ]
    kept = load_checkpoint(tmp_path / "run")[1]
    assert (kept.settings.keep, kept.settings.checkpoint_every) == ("best", 1)
    assert kept.epoch in (1, 2)


def test_deferred_sampling_and_weighting(tmp_path: Path) -> None:
    """Reference: what the checkpoint keeps; half of four epochs are two."""
    options = ("--epochs", "4", "--deferral", "0.5", "--drs", "--drw", "--loss", "class_balanced")
    settings = trained(tmp_path / "run", *options, "--set", "beta=0.999").settings
    assert (settings.deferred_sampling, settings.deferral) == (True, 0.5)
    assert (settings.loss_settings["defer"], settings.loss_settings["beta"]) == (2, 0.999)


def test_drs_alone_keeps_cross_entropy(tmp_path: Path) -> None:
    """Reference: the settings; weights are another run's from the deferral on."""
    drs = trained(tmp_path / "drs", "--epochs", "2", "--drs")
    plain = trained(tmp_path / "plain", "--epochs", "2")
    assert (drs.settings.loss, drs.settings.loss_settings) == ("ce", {})
    assert (drs.settings.deferred_sampling, plain.settings.deferred_sampling) == (True, False)
    assert not drs.weights["stem.weight"].equal(plain.weights["stem.weight"])


def test_a_preset_and_what_overrides_it(tmp_path: Path) -> None:
    """Reference: the row of MiSLAS on CIFAR, but for what is given."""
    options = ("--preset", "mislas-cifar", "--epochs", "1", "--backbone", "resnet8")
    s = trained(tmp_path / "run", *options).settings
    assert (s.mixup, s.batch_size, s.lr, s.schedule) == (1.0, 128, 0.1, "multistep")
    assert (s.epochs, s.backbone, s.warmup) == (1, "resnet8", 0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--loss", "foca"), "Unknown loss 'foca'. Did you mean 'focal'?"),
        (("--loss", "los", "--set", "tau=1"), "The loss 'los' takes no setting 'tau'. "),
        (("--set", "tau=1"), "The loss 'ce' takes no setting 'tau'. It takes none."),
        (("--set", "tau"), "--set tau is not KEY=VALUE. Write --set tau=1.5, for example."),
        (("--set", "=1"), "--set =1 is not KEY=VALUE."),
        (("--drw",), "--drw defers class weights, and loss 'ce' has none. Take --loss class_"),
        (("--deferral", "0.5"), "--deferral defers nothing alone. Add --drw, --drs or --drop"),
        (("--preset", "mislas"), "Unknown preset 'mislas'. "),
        *(
            (
                ("--loss", name),
                f"Loss {name!r} is not for stage 1: it {loss.unsuited}. Take {loss.instead!r} here",
            )
            for name, loss in LOSSES.items()
            if loss.unsuited
        ),
    ],
)
def test_refusals(options: tuple[str, ...], line: str, tmp_path: Path) -> None:
    """Reference: the one line; nothing is written or loaded."""
    with pytest.raises(errors.ConfigError) as caught:
        invoke("--dataset", "digits-lt", *options, "-o", str(tmp_path / "run"))
    assert str(caught.value).startswith(line), f"got {caught.value}"
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_class_without_images(tmp_path: Path) -> None:
    """Reference: the class is reported before training; left out by choice, the run ends well."""
    lines = []
    for row, label in enumerate((0, 0, 2, 2)):
        Image.fromarray(np.full((8, 8, 3), 40 * row, np.uint8)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png {label}\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "test.txt").write_text("0.png 0\n1.png 1\n")
    command = ["--dataset", "lists", "--root", str(tmp_path), "--backbone", "resnet8"]
    command += ["--train-list", str(tmp_path / "train.txt")]
    command += ["--test-list", str(tmp_path / "test.txt"), "--epochs", "1"]
    command += ["--loss", "balanced_softmax", "-o", str(tmp_path / "run")]
    with pytest.raises(errors.EmptyClass, match=r"balanced_softmax.*empty_classes=ignore"):
        invoke(*command)
    assert not (tmp_path / "run").exists()
    result = invoke(*command, "--set", "empty_classes=ignore")
    assert result.exit_code == 0, result.output
