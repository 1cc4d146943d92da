"""Images that are decoded as they are used."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import errors
from stage1.data import images as images_module
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, ImageDataset, batches_of, images_digest
from stage1.data.streaming import StreamedImages
from stage1.extraction.extract import extract
from stage1.training.settings import TrainSettings, default_settings
from stage1.training.train import train
from tests.stage1.conftest import MakeLists

CPU = torch.device("cpu")


def _both(**options: Any) -> tuple[ImageDataset, ImageDataset]:
    """In memory, and streamed."""
    settings = DatasetSettings("lists", **options)
    return load_dataset(settings), load_dataset(dataclasses.replace(settings, stream=True))


def _settings(options: dict[str, Any], *, stream: bool) -> TrainSettings:
    dataset = DatasetSettings("lists", stream=stream, **options)
    return default_settings(dataset, backbone="resnet8", epochs=2, batch_size=4, mixup=0.5)


def test_streamed_batches_are_those_of_memory(make_lists: MakeLists) -> None:
    """Reference: the images in memory, in any order, some twice, more batches than are ahead."""
    memory, streamed = _both(**make_lists(train=[0, 1] * 9, test=[0, 1]), image_size=8)
    assert memory.preprocessing == streamed.preprocessing
    held, files = memory.splits["train"].images, streamed.splits["train"].images
    assert isinstance(held, torch.Tensor)
    assert files.shape == held.shape
    rows = torch.randint(18, (50,), generator=torch.Generator().manual_seed(0)).split(4)
    batches = [*batches_of(files, rows, CPU)]
    assert len(batches) == 13
    for batch, row in zip(batches, rows, strict=True):
        assert (batch == held[row]).all()


def test_training_and_extraction_do_not_depend_on_streaming(
    make_lists: MakeLists, tmp_path: Path
) -> None:
    """Reference: the weights of a run from memory, and the bank of that run."""
    options = make_lists(train=[0, 1, 1, 0, 1, 0, 0, 1, 1], test=[0, 1])
    for stream in (False, True):
        train(_settings(options, stream=stream), tmp_path / str(stream))
    weights = [
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["weights"]
        for run in ("False", "True")
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_moments_are_of_a_sample(make_lists: MakeLists, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: NumPy's mean over every third image, in memory and streamed."""
    monkeypatch.setattr(images_module, "SAMPLE", 3)
    memory, streamed = _both(**make_lists(train=[0, 1] * 4, test=[0, 1]))
    held = memory.splits["train"].images
    assert isinstance(held, torch.Tensor)
    mean = held[[0, 2, 5]].numpy().mean((0, 2, 3))
    np.testing.assert_allclose(memory.preprocessing.mean, mean, rtol=1e-12)
    assert memory.preprocessing == streamed.preprocessing


def test_faults_are_told_with_their_list_line(make_lists: MakeLists) -> None:
    """A missing file at once; a broken one, or one of another size, when it is used."""
    options = make_lists(train=[0, 1, 1, 0], test=[0, 1])
    settings = DatasetSettings("lists", stream=True, **options)
    images = load_dataset(settings).splits["train"].images
    broken = Path(options["root"]) / "train" / "2 of train.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(errors.DataError, match=r"train\.txt line 3: .* not a readable image"):
        [*batches_of(images, torch.arange(4).split(2), CPU)]
    broken.unlink()
    with pytest.raises(errors.DataError, match=r"train\.txt line 3: .* does not exist"):
        load_dataset(settings)


def test_unreadable_images_are_found_before_they_are_streamed(make_lists: MakeLists) -> None:
    """Reference: what is left of the images in memory."""
    options = make_lists(train=[0, 1, 1, 0], test=[0, 1])
    (Path(options["root"]) / "train" / "1 of train.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=re.escape("1 in all")):
        memory, streamed = _both(**options, skip_unreadable=True)
    held, files = memory.splits["train"], streamed.splits["train"]
    assert len(files.labels) == len(files.images) == 3
    (batch,) = batches_of(files.images, [torch.arange(3)], CPU)
    assert torch.equal(batch, held.images)  # type: ignore[arg-type]


def test_digest_follows_the_files(make_lists: MakeLists) -> None:
    """The same files have the same digest; one that was changed has another."""
    options = make_lists(train=[0, 1, 1, 0], test=[0, 1])
    settings = DatasetSettings("lists", stream=True, **options)

    def digest() -> str:
        return images_digest(load_dataset(settings).splits["train"].images)

    first = digest()
    assert digest() == first
    os.utime(Path(options["root"]) / "train" / "1 of train.png", (1, 1))
    assert digest() != first


def test_extraction_streams_what_it_can(
    make_lists: MakeLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is used once, so none is kept: every split of files arrives streamed."""
    options = make_lists(train=[0, 1, 1, 0, 1], test=[0, 1])
    train(_settings(options, stream=False), tmp_path / "run")
    seen = []
    monkeypatch.setattr(
        "stage1.extraction.extract.load_dataset",
        lambda settings: seen.append(d := load_dataset(settings)) or d,
    )
    extract(tmp_path / "run", tmp_path / "bank.h5")
    assert all(isinstance(split.images, StreamedImages) for split in seen[0].splits.values())
