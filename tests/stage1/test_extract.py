"""Extraction: the bank against the model it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import errors
from featbank.bank import Bank
from stage1.augment import normalise
from stage1.backbones import build_backbone
from stage1.data.datasets import load_dataset
from stage1.data.decoder import Decoder
from stage1.data.entries import ListEntry
from stage1.data.images import DatasetSettings
from stage1.extraction.extract import extract
from stage1.extraction.subject import seen_rows
from stage1.inference.batchnorm import batchnorm_statistics, rebalanced
from stage1.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stage1.training.settings import default_settings
from stage1.training.train import train
from tests.stage1.processes import launch_two

MakeLists = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def bank_file(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("banks") / "digits.h5"
    extract(digits_run, path, balanced_batches=4, seed=7)
    return path


@torch.no_grad()
def test_features_and_classifier_give_the_models_logits(digits_run: Path, bank_file: Path) -> None:
    """Against the model on each image, of both views, to 1e-4; rows are in the data set's order."""
    _, checkpoint = load_checkpoint(digits_run)
    dataset = load_dataset(checkpoint.settings.dataset)
    pre, instance = checkpoint.preprocessing, checkpoint.model()
    balanced = rebalanced(instance, dataset.splits["train"], preprocessing=pre, batches=4, seed=7)
    with Bank(bank_file) as bank:
        assert bank.splits == ("train", "val", "test")
        assert bank.views == ("instance", "balanced")
        assert bank.train_counts.tolist() == list(checkpoint.train_counts)
        for view, model in (("instance", instance), ("balanced", balanced)):
            classifier = bank.classifier(view)
            assert classifier is not None
            weight, bias = classifier
            for name, split in dataset.splits.items():
                features, labels = bank.load(name, view)
                logits = model(normalise(split.images, pre)).numpy()
                np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-4)
                assert (labels == split.labels.numpy()).all()
                assert (bank.index(name) == split.index).all()
                assert bank.source(name) == "digits"
            for layer, (mean, variance) in batchnorm_statistics(model).items():
                stored = bank.batchnorm(view)[layer]
                assert (stored[0] == mean).all()
                assert (stored[1] == variance).all()
        assert np.abs(bank.load("test")[0] - bank.load("test", "balanced")[0]).max() > 1e-3


def test_provenance_shows_how_the_bank_was_made(digits_run: Path, bank_file: Path) -> None:
    """Against the checkpoint's digest and settings; the same call gives the same content."""
    with Bank(bank_file) as bank:
        provenance, fingerprint = bank.provenance, bank.fingerprint
    digest = hashlib.sha256((digits_run / "checkpoint.pt").read_bytes()).hexdigest()
    assert provenance["checkpoint_sha256"] == digest
    assert provenance["stage1"]["settings"]["epochs"] == 3
    assert provenance["dataset"]["imbalance"] == 50
    assert provenance["views"]["balanced"] == {"batches": 4, "batch_size": 128, "seed": 7}
    assert {"featbank", "torch", "python"} <= set(provenance["versions"])
    again = bank_file.with_name("again.h5")
    extract(digits_run / "checkpoint.pt", again, balanced_batches=4, seed=7)
    with Bank(again) as bank:
        assert bank.fingerprint == fingerprint


@pytest.mark.parametrize("view", ["instance", "balanced"])
def test_one_view_in_half_precision(digits_run: Path, bank_file: Path, view: str) -> None:
    """Against the float32 bank to float16's 2⁻¹¹; the classifier is there for either view."""
    path = bank_file.with_name(f"{view}.h5")
    extract(digits_run, path, views=[view], dtype="float16", balanced_batches=4, seed=7)
    with Bank(path) as half, Bank(bank_file) as full:
        assert half.views == (view,)
        assert half.dtype == "float16"
        assert half.classifier(view) is not None
        expected = full.load("train", view)[0]
        np.testing.assert_allclose(half.load("train", view)[0], expected, rtol=2**-11, atol=1e-6)


