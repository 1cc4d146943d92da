"""Random crops of original images, cut where these are decoded, and the view of evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from featbank import Bank, errors
from stage1.augment import augmented, colour, cuts_of, geometry, normalise
from stage1.data.datasets import load_dataset
from stage1.data.decoder import Decoder
from stage1.data.images import Preprocessing, batches_of
from stage1.data.lists import read_list
from stage1.data.settings import DatasetSettings
from stage1.data.streaming import StreamedImages
from stage1.extraction.extract import extract
from stage1.processes.distributed import ProcessGroup
from stage1.training.checkpoint import load_checkpoint
from stage1.training.fit import draws_of
from stage1.training.settings import TrainSettings, default_settings
from stage1.training.train import train
from tests.stage1.conftest import MakeLists

CPU = torch.device("cpu")
SIZES = [(37, 50), (64, 40), (32, 32), (41, 90), (33, 35)]
"""(H, W) of the originals."""


def _originals(folder: Path) -> StreamedImages:
    """Smooth images of differing sizes, decoded to 24×24 after 28."""
    rng, lines = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        lines.append(f"{number}.png {number % 2}\n")
    (folder / "list.txt").write_text("".join(lines))
    entries = read_list(folder / "list.txt")
    decoder = Decoder.for_images(entries, folder, image_size=24, resize=28)
    return StreamedImages(entries, decoder)


def _pil(folder: Path, row: int) -> Image.Image:
    return Image.open(folder / f"{row}.png").convert("RGB")


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (28, 24), (24, 24), (29, 24)])
def test_evaluation_sees_torchvisions_resize_and_centre_crop(
    tmp_path: Path, resize: int, size: int
) -> None:
    """Reference: torchvision's Resize and CenterCrop of the PIL image, pixel by pixel."""
    _originals(tmp_path)
    entries = read_list(tmp_path / "list.txt")
    decoder = Decoder.for_images(entries, tmp_path, image_size=size, resize=resize)
    held = decoder.images(entries)[0]
    (streamed,) = StreamedImages(entries, decoder).batches([torch.arange(len(entries))])
    assert held.equal(streamed)
    for row, got in enumerate(held):
        expected = TF.center_crop(TF.resize(_pil(tmp_path, row), [resize]), [size, size])
        assert got.equal(_tensor(expected)), SIZES[row]


def test_a_strip_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Reference: torchvision's view, to one level, of a strip that Pillow's limit lets through.

    Then one of 1×400,000 pixels, which at 256 would have 26 billion.
    """
    rng = np.random.default_rng(0)
    strip = Image.fromarray(rng.integers(0, 256, (3, 900, 3), np.uint8))
    strip.save(tmp_path / "0.png")
    Image.fromarray(np.full((1, 400_000, 3), 9, np.uint8)).save(tmp_path / "1.png")
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 0\n")
    entries = read_list(tmp_path / "list.txt")
    decoder = Decoder.for_images(entries, tmp_path, image_size=224, resize=256)
    whole = TF.center_crop(TF.resize(strip, [256]), [224, 224])
    assert (decoder.image(entries[0]) == _tensor(whole).numpy()).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        apart = decoder.image(entries[0]).astype(int) - _tensor(whole).numpy()
    assert abs(apart).max() <= 1
    assert (decoder.image(entries[1]) == 9).all()


def test_views_are_torchvisions_crops_of_the_original(tmp_path: Path) -> None:
    """Reference: resized_crop of the PIL original at the box drawn; `none` is evaluation's view."""
    images = _originals(tmp_path)
    cuts = cuts_of(images, "none+resized-flip+simclr", lambda rows: np.random.default_rng(3))
    assert cuts is not None
    rows = torch.tensor([4, 0, 1, 1, 3])
    (batch,) = batches_of(images, [rows], CPU, cuts)
    (whole,) = batches_of(images, [rows], CPU)
    assert batch.shape == (5, 3, 3, 24, 24)
    assert batch[:, 0].equal(whole)
    seeds = np.random.default_rng(3).integers(2**63, size=(3, 5))
    for place, row in enumerate(rows.tolist()):
        for view, area in ((1, (0.08, 1.0)), (2, (0.2, 1.0))):
            generator = torch.Generator().manual_seed(int(seeds[view, place]))
            (box,) = geometry.draw_boxes(SIZES[row], 1, scale=area, generator=generator).tolist()
            expected = TF.resized_crop(_pil(tmp_path, row), *box, size=[24, 24])
            assert batch[place, view].equal(_tensor(expected))
    assert not batch[2, 1].equal(batch[3, 1])  # one image twice in a batch


