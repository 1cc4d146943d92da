"""Extraction from a pretrained model that no run of stage 1 made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import v2

from featbank import errors
from featbank.bank import Bank
from stage1.backbones import build_backbone, load_weights, read_weights
from stage1.data.images import DatasetSettings, Preprocessing
from stage1.extraction.extract import extract
from stage1.extraction.frozen import Frozen
from stage1.inference.normalisation import CHANNEL_MOMENTS, default_normalisation, normalised_by
from stage1.training.checkpoint import load_checkpoint
from stage1.training.settings import default_settings, settings_from
from stage1.training.train import train

MakeLists = Callable[..., dict[str, Any]]
DIGITS = DatasetSettings("digits-lt")


def resnet18(path: Path, num_classes: int = 1000) -> models.ResNet:
    """torchvision's model with random weights, moved from their initial values; saved to `path`."""
    torch.manual_seed(0)
    model = models.resnet18(num_classes=num_classes).eval()
    for name, value in model.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    torch.save(model.state_dict(), path)
    return model.double()


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dict of a CIFAR ResNet for grey images, of 7 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet8.pt"
    model = build_backbone("resnet8", in_channels=1, num_classes=7)
    torch.save(model.state_dict(), path)
    return path


def listed(options: dict[str, Any], split: str) -> list[Path]:
    """The files of a split's list."""
    lines = Path(options[f"{split}_list"]).read_text().splitlines()
    return [Path(options["root"]) / line.rsplit(" ", 1)[0] for line in lines]