def test_what_stage_1_was_trained_on(digits_run: Path, bank_file: Path) -> None:
    """All of train and nothing else; of train_balanced the rows that are train's."""
    with Bank(bank_file) as bank:
        for split in bank.splits:
            flags = bank.flags(split, "seen")
            assert flags is not None
            assert (flags == (split == "train")).all()
        train = bank.index("train")
    _, checkpoint = load_checkpoint(digits_run)
    whole = load_dataset(dataclasses.replace(checkpoint.settings.dataset, train_balanced=True))
    seen = seen_rows(whole, ["train"])["train_balanced"]
    assert seen.sum() == len(train) < len(seen)
    assert set(whole.splits["train_balanced"].index[seen]) == set(train)


def test_lists_keep_their_order_and_paths(make_lists: MakeLists, tmp_path: Path) -> None:
    """Against the lists; images that moved are found by `root`; a class may have no image."""
    options = make_lists(train=[3, 0, 0, 1], test=[1, 0])
    settings = default_settings(DatasetSettings("lists", **options), backbone="resnet8", epochs=1)
    train(settings, tmp_path / "run")
    extract(tmp_path / "run", tmp_path / "a.h5", balanced_batches=2)
    Path(options["root"]).rename(tmp_path / "moved")
    with pytest.raises(errors.ConfigError, match="is not a folder"):
        extract(tmp_path / "run", tmp_path / "b.h5")
    extract(tmp_path / "run", tmp_path / "b.h5", root=str(tmp_path / "moved"), balanced_batches=2)
    with Bank(tmp_path / "a.h5") as bank, Bank(tmp_path / "b.h5") as moved:
        assert bank.labels("train").tolist() == [3, 0, 0, 1]
        assert bank.index("train").tolist() == [0, 1, 2, 3]
        assert bank.train_counts.tolist() == [2, 1, 0, 1]
        assert moved.fingerprint == bank.fingerprint


