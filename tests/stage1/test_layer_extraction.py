"""Extraction of inner layers into a bank: as the libraries give them, sharded, resumed, shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from featbank import errors
from featbank.bank import Bank
from featbank.bank.verify import verify
from stage1.backbones import build_backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings
from stage1.extraction.extract import extract
from stage1.extraction.frozen import Frozen
from tests.stage1.conftest import MakeLists
from tests.stage1.test_frozen import listed, resnet18
from tests.stage1.test_layers import NEEDS_TIMM


def frozen(make_lists: MakeLists, weights: Path, backbone: str, **data: Any) -> Frozen:
    """A pretrained model on five images of 16×12."""
    options = make_lists(train=[0, 1, 0], test=[1, 0])
    return Frozen(str(weights), backbone, DatasetSettings("lists", **options, **data))


def images_of(options: dict[str, Any], split: str, side: int) -> torch.Tensor:
    """The images of a list by torchvision, normalised by ImageNet's moments, in float64."""
    prepare = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float64, scale=True)])
    images = torch.stack([prepare(Image.open(path)) for path in listed(options, split)])
    assert images.shape[-1] == side
    return v2.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_stages_of_a_cnn(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: torchvision's modules one after the other, in float64; each stage has its own
    width, and the final features are those of a bank without layers."""
    model = resnet18(tmp_path / "w.pth")
    request = frozen(make_lists, tmp_path / "w.pth", "resnet18")
    lines: list[str] = []
    options: dict[str, Any] = {"views": ["instance"]}
    chosen = {"layers": [-1, "layer2"], "tokens": ["patch", "mean", "cls"]}
    extract(request, tmp_path / "b.h5", **options, **chosen, report=lines.append)
    extract(request, tmp_path / "plain.h5", **options)
    assert "resnet18 has no class token in its layers: cls is their mean" in lines
    with Bank(tmp_path / "b.h5") as bank, Bank(tmp_path / "plain.h5") as plain:
        views = [f"layer{i}/{token}" for i in (2, 4) for token in ("cls", "mean", "patch")]
        assert set(bank.views) == {"instance", *views}
        assert plain.views == ("instance",)
        assert (bank.dim, bank.dim_of("layer2/mean"), bank.tokens("layer2/mean")) == (
            512,
            128,
            None,
        )
        data = vars(request.dataset)
        for split in ("train", "test"):
            x = images_of(data, split, 16)
            with torch.no_grad():
                x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
                for number in (1, 2, 3, 4):
                    x = getattr(model, f"layer{number}")(x)
                    if number in (2, 4):
                        patches = x.flatten(2).transpose(1, 2).numpy()
                        made = bank.load(split, f"layer{number}/patch")[0]
                        np.testing.assert_allclose(made, patches, rtol=1e-5, atol=1e-5)
                        for token in ("mean", "cls"):
                            made = bank.load(split, f"layer{number}/{token}")[0]
                            np.testing.assert_allclose(made, patches.mean(1), rtol=1e-5, atol=1e-5)
            assert np.array_equal(bank.load(split)[0], plain.load(split)[0])
        assert bank.provenance["layers"] == {"layer2": "layer2", "layer4": "layer4"}
        assert bank.provenance["tokens"] == ["cls", "mean", "patch"]
        assert "layers" not in plain.provenance
    assert "failed" not in {check.status for check in verify(tmp_path / "b.h5")}


@NEEDS_TIMM
def test_tokens_of_a_vit_in_half_precision(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: timm's `forward_intermediates` on the same images, rounded to float16; copies are
    of their own."""
    import timm

    torch.manual_seed(0)
    net: Any = timm.create_model("test_vit", num_classes=0).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    data = {"resize": 0, "image_size": 160}
    request = frozen(make_lists, tmp_path / "w.pth", "timm:test_vit", **data)
    request = Frozen(**{**vars(request), "normalisation": "half", "augmentation": "none"})
    options: dict[str, Any] = {"views": ["instance"], "dtype": "float16", "augmentations": 2}
    layers = {"layers": ["blocks.3", "-1"], "tokens": ["cls", "patch"], "layer_norm": True}
    extract(request, tmp_path / "b.h5", **options, **layers)
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.views[0] == "instance"
        assert bank.shape("train", "layer3/patch") == (2, 3, 100, 64)
        assert bank.shape("test", "layer3/patch") == (1, 2, 100, 64)
        assert (bank.tokens("layer5/patch"), bank.dim_of("layer5/patch")) == (100, 64)
        assert bank.dtype == "float16"
        assert np.array_equal(bank.load("train", "layer5/cls", copy=1)[0], bank.load("train")[0])
        assert bank.provenance["layers"] == {"layer3": "blocks.3", "layer5": "blocks.5"}
        assert bank.provenance["layer_norm"] is True
        patches, cls = (bank.load("test", f"layer3/{token}")[0] for token in ("patch", "cls"))
    images = load_dataset(request.dataset).splits["test"].images[torch.arange(2)]
    with torch.no_grad():
        ((expected, before),) = net.forward_intermediates(
            images / 127.5 - 1, [3], norm=True, output_fmt="NLC", return_prefix_tokens=True,
            intermediates_only=True,
        )  # fmt: skip
    np.testing.assert_allclose(patches, expected.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(cls, before[:, 0].numpy(), rtol=1e-3, atol=1e-3)


@NEEDS_TIMM
def test_images_of_another_size(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: 2×2 patches of 32×32 by a vision transformer for 224×224, and a line says so."""
    model = build_backbone("timm:deit_tiny_patch16_224", in_channels=3, num_classes=2)
    torch.save(model.net.state_dict(), tmp_path / "w.pth")  # type: ignore[operator, union-attr]
    request = frozen(
        make_lists, tmp_path / "w.pth", "timm:deit_tiny_patch16_224", resize=0, image_size=32
    )
    lines: list[str] = []
    options: dict[str, Any] = {"views": ["instance"], "layers": ["-1"], "tokens": ["patch"]}
    extract(request, tmp_path / "b.h5", **options, report=lines.append)
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.shape("test", "layer11/patch") == (1, 2, 4, 192)
    assert lines[-1].startswith(
        "Position embeddings for images of 224×224 were resampled to 32×32. The weights have no"
    )


def test_a_run_with_layers_resumes_bit_by_bit(digits_run: Path, tmp_path: Path) -> None:
    """Reference: the bank of an uninterrupted run; shards of other layers are not used."""
    options: dict[str, Any] = {"layers": ["-1", "0"], "tokens": ["mean", "patch"]}
    rest: dict[str, Any] = {"balanced_batches": 1, "shard_rows": 256}
    extract(digits_run, tmp_path / "whole.h5", **options, **rest)

    def stop(done: int, total: int) -> None:
        if done > 256:
            raise KeyboardInterrupt

    lines: list[str] = []
    for changed in (
        options,
        {**options, "layers": ["0"]},
        {**options, "tokens": ["mean"]},
        options,
    ):
        with pytest.raises(KeyboardInterrupt):
            extract(
                digits_run, tmp_path / "b.h5", **changed, **rest, progress=stop, report=lines.append
            )
    assert sum("are not used: the layers changed" in line for line in lines) == 2, lines
    assert sum("are not used: the tokens changed" in line for line in lines) == 1, lines
    lines.clear()
    extract(digits_run, tmp_path / "b.h5", **options, **rest, report=lines.append)
    assert any(line.startswith("Resuming: ") for line in lines), lines
    with Bank(tmp_path / "whole.h5") as whole, Bank(tmp_path / "b.h5") as bank:
        assert bank.fingerprint == whole.fingerprint
        last = max(int(view.partition("/")[0][5:]) for view in bank.views if "layer" in view)
        made, features = bank.load("test", f"layer{last}/mean")[0], bank.load("test")[0]
        np.testing.assert_allclose(made, features, atol=1e-6)
        assert bank.tokens("layer0/patch") == 64
    assert {file.name for file in tmp_path.iterdir()} == {"whole.h5", "b.h5"}


def test_a_layer_borrows_neither_classifier_nor_text(digits_run: Path, tmp_path: Path) -> None:
    """Reference: the classifier is made for the final features, also where D is the same."""
    extract(digits_run, tmp_path / "b.h5", layers=[-1], tokens=["mean"], balanced_batches=1)
    with Bank(tmp_path / "b.h5") as bank:
        (inner,) = set(bank.views) - {"instance", "balanced"}
        assert bank.dim_of(inner) == bank.dim
        assert bank.classifier("balanced") is not None
        assert bank.classifier(inner) is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ["9"]}, "has no layer '9'. It has blocks.0, blocks.1"),
        ({"layers": ["-1"], "views": ["balanced"]}, "Add instance to --views."),
        ({"tokens": ["mean"]}, "Add --layers -1 for the last."),
        ({"layer_norm": True}, "Add --layers -1 for the last."),
        ({"layers": ["-1"], "tokens": ["men"]}, "Unknown token 'men'. Did you mean 'mean'?"),
        ({"layers": ["-1"], "layer_norm": True}, "has no final norm of tokens"),
    ],
)
def test_refusals(digits_run: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """Reference: one line with a remedy, and nothing is written."""
    with pytest.raises(errors.ConfigError) as caught:
        extract(digits_run, tmp_path / "b.h5", **options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