def outputs(model: models.ResNet, options: dict[str, Any], split: str) -> list[np.ndarray]:
    """Pooled features and logits by torchvision alone, in float64."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    prepare = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float64, scale=True)])
    images = [prepare(Image.open(path)) for path in listed(options, split)]
    seen: list[torch.Tensor] = []
    hook = model.avgpool.register_forward_hook(lambda _, __, pooled: seen.append(pooled))
    with torch.no_grad():
        logits = model(v2.functional.normalize(torch.stack(images), mean, std))
    hook.remove()
    return [seen[0].flatten(1).numpy(), logits.numpy()]


def test_features_are_torchvisions(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: torchvision's model in float64, before its `fc`; the bank has no classifier."""
    options = make_lists(train=[0, 1, 1, 0, 1], test=[1, 0])
    weights = tmp_path / "resnet18.pth"
    model = resnet18(weights)
    lines: list[str] = []
    request = Frozen(str(weights), "resnet18", DatasetSettings("lists", **options))
    extract(request, tmp_path / "bank.h5", balanced_batches=1, report=lines.append)
    assert lines[-1] == (
        "The weights have no classifier of 2 classes, so the bank has none: stage 2 starts from a "
        "linear probe. They count as trained on other images; if they were trained on these, add "
        "--seen."
    )
    with Bank(tmp_path / "bank.h5") as bank:
        assert bank.classifiers == ()
        assert bank.views == ("instance", "balanced")
        for split in ("train", "test"):
            features, _ = outputs(model, options, split)
            np.testing.assert_allclose(bank.load(split)[0], features, rtol=1e-5, atol=1e-6)
        assert bank.labels("train").tolist() == [0, 1, 1, 0, 1]
        made = bank.provenance
    assert made["made_by"] == "featbank extract"
    assert made["weights"] == str(weights)
    assert made["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (made["backbone"], made["normalisation"]) == ("resnet18", "imagenet")
    assert (made["augmentation"], made["dataset"]["name"]) == ("standard", "lists")


def test_a_classifier_of_as_many_classes_is_banked(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: torchvision's `fc`, and its logits in float64."""
    options = make_lists(train=[0, 1, 2, 0], test=[1, 0])
    model = resnet18(tmp_path / "w.pth", num_classes=3)
    lines: list[str] = []
    request = Frozen(str(tmp_path / "w.pth"), "resnet18", DatasetSettings("lists", **options))
    extract(request, tmp_path / "bank.h5", views=["instance"], report=lines.append)
    assert lines[-1] == (
        "The bank has the classifier of the weights: its classes must be the data set's. They "
        "count as trained on train; if they were not, add --seen none."
    )
    with Bank(tmp_path / "bank.h5") as bank:
        classifier = bank.classifier("instance")
        assert classifier is not None
        np.testing.assert_array_equal(classifier[0], model.fc.weight.detach().float().numpy())
        logits = bank.load("test")[0] @ classifier[0].T + classifier[1]
        np.testing.assert_allclose(logits, outputs(model, options, "test")[1], atol=1e-4)


def test_what_the_weights_were_trained_on(make_lists: MakeLists, tmp_path: Path) -> None:
    """As it is said, else train where the classifier fits; an image that two lists name counts in
    both, and so is seen in either."""
    options = make_lists(train=[0, 1, 2, 0], val=[2, 1, 0], test=[1, 0])
    lines = Path(options["train_list"]).read_text().splitlines()
    with Path(options["val_list"]).open("a") as file:
        file.write(f"./{lines[1]}\n")  # the same file
    data = DatasetSettings("lists", **options)
    for classes, seen, expected in (
        (3, None, {"train": [1, 1, 1, 1], "val": [0, 0, 0, 1], "test": [0, 0]}),
        (5, None, {"train": [0, 0, 0, 0], "val": [0, 0, 0, 0], "test": [0, 0]}),
        (3, "none", {"train": [0, 0, 0, 0], "val": [0, 0, 0, 0], "test": [0, 0]}),
        (5, "train", {"train": [1, 1, 1, 1], "val": [0, 0, 0, 1], "test": [0, 0]}),
        (5, "train+val", {"train": [1, 1, 1, 1], "val": [1, 1, 1, 1], "test": [0, 0]}),
    ):
        resnet18(tmp_path / "w.pth", num_classes=classes)
        request = Frozen(str(tmp_path / "w.pth"), "resnet18", data, seen=seen)
        with pytest.warns(UserWarning, match="train and val share 1 image"):
            extract(request, tmp_path / "b.h5", views=["instance"], overwrite=True)
        with Bank(tmp_path / "b.h5") as bank:
            stored = {split: bank.flags(split, "seen") for split in bank.splits}
        assert {s: m.astype(int).tolist() for s, m in stored.items() if m is not None} == expected
    with pytest.raises(errors.ConfigError, match=r"got 'val'"):
        Frozen(str(tmp_path / "w.pth"), "resnet18", data, seen="val")
    request = Frozen(
        str(tmp_path / "w.pth"),
        "resnet18",
        DatasetSettings("lists", **{**options, "val_list": None}),
        seen="train+val",
    )
    with pytest.raises(errors.ConfigError, match=r"--seen train\+val needs a val split, and lists"):
        extract(request, tmp_path / "c.h5", views=["instance"])
    assert not (tmp_path / "c.h5").exists()


def test_whether_the_classifier_was_loaded(resnet8: Path) -> None:
    """Reference: K by hand; of experts, all must have theirs."""
    state = read_weights(resnet8)
    for K, experts, loaded in ((7, 1, True), (10, 1, False), (7, 2, True), (10, 2, False)):
        model = build_backbone("resnet8", in_channels=1, num_classes=K, experts=experts)
        assert load_weights(model, state, source="w.pt") is loaded
    del state["classifier.weight"], state["classifier.bias"]
    model = build_backbone("resnet8", in_channels=1, num_classes=7)
    assert not load_weights(model, state, source="w.pt")


_IMAGENET = models.ResNet18_Weights.DEFAULT.transforms()


@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("imagenet", (_IMAGENET.mean, _IMAGENET.std)),
        ("half", ([0.5] * 3, [0.5] * 3)),
        ("clip", ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276])),
    ],
)
def test_pixels_are_normalised_as_torchvision_does(
    name: str, moments: tuple[list[float], list[float]]
) -> None:
    """Reference: (x/255 − mean)/std by torchvision; ImageNet's moments are those of its weights.

    CLIP's are of its paper's release, to three digits.
    """
    given = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 2, flip=True)
    preprocessing = normalised_by(given, name)
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = v2.functional.normalize(images.double() / 255, *moments)
    mean, std = (torch.tensor(m).view(-1, 1, 1) for m in (preprocessing.mean, preprocessing.std))
    torch.testing.assert_close((images.double() - mean) / std, expected, rtol=0, atol=5e-3)
    for row, digits in zip(CHANNEL_MOMENTS[name], moments, strict=True):
        np.testing.assert_allclose(row, digits, atol=6e-4 if name == "clip" else 0)
    assert (preprocessing.pad, preprocessing.flip) == (2, True)
    assert normalised_by(given, "data") == given
    grey = Preprocessing((1.0,), (4.0,), 2, flip=True)
    with pytest.raises(errors.ConfigError) as caught:
        normalised_by(grey, name)
    assert str(caught.value) == (
        f"Normalisation {name!r} is for images of 3 channels, and these have 1. "
        "Take --normalisation data."
    )


