"""`featbank extract` with a run, and with a pretrained model in place of one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torchvision import models

from featbank import errors
from featbank.bank import Bank
from featbank.cli.bank import info
from featbank.cli.extract import extract
from featbank.cli.sweep import sweep
from featbank.cli.train import train
from tests.stage1.test_distributed import codes_of, fork_two

CLASSES = {"ant": 12, "bee": 6, "cow": 3}


def invoke(*options: object) -> Result:
    return CliRunner().invoke(extract, [*map(str, options)], catch_exceptions=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's ResNet-10 with a classifier of 1,000 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10.pth"
    torch.save(models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, a colour per class."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for k, (name, count) in enumerate(CLASSES.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count if split == "train" else 4):
                pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
                pixels[..., k] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def test_from_weights_to_a_leaderboard(weights: Path, images: Path, tmp_path: Path) -> None:
    """Reference: the colours tell the classes apart, so a probe of any features is right."""
    bank = tmp_path / "bank.h5"
    options = ["--weights", weights, "--backbone", "resnet10", "--balanced-batches", "1"]
    options += ["--dataset", "folder", "--root", images, "--val-per-class", "1"]
    options += ["--label", "colours"]
    result = invoke(*options, "--augmentations", "2", "--augmentation", "none", "-o", bank)
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(info, [str(bank)]).output.startswith(f"colours: {bank}  (")
    *_, told, wrote = result.output.splitlines()
    assert [told.partition(" ")[2], wrote] == [
        "The weights have no classifier of 3 classes, so the bank has none: stage 2 starts from a "
        "linear probe. They count as trained on other images; if they were trained on these, add "
        "--seen.",
        f"Wrote {bank}. Next: featbank sweep {bank} --recipe crt -o results.sqlite",
    ]
    with Bank(bank) as opened:
        assert opened.splits == ("train", "val", "test")
        assert opened.train_counts.tolist() == [11, 5, 2]
        assert (opened.dim, opened.class_names) == (512, list(CLASSES))
    shown = CliRunner().invoke(info, [str(bank)], catch_exceptions=False).output
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    assert f"weights {weights}, SHA-256 {digest}…" in lines, shown
    assert "model backbone resnet10, normalisation imagenet, augmentation none" in lines, shown
    results = tmp_path / "results.sqlite"
    recipes = ["--recipe", "lws", "--recipe", "tau_norm"]
    swept = CliRunner().invoke(
        sweep, [str(bank), *recipes, "-o", str(results)], catch_exceptions=False
    )
    assert swept.exit_code == 0, swept.output
    assert "has no stage-1 classifier for 'instance'" in swept.output
    assert "start from a linear probe" in swept.output
    assert "100.0" in swept.output, swept.output


def test_two_processes_write_the_bank_of_one(weights: Path, images: Path, tmp_path: Path) -> None:
    """Reference: one process with as many threads."""
    options = ["--weights", weights, "--backbone", "resnet10", "--dataset", "folder"]
    options += ["--root", images, "--balanced-batches", "1", "--device", "cpu"]
    options += ["--layers", "-1, layer2", "--tokens", "mean,patch"]
    assert invoke(*options, "-o", tmp_path / "one.h5").exit_code == 0
    command = ["extract", *map(str, options), "-o", str(tmp_path / "two.h5")]
    assert codes_of(fork_two(command, tmp_path / "told")) == [0, 0]
    assert (tmp_path / "told.0").read_text().count("linear probe") == 1
    assert (tmp_path / "told.1").read_text() == ""
    with Bank(tmp_path / "one.h5") as one, Bank(tmp_path / "two.h5") as two:
        assert two.fingerprint == one.fingerprint
        assert two.provenance == one.provenance
        inner = {f"layer{i}/{token}" for i in (2, 4) for token in ("mean", "patch")}
        assert set(one.views) == {"instance", "balanced", *inner}


PRETRAINED = ("--weights", "w.pth", "--backbone", "resnet10", "--dataset", "digits-lt")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            (),
            "There is no RUN, and no --weights, --backbone, --dataset. "
            "Give RUN, or --weights with --backbone and --dataset.",
        ),
        (PRETRAINED[:4], "There is no RUN, and no --dataset. "),
        (PRETRAINED[2:], "There is no RUN, and no --weights. "),
        (("--root", "x"), "There is no RUN, and no --weights, --backbone, --dataset. "),
        (
            ("runs/r32", *PRETRAINED),
            "--weights, --backbone, --dataset: not beside a run, which has its own. "
            "Leave this out, or leave out runs/r32.",
        ),
        (("runs/r32", "--val-per-class", "0"), "--val-per-class: not beside a run"),
        (("runs/r32", "--train-balanced"), "--train-balanced: not beside a run"),
        (("runs/r32", "--normalisation", "data"), "--normalisation: not beside a run"),
        (("runs/r32", "--root", "x"), "runs/r32: no such checkpoint."),
        (PRETRAINED, "w.pth: no such file of weights. Check --weights."),
        ((*PRETRAINED, "--normalisation", "clop"), "The 'normalisation' of extraction must be one"),
        ((*PRETRAINED, "--augmentation", "crop"), "The 'augmentation' of extraction must be one"),
        ((*PRETRAINED, "--val-per-class", "3"), "The data set 'digits-lt' does not take --val-per"),
        (
            (*PRETRAINED, "--tokens", "cls"),
            "--tokens and --layer-norm are of inner layers. Add --la",
        ),
        (
            (*PRETRAINED, "--layers", "1", "--tokens", "cl"),
            "Unknown token 'cl'. Did you mean 'cls'?",
        ),
        ((*PRETRAINED, "--backbone", "timmm:x"), "Unknown backbone 'timmm:x'"),
    ],
)
def test_refusals(
    options: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the one line; nothing is written or loaded."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ConfigError) as caught:
        invoke(*options, "-o", "bank.h5")
    assert str(caught.value).startswith(line), f"got {caught.value}"
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model(weights: Path, images: Path, tmp_path: Path) -> None:
    """Reference: one line with counts and names; grey images do not fit a stem of three."""
    for backbone, *data in (
        ("resnet18", "folder", "--root", images),
        ("torchvision:resnet18", "folder", "--root", images),
        ("resnet32", "folder", "--root", images),
        ("resnet10", "digits-lt"),
    ):
        options = ["--weights", weights, "--backbone", backbone, "--dataset", *data]
        with pytest.raises(errors.DataError) as caught:
            invoke(*options, "-o", tmp_path / "bank.h5")
        assert str(caught.value).startswith(f"{weights} does not fit backbone {backbone!r}: ")
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_train_takes_the_normalisation_of_a_pretrained_model(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    """Reference: `imagenet` in the settings; features are those that `--weights` alone gives."""
    data = ["--dataset", "folder", "--root", str(images)]
    model = ["--weights", str(weights), "--backbone", "resnet10"]
    command = [*data, *model, "--freeze-but-last-block", "--normalisation", "imagenet"]
    command += ["--epochs", "1", "--lr", "1e-30", "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(train, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    views = ["--views", "balanced", "--balanced-batches", "1"]
    assert invoke(tmp_path / "run", *views, "-o", tmp_path / "run.h5").exit_code == 0
    assert invoke(*data, *model, *views, "-o", tmp_path / "alone.h5").exit_code == 0
    with Bank(tmp_path / "run.h5") as run, Bank(tmp_path / "alone.h5") as alone:
        assert run.provenance["stage1"]["settings"]["normalisation"] == "imagenet"
        assert alone.provenance["normalisation"] == "imagenet"
        for split in ("train", "test"):
            expected = alone.load(split, "balanced")[0]
            np.testing.assert_allclose(run.load(split, "balanced")[0], expected, atol=1e-5)