@pytest.mark.parametrize("size", [(375, 500), (600, 300)])
def test_boxes_of_originals_follow_torchvisions_random_resized_crop(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Reference: moments of share and log ratio of torchvision's own draws, four errors wide."""
    images = _originals(tmp_path)
    rng = np.random.default_rng(0)
    cuts = cuts_of(images, "resized-crop", lambda rows: rng)
    assert cuts is not None
    (seeds,) = cuts.seeds(torch.arange(3000))
    boxes = []
    for seed in seeds.tolist():
        (place,) = cuts.places([seed])
        assert place is not None
        boxes.append(list(place(size)))
    torch.manual_seed(0)
    image = torch.zeros(1, *size)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]

    def moments(drawn: list[Any]) -> torch.Tensor:
        top, left, height, width = torch.tensor(drawn, dtype=torch.float64).unbind(1)
        assert (top + height <= size[0]).all()
        assert (left + width <= size[1]).all()
        share, ratio = height * width / (size[0] * size[1]), (width / height).log()
        return torch.stack([share, ratio, top / size[0], left / size[1]], 1)

    mine, other = moments(boxes), moments(theirs)
    error = (mine.var(0) / 3000 + other.var(0) / 3000).sqrt()
    assert ((mine.mean(0) - other.mean(0)).abs() < 4 * error).all()
    assert (mine.std(0) / other.std(0) - 1).abs().max() < 0.07
    assert 0.079 < mine[:, 0].min() < 0.09