@pytest.mark.parametrize(
    ("backbone", "channels", "expected"),
    [
        ("resnet50", 3, "imagenet"),
        ("torchvision:vgg11", 3, "imagenet"),
        ("timm:vit_base_patch16_224", 3, "imagenet"),
        ("resnet50", 1, "data"),
        ("resnet32", 3, "data"),
        ("cifar-resnet34", 3, "data"),
        ("cifar-resnet50", 3, "data"),
    ],
)
def test_the_default_normalisation(backbone: str, channels: int, expected: str) -> None:
    """Reference: where the weights of such a backbone come from."""
    assert default_normalisation(backbone, channels) == expected


def test_work_goes_on_where_it_was_stopped(resnet8: Path, tmp_path: Path) -> None:
    """Reference: the bank of an uninterrupted run; shards of another request are not used."""
    request = Frozen(str(resnet8), "resnet8", DIGITS)
    options: dict[str, Any] = {"augmentations": 1, "balanced_batches": 1, "shard_rows": 256}
    extract(request, tmp_path / "whole.h5", **options)

    def stop(done: int, total: int) -> None:
        if done > 256:
            raise KeyboardInterrupt

    def run_again(request: Frozen) -> list[str]:
        lines: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            extract(request, tmp_path / "b.h5", **options, progress=stop, report=lines.append)
        return lines

    run_again(request)
    for change, field in (
        ({"augmentation": "cutout"}, "augmentation"),
        ({"backbone": "cifar-resnet8"}, "backbone"),
    ):
        lines = run_again(Frozen(**{**vars(request), **change}))
        assert any("are not used" in line and field in line for line in lines), lines
    run_again(request)
    lines = []
    extract(request, tmp_path / "b.h5", **options, report=lines.append)
    assert any(line.startswith("Resuming: ") for line in lines), lines
    with Bank(tmp_path / "whole.h5") as whole, Bank(tmp_path / "b.h5") as bank:
        assert bank.fingerprint == whole.fingerprint
        assert bank.provenance["normalisation"] == "data"
    assert {file.name for file in tmp_path.iterdir()} == {"whole.h5", "b.h5"}