def test_another_data_set_than_the_checkpoints_is_refused(
    make_lists: MakeLists, tmp_path: Path
) -> None:
    """The mismatch names the field, and nothing is left behind."""
    options = make_lists(train=[1, 0, 0], test=[1, 0])
    settings = default_settings(DatasetSettings("lists", **options), backbone="resnet8", epochs=1)
    train(settings, tmp_path / "run")
    make_lists(train=[1, 0, 1], test=[1, 0])
    with pytest.raises(errors.Mismatch, match=r"training counts differ .*\(1, 2, not 2, 1\)"):
        extract(tmp_path / "run", tmp_path / "bank.h5")
    assert not [path for path in tmp_path.iterdir() if "bank" in path.name]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": ["instence"]}, r"Unknown view 'instence'\. Did you mean 'instance'\?"),
        ({"views": []}, "No view was given"),
        ({"dtype": "float64"}, "Unknown dtype 'float64'"),
        ({"balanced_batches": 0}, "must be an integer ≥ 1, got 0"),
        ({"seed": -1}, "The 'seed' of extraction must be an integer"),
        ({"augmentations": -1}, "The 'augmentations' of extraction must be an integer ≥ 0"),
        ({"shard_rows": 300}, "must be a multiple of 256, got 300"),
        ({"device": "abacus"}, "Device 'abacus' cannot be used"),
        ({"root": "/x"}, "does not take --root"),
    ],
)
def test_wrong_options_are_reported(
    digits_run: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """One sentence each, and nothing is written."""
    with pytest.raises(errors.ConfigError, match=words):
        extract(digits_run, tmp_path / "bank.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_bank_that_is_there_stays(digits_run: Path, bank_file: Path) -> None:
    """Refused without `overwrite`, and left as it was."""
    before = bank_file.read_bytes()
    with pytest.raises(errors.OutputExists, match="--overwrite"):
        extract(digits_run, bank_file)
    assert bank_file.read_bytes() == before


@torch.no_grad()
def test_augmented_copies_are_crops_that_all_views_share(digits_run: Path, bank_file: Path) -> None:
    """Against the features of each digit's nine crops; val and test are the plain bank's."""
    path = bank_file.with_name("augmented.h5")
    extract(digits_run, path, augmentations=3, balanced_batches=4, seed=7)
    _, checkpoint = load_checkpoint(digits_run)
    pre, instance = checkpoint.preprocessing, checkpoint.model()
    split = load_dataset(checkpoint.settings.dataset).splits["train"]
    balanced = rebalanced(instance, split, preprocessing=pre, batches=4, seed=7)
    padded = torch.nn.functional.pad(split.images, (1, 1, 1, 1))
    crops = [normalise(padded[..., i : i + 8, j : j + 8], pre) for i in range(3) for j in range(3)]
    with Bank(path) as bank, Bank(bank_file) as plain:
        crop = np.zeros((3, 328), int)
        for view, model in (("instance", instance), ("balanced", balanced)):
            choices = np.stack([model.features(x).numpy() for x in crops])  # [9, N, D]
            assert bank.copies("train", view) == 3
            for a in range(3):
                features, labels = bank.load("train", view, copy=a)
                assert (labels == split.labels.numpy()).all()
                if view == "instance":
                    crop[a] = np.abs(choices - features).max(axis=2).argmin(axis=0)
                expected = choices[crop[a], np.arange(328)]
                np.testing.assert_allclose(features, expected, atol=1e-4)
            for name in ("val", "test"):
                assert bank.copies(name, view) == 1
                assert (bank.load(name, view)[0] == plain.load(name, view)[0]).all()
        assert bank.provenance["augmentations"] == {"copies": 3, "seed": 7}
    assert np.bincount(crop.ravel(), minlength=9).min() > 60  # of 984, 109 expected
    for a in range(3):  # one in nine by chance
        assert (crop[a] == crop[a - 1]).mean() < 0.25
    assert (crop[:, :72] == crop[:, 256:]).mean() < 0.25


def test_augmented_copies_are_repeatable(digits_run: Path, tmp_path: Path) -> None:
    """The cutting does not matter, the seed does; float16 is the same rounded to 2⁻¹¹."""

    def augmented(name: str, **options: Any) -> tuple[str, np.ndarray]:
        extract(digits_run, tmp_path / name, views=["instance"], augmentations=1, **options)
        with Bank(tmp_path / name) as bank:
            return bank.fingerprint, bank.load("train")[0]

    whole, features = augmented("whole.h5")
    assert augmented("cut.h5", shard_rows=256)[0] == whole
    assert np.abs(augmented("seed.h5", seed=1)[1] - features).max() > 1e-3
    half = augmented("half.h5", dtype="float16")[1]
    np.testing.assert_allclose(half, features, rtol=2**-11, atol=1e-6)


def test_an_overflow_of_float16_is_told_as_such(digits_run: Path, tmp_path: Path) -> None:
    """The value is the network's, not infinity, and no shard holds it; float32 takes it."""
    run, path = tmp_path / "run", tmp_path / "bank.h5"
    shutil.copytree(digits_run, run)
    file, checkpoint = load_checkpoint(run)
    for name in ("weight", "bias"):
        checkpoint.weights[f"blocks.2.norm2.{name}"] *= 1e6
    save_checkpoint(file, checkpoint)
    with pytest.raises(
        errors.NotFinite,
        match=r"train/instance/feature: row \d+ has values .*e\+06, which overflow float16",
    ):
        extract(run, path, dtype="float16", views=["instance"])
    assert not list(tmp_path.glob(".*.shards/*.shard"))
    extract(run, path, views=["instance"])
    assert {file.name for file in tmp_path.iterdir()} == {"run", "bank.h5"}


def test_two_processes_write_the_bank_of_one(digits_run: Path, tmp_path: Path) -> None:
    """Reference: one process with as many threads. One of them reports; an error ends both."""
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    options = ["--augmentations", "10", "--balanced-batches", "4", "--device", "cpu"]
    extract(digits_run, one, augmentations=10, balanced_batches=4, device="cpu")
    command, printed = ["extract", digits_run, "-o", two, *options], tmp_path / "printed"
    assert launch_two(command, printed) == 0
    with Bank(one) as expected, Bank(two) as bank:
        assert bank.fingerprint == expected.fingerprint
        assert bank.provenance == expected.provenance
    text = printed.read_text()
    assert text.count("Extracting 150 val images") == text.count("Wrote") == 1
    assert "images: 3830 of 3830" in text
    printed.unlink()
    assert {file.name for file in tmp_path.iterdir()} == {"one.h5", "two.h5"}
    assert launch_two(command, printed) == 1
    assert [line for line in printed.read_text().splitlines() if "featbank: " in line] == [
        f"featbank: {two} exists. Choose another name or --overwrite."
    ]


@torch.no_grad()
def test_experts_have_views_of_their_own(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: each branch as a model of its own, on each image; one estimate for all."""
    torch.manual_seed(0)
    model = build_backbone("resnet8", in_channels=1, num_classes=10, experts=2).eval()
    monkeypatch.setattr(Checkpoint, "model", lambda self: model)
    dataset = load_dataset(load_checkpoint(digits_run)[1].settings.dataset)
    pre = dataset.preprocessing
    balanced = rebalanced(model, dataset.splits["train"], preprocessing=pre, batches=4, seed=7)
    extract(digits_run, tmp_path / "bank.h5", balanced_batches=4, seed=7)
    with Bank(tmp_path / "bank.h5") as bank:
        names = [f"expert{e}/{view}" for view in ("instance", "balanced") for e in range(2)]
        assert set(bank.views) == set(names)
        branches = [*model.branches, *balanced.branches]
        for view, branch in zip(names, branches, strict=True):
            classifier = bank.classifier(view)
            assert classifier is not None
            images = normalise(dataset.splits["test"].images, pre)
            logits = bank.load("test", view)[0] @ classifier[0].T + classifier[1]
            np.testing.assert_allclose(logits, branch(images).numpy(), atol=1e-4)
            for layer, (mean, variance) in batchnorm_statistics(branch).items():
                assert list(bank.batchnorm(view)) == list(batchnorm_statistics(branch))
                assert (bank.batchnorm(view)[layer][0] == mean).all()
                assert (bank.batchnorm(view)[layer][1] == variance).all()
    extract(digits_run, tmp_path / "one.h5", views=["balanced"], balanced_batches=4, seed=7)
    with Bank(tmp_path / "one.h5") as bank:
        assert bank.classifiers == ("expert0/balanced", "expert1/balanced")


def test_each_image_is_read_once_for_all_views_and_copies(
    make_lists: MakeLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the lists. Training images are read before, too, for the channel moments."""
    options = make_lists(train=[0, 1, 1, 0, 1], test=[0, 1])
    settings = default_settings(DatasetSettings("lists", **options), backbone="resnet8", epochs=1)
    train(settings, tmp_path / "run")
    read: list[str] = []
    real = Decoder.image

    def watched(decoder: Decoder, entry: ListEntry) -> np.ndarray:
        read.append(entry.path)
        return real(decoder, entry)

    path = tmp_path / "bank.h5"
    with pytest.raises(ZeroDivisionError):  # when the statistics of the balanced view are there
        extract(
            tmp_path / "run",
            path,
            augmentations=3,
            balanced_batches=1,
            progress=lambda done, total: 1 // 0,
        )
    monkeypatch.setattr(Decoder, "image", watched)
    extract(tmp_path / "run", path, augmentations=3, balanced_batches=1)
    train_paths = [f"train/{i} of train.png" for i in range(5)]
    assert sorted(read[:5]) == train_paths
    assert sorted(read[5:10]) == train_paths
    assert sorted(read[10:]) == [f"test/{i} of test.png" for i in range(2)]
    with Bank(path) as bank:
        assert bank.copies("train", "balanced") == 3