def test_images_in_memory_are_cropped_as_before(tmp_path: Path) -> None:
    """Reference: boxes, mirrors, crop, jitter of the same generator, bit by bit; nothing is cut."""
    images = torch.randint(
        256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    pre = Preprocessing((120.0,) * 3, (60.0,) * 3, 4, True, "resized-crop")
    assert cuts_of(images, pre.augmentation, lambda rows: np.random.default_rng(0)) is None
    (made,) = augmented(images, pre, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    boxes = geometry.draw_boxes((32, 32), 9, scale=(0.08, 1.0), generator=generator)
    mirrored = torch.rand(9, 1, 1, 1, generator=generator).flatten() < 0.5
    x = geometry.crop_resize(images, boxes, mirrored)
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    factors, order = colour.draw_jitter(strengths, 9, generator=generator)
    assert made.equal(normalise(colour.jitter(x, tuple(strengths), factors, order), pre))


def test_crops_that_were_cut_are_mirrored_and_coloured(tmp_path: Path) -> None:
    """Reference: the mirror or none of the view; the jitter of the same generator."""
    views = torch.randint(
        256, (40, 2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    pre = Preprocessing((0.0,) * 3, (1.0,) * 3, 1, True, "resized-flip+resized-crop")
    flips, jitters = augmented(views, pre, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    mirrored = torch.rand(2, 40, 1, 1, 1, generator=torch.Generator().manual_seed(5))[0] < 0.5
    assert 5 < mirrored.sum() < 35
    mirrored = torch.rand(40, 1, 1, 1, generator=generator) < 0.5
    assert flips.equal(torch.where(mirrored, views[:, 0].flip(3), views[:, 0]).float())
    mirrored = torch.rand(40, 1, 1, 1, generator=generator) < 0.5
    strengths = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    factors, order = colour.draw_jitter(strengths, 40, generator=generator)
    x = torch.where(mirrored, views[:, 1].flip(3), views[:, 1]).float()
    assert jitters.equal(colour.jitter(x, tuple(strengths), factors, order))


def _settings(options: dict[str, Any], **changes: Any) -> TrainSettings:
    dataset = DatasetSettings("lists", image_size=8, **options)
    few = {"backbone": "resnet8", "epochs": 4, "batch_size": 4, "checkpoint_every": 1}
    return default_settings(dataset, **{**few, "augmentation": "resized-crop", **changes})


def _weights(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)[
        "weights"
    ]
    return weights


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_on_originals_repeats_and_resumes(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: the weights of an uninterrupted run, bit by bit; another seed has others."""
    options = make_lists(train=[0, 1, 1, 0, 1, 0, 0, 1], test=[0, 1])
    settings = _settings(options)
    train(settings, tmp_path / "whole")

    def stop(line: str) -> None:
        if "epoch 2/4" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "stopped", report=stop)
    lines: list[str] = []
    train(settings, tmp_path / "stopped", report=lines.append)
    assert any(line.startswith("Resuming") for line in lines)
    assert _same(_weights(tmp_path / "whole"), _weights(tmp_path / "stopped"))
    stored = load_checkpoint(tmp_path / "whole")[1].settings
    assert stored.dataset.stream  # what is in memory is only the centre
    other = _settings({**options, "stream": True})
    train(other, tmp_path / "streamed")
    assert _same(_weights(tmp_path / "whole"), _weights(tmp_path / "streamed"))


@pytest.mark.parametrize(
    ("changes", "dimensions"),
    [
        ({}, [5, 5]),
        ({"drop_augmentation": True, "deferral": 0.5}, [5, 4]),
        ({"augmentation": "standard"}, [4, 4]),
    ],
)
def test_training_and_statistics_see_crops_of_the_originals(
    make_lists: MakeLists,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    dimensions: list[int],
) -> None:
    """Reference: the crops of the seeds of each epoch, by torchvision; whole views elsewhere."""
    options = make_lists(train=[0, 1, 1, 0], test=[0, 1])
    seen: list[torch.Tensor] = []

    def spied(images: torch.Tensor, *arguments: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        seen.append(images)
        return augmented(images, *arguments, **named)

    monkeypatch.setattr("stage1.training.fit.augmented", spied)
    monkeypatch.setattr("stage1.inference.batchnorm.augmented", spied)
    train(_settings(options, epochs=2, warmup=0, **changes), tmp_path / "run")
    assert [images.ndim for images in seen] == dimensions
    for epoch in (e for e in (0, 1) if dimensions[e] == 5):
        draws = draws_of(0, epoch, ProcessGroup(0, 1, CPU))
        order = torch.randperm(4, generator=draws.order).tolist()
        for view, row, seed in zip(
            seen[epoch][:, 0], order, draws.crops.integers(2**63, size=(1, 4))[0], strict=True
        ):
            generator = torch.Generator().manual_seed(int(seed))
            (box,) = geometry.draw_boxes(
                (12, 16), 1, scale=(0.08, 1.0), generator=generator
            ).tolist()
            original = Image.open(Path(options["root"]) / "train" / f"{row} of train.png")
            assert view.equal(_tensor(TF.resized_crop(original, *box, size=[8, 8])))
    seen.clear()
    extract(tmp_path / "run", tmp_path / "bank.h5", balanced_batches=1)
    assert [images.ndim for images in seen] == [dimensions[0]]


def test_crops_depend_on_seed_epoch_and_process_only() -> None:
    """Reference: generators of `draws_of` against each other."""

    def drawn(seed: int, epoch: int, rank: int) -> int:
        return int(draws_of(seed, epoch, ProcessGroup(rank, 2, CPU)).crops.integers(2**63))

    keys = [(s, e, r) for s in (0, 1) for e in (0, 1) for r in (0, 1)]
    assert len({drawn(*key) for key in keys}) == 8
    assert [drawn(*key) for key in keys] == [drawn(*key) for key in keys]


def test_copies_of_a_bank_are_cut_from_originals(
    make_lists: MakeLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the first copy does not depend on their number; each is a crop of its own.

    Both experts have their own, too.
    """
    options = make_lists(train=[0, 1, 1, 0, 1, 0, 0, 1], test=[0, 1])
    settings = _settings(options, epochs=1, experts=2, augmentation="resized-flip+resized-crop")
    train(settings, tmp_path / "run")
    copies, seen = {}, []

    def spied(images: torch.Tensor, *arguments: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        seen.append(images)
        return augmented(images, *arguments, **named)

    monkeypatch.setattr("stage1.inference.features.augmented", spied)
    for A in (1, 3):
        extract(tmp_path / "run", tmp_path / f"{A}.h5", augmentations=A, balanced_batches=2)
        with Bank(tmp_path / f"{A}.h5") as bank:
            copies[A] = {view: bank.load_copies("train", view) for view in bank.views}
    one_copy, *three = seen
    assert [images.shape for images in seen] == [(8, 2, 3, 8, 8)] * 4
    assert one_copy.equal(three[0])
    views = torch.cat(three, 1).flatten(2)
    assert all(len(of_image.unique(dim=0)) == 6 for of_image in views)
    for view, features in copies[3].items():
        assert features[:1] == pytest.approx(copies[1][view], abs=1e-6), view
        for one, other in ((0, 1), (1, 2)):
            assert np.abs(features[one] - features[other]).max() > 1e-3


def test_an_earlier_checkpoint_keeps_its_centre(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: the largest centre square, which checkpoints without `resize` were trained on."""
    options = make_lists(train=[0, 1, 1, 0], test=[0, 1])
    path = train(_settings(options, epochs=1, augmentation="standard"), tmp_path / "run")
    document = torch.load(path, weights_only=True)
    del document["settings"]["dataset"]["resize"]
    torch.save({**document, "schema": 2}, path)
    assert load_checkpoint(path)[1].settings.dataset.resize == 0
    extract(path, tmp_path / "bank.h5", balanced_batches=1)


@pytest.mark.parametrize(
    ("changes", "resize"), [({}, 256), ({"image_size": 112}, 128), ({"resize": 0}, 0)]
)
def test_published_data_sets_resize_to_256_before_224(changes: dict[str, int], resize: int) -> None:
    """Reference: METHODS.md §9, test: resize 256, centre 224; in proportion for other sizes."""
    from stage1.data.catalogue import resolved_settings

    settings = resolved_settings(DatasetSettings("imagenet-lt", root="images", **changes))
    assert settings.resize == resize


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image_size": 8, "resize": 7},
            "--resize 7 is smaller than --image-size 8. Give --image-size at most as large.",
        ),
        ({"resize": 7}, "--resize 7 keeps no centre. Give --image-size at most as large."),
        ({"resize": -1}, "The 'resize' of data set 'lists' must be an integer ≥ 0, got -1."),
    ],
)
def test_a_wrong_resize_gets_one_sentence(
    make_lists: MakeLists, changes: dict[str, int], sentence: str
) -> None:
    """Reference: the sentence."""
    options = make_lists(train=[0, 1], test=[0])
    with pytest.raises(errors.ConfigError) as caught:
        load_dataset(dataclasses.replace(DatasetSettings("lists", **options), **changes))
    assert str(caught.value) == sentence


def test_a_broken_original_is_reported_with_its_line(tmp_path: Path) -> None:
    """Reference: the list and the line, as without crops."""
    images = _originals(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    cuts = cuts_of(images, "resized-flip", lambda rows: np.random.default_rng(0))
    with pytest.raises(errors.DataError, match=r"list\.txt line 4: .* not a readable image"):
        [*batches_of(images, [torch.arange(5)], CPU, cuts)]