def test_copies_are_augmented_as_asked(resnet8: Path, tmp_path: Path) -> None:
    """Reference: `none` copies are the plain images; others are not."""

    def features(name: str, **options: Any) -> np.ndarray:
        request = Frozen(str(resnet8), "resnet8", DIGITS, augmentation=name)
        path = tmp_path / f"{name}{len(options)}.h5"
        extract(request, path, views=["instance"], **options)
        with Bank(path) as bank:
            return bank.load("train")[0]

    plain = features("none")
    np.testing.assert_allclose(features("none", augmentations=1), plain, atol=1e-5)
    assert np.abs(features("resized-crop", augmentations=1) - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet51"}, "Unknown backbone 'resnet51'"),
        ({"normalisation": "image"}, "The 'normalisation' of extraction must be one of data, im"),
        ({"normalisation": "imagenet"}, "'imagenet' is for images of 3 channels, and these have 1"),
        ({"augmentation": "cutot"}, r"got 'cutot'\. Did you mean 'cutout'\?"),
        ({"dataset": DatasetSettings("digit")}, "Unknown data set 'digit'"),
        ({"dataset": DatasetSettings("folder")}, "The data set 'folder' needs --root"),
        ({"weights": "no.pt"}, r"no\.pt: no such file of weights"),
        ({"backbone": "resnet14"}, "does not fit backbone 'resnet14': .* missing"),
        ({"backbone": "resnet18"}, "does not fit backbone 'resnet18': .* missing"),
    ],
)
def test_wrong_requests_are_reported(
    resnet8: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """Reference: one line each, and nothing is written."""
    fields = {"weights": str(resnet8), "backbone": "resnet8", "dataset": DIGITS, **change}
    with pytest.raises((errors.ConfigError, errors.DataError), match=words) as caught:
        extract(Frozen(**fields), tmp_path / "bank.h5")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_looked_at_before_the_data(resnet8: Path, tmp_path: Path) -> None:
    """Reference: neither a bank that is there nor a missing folder waits for the images."""
    (tmp_path / "bank.h5").write_text("a bank")
    request = Frozen(str(resnet8), "resnet8", DatasetSettings("folder", root="nowhere"))
    with pytest.raises(errors.OutputExists, match="exists. Choose another name"):
        extract(request, tmp_path / "bank.h5")
    with pytest.raises(errors.ConfigError, match="is not a folder. Create it first"):
        extract(request, tmp_path / "no" / "bank.h5")
    with pytest.raises(errors.ConfigError, match="A pretrained model has no run"):
        extract(request, tmp_path / "b.h5", root="x")
    assert (tmp_path / "bank.h5").read_text() == "a bank"


def test_training_under_the_pretrained_models_normalisation(
    make_lists: MakeLists, tmp_path: Path
) -> None:
    """Reference: ImageNet's moments × 255; the data is still known as that of the run."""
    options = make_lists(train=[1, 0, 0], test=[1, 0])
    dataset = DatasetSettings("lists", **options)
    settings = default_settings(dataset, backbone="resnet8", epochs=1, normalisation="imagenet")
    train(settings, tmp_path / "run")
    preprocessing = load_checkpoint(tmp_path / "run")[1].preprocessing
    np.testing.assert_allclose(preprocessing.mean, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(preprocessing.std, [58.395, 57.12, 57.375])
    extract(tmp_path / "run", tmp_path / "bank.h5", views=["instance"])
    with pytest.raises(errors.ConfigError, match="'normalisation' of stage 1 must be one of data"):
        default_settings(dataset, normalisation="vit")
    with pytest.raises(errors.ConfigError, match="is for images of 3 channels, and these have 1"):
        train(default_settings("digits-lt", epochs=1, normalisation="half"), tmp_path / "grey")


def test_settings_of_earlier_checkpoints_are_read() -> None:
    """Reference: before `normalisation` there were only the moments of the data."""
    assert settings_from({"dataset": {"name": "digits-lt"}}).normalisation == "data"


def test_a_file_of_timms_hub(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: timm's model before its head, for a safetensors file of its state dict."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    options = make_lists(train=[0, 1, 1], test=[1, 0])
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=1000).eval()
    weights = tmp_path / "model.safetensors"
    save_file(model.state_dict(), weights)
    request = Frozen(str(weights), "timm:resnet18", DatasetSettings("lists", **options))
    extract(request, tmp_path / "bank.h5", views=["instance"])
    images = [v2.functional.to_image(Image.open(path)) for path in listed(options, "test")]
    x = torch.stack(images).double() / 255
    x = v2.functional.normalize(x, *map(list, CHANNEL_MOMENTS["imagenet"])).float()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True).numpy()
    with Bank(tmp_path / "bank.h5") as bank:
        assert bank.classifiers == ()
        np.testing.assert_allclose(bank.load("test")[0], expected, rtol=1e-5, atol=1e-6)
