"""Maps of segmentation networks, with random weights. Reference: the network itself."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from featbank import Bank
from featbank.errors import ConfigError, DataError, NotFinite
from stage1.data.labelmaps import Pair, find_pairs
from stage1.segmentation import MODELS, Segmenter, extract_maps, load_segmenter
from tests.conftest import Run

MOBILE = "deeplabv3_mobilenet_v3_large"
CPU = torch.device("cpu")
COMMAND = ("extract-maps", "net.pth", "--images", "photos", "--labels", "labels", "-o", "m.h5")
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def made(name: str, classes: int = 5, **options: bool) -> nn.Module:
    """A network of random weights; norms are those of random images, logits of order 1."""
    torch.manual_seed(0)
    model = MODELS[name](weights=None, weights_backbone=None, num_classes=classes, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        images = (torch.rand(6, 3, 33, 65) - 0.45) / 0.225
        model(images)
        logits = model.eval()(images)["out"]
        model.classifier[4].weight /= logits.std()
    return model


class Small(nn.Module):
    """A network of our own: stride 2, a last layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.last = nn.Conv2d(6, 5, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.stem(images).relu())


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Pair]:
    """Three images with labels: of 8 bits, of 16, and with a palette; 255 is ignored."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    Path("labels").mkdir()
    for name, depth in (("a", np.uint8), ("b", np.uint16), ("c", np.uint8)):
        image = rng.integers(0, 256, (33, 65, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"photos/{name}.png")
        labels = rng.choice([0, 1, 2, 3, 255], (33, 65)).astype(depth)
        picture = Image.fromarray(labels)
        if name == "c":
            picture.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        picture.save(f"labels/{name}.png")
        np.save(f"{name}.npy", labels)
    return find_pairs(Path("photos"), Path("labels"))[0]


def logits_of(model: nn.Module, pair: Pair) -> torch.Tensor:
    """The network's logits [K, h, w] before upsampling."""
    image = (np.asarray(Image.open(pair.image)).astype(np.float32) / 255 - MEAN) / STD
    with torch.no_grad():
        inner = model.backbone(torch.from_numpy(image.transpose(2, 0, 1))[None])["out"]
        return model.classifier(inner)[0]


@pytest.mark.parametrize("name", [MOBILE, "fcn_resnet50"])
def test_the_network_itself(featbank: Run, pairs: list[Pair], name: str) -> None:
    """Features through weight and bias are its logits; labels are those of the files."""
    model = made(name)
    torch.save(model.state_dict(), "net.pth")
    said = featbank(*COMMAND, "--model", name, "--dtype", "float32", "--device", "cpu").stdout
    with h5py.File("m.h5") as file:
        arrays = {key: file[key][()] for key in file}
    expected = torch.stack([logits_of(model, pair) for pair in pairs])
    h, w = expected.shape[2:]
    assert f"Wrote 3 maps of {h} × {w}, {arrays['features'].shape[-1]} channels, to m.h5" in said
    logits = arrays["features"] @ arrays["weight"].T + arrays["bias"]
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected.permute(0, 2, 3, 1), atol=1e-5)
    assert arrays["labels"].dtype == np.uint16
    for m, each in enumerate("abc"):
        assert (arrays["labels"][m] == np.load(f"{each}.npy")).all()
    assert arrays["names"].tolist() == [b"a.png", b"b.png", b"c.png"]


def test_the_road_to_a_bank(featbank: Run, pairs: list[Pair]) -> None:
    """The file is one of `featbank import --maps`, whose classifier is the network's."""
    model = made(MOBILE, aux_loss=True)
    torch.save(model.state_dict(), "net.pth")
    featbank(*COMMAND, "--model", MOBILE, "--device", "cpu", "--batch-size", 2)
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    Path("copy.h5").write_bytes(Path("m.h5").read_bytes())
    with h5py.File("copy.h5", "r+") as file:
        for name in ("features", "labels"):
            file[name][...] = file[name][()][::-1]
    rows = (
        "--test",
        "m.h5:features",
        "m.h5:labels",
        "--train",
        "copy.h5:features",
        "copy.h5:labels",
    )
    more = ("--classifier", "m.h5:weight", "m.h5:bias", "--class-names", "names.txt")
    featbank("import", "--maps", *rows, *more, "--ignore-label", 255, "-o", "bank.h5")
    with Bank("bank.h5") as bank:
        assert bank.dtype == "float16"
        maps = bank.maps("test")
        assert maps is not None
        assert len(maps) == 3
        x = maps.features(1).astype(np.float32)
        weight, bias = bank.classifier("instance")
        assert (weight == model.classifier[4].weight.detach().flatten(1).numpy()).all()
        expected = logits_of(model, pairs[1]).permute(1, 2, 0)
        np.testing.assert_allclose(x @ weight.T + bias, expected, atol=5e-3)


def test_any_network(pairs: list[Pair]) -> None:
    """A named layer of any module; batches change nothing, and a missing bias is 0."""
    torch.manual_seed(0)
    segmenter = Segmenter.of(Small(), "last", "half")
    for size in (1, 2):
        shape = extract_maps(segmenter, pairs, Path(f"{size}.h5"), batch_size=size, half=False)
        assert shape == (3, 17, 33, 6)
    with h5py.File("1.h5") as one, h5py.File("2.h5") as two:
        np.testing.assert_allclose(one["features"], two["features"], atol=1e-6)
        assert (one["bias"][()] == 0).all()
        x = torch.from_numpy(np.array(Image.open("photos/a.png"))).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = segmenter.model((x / 255 - 0.5) / 0.5)[0].permute(1, 2, 0)
        logits = one["features"][0] @ one["weight"][()].T
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_sizes(pairs: list[Pair]) -> None:
    """Sizes that differ need one size: labels are then those of the nearest pixel."""
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save("photos/b.png")
    Image.fromarray(np.zeros((40, 50), np.uint8)).save("labels/b.png")
    pairs, _ = find_pairs(Path("photos"), Path("labels"))
    segmenter = Segmenter.of(Small(), "last")
    with pytest.raises(DataError, match="b.png has 40 × 50 pixels, .*--resize H W"):
        extract_maps(segmenter, pairs, Path("m.h5"))
    assert extract_maps(segmenter, pairs, Path("m.h5"), size=(66, 65)) == (3, 33, 33, 6)
    with h5py.File("m.h5") as file:
        assert (file["labels"][0] == np.load("a.npy").repeat(2, axis=0)).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(pairs: list[Pair], bits: int) -> None:
    """Grey of few bits keeps its numbers, which Pillow scales. Reference: a PNG packed here."""
    values = np.random.default_rng(1).integers(0, 1 << bits, (33, 65), dtype=np.uint8)
    planes = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(33, -1)
    packed = np.packbits(planes, axis=1)
    data = zlib.compress(np.pad(packed, ((0, 0), (1, 0))).tobytes())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 65, 33, bits, 0, 0, 0, 0)), (b"IDAT", data)]
    with Path("labels/a.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in [*chunks, (b"IEND", b"")]:
            crc = zlib.crc32(name + content)
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc))
    assert (pairs[0].read()[1] == values).all()


def test_networks_without_such_a_layer(pairs: list[Pair]) -> None:
    """One line with the remedy."""
    with pytest.raises(ConfigError, match="Small has no 1 × 1 convolution 'stem'.*'last'"):
        Segmenter.of(Small(), "stem")
    lraspp = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(ConfigError, match="LRASPP has no 1 × 1 convolution 'classifier.4'"):
        Segmenter.of(lraspp, "classifier.4")
    unused = Small()
    unused.spare = nn.Conv2d(6, 5, 1)
    with pytest.raises(ConfigError, match="runs the layer 0 times"):
        extract_maps(Segmenter.of(unused, "spare"), pairs, Path("m.h5"))
    assert not Path("m.h5").exists()


def test_weights_that_do_not_fit(pairs: list[Pair]) -> None:
    """One line with the remedy."""
    file = Path("net.pth")
    torch.save(made(MOBILE).state_dict(), file)
    with pytest.raises(ConfigError, match="'lraspp_mobilenet_v3_large' is no segmentation network"):
        load_segmenter("lraspp_mobilenet_v3_large", file, device=CPU)
    with pytest.raises(DataError, match="net.pth (does not fit|lacks).* Name its --model"):
        load_segmenter("fcn_resnet50", file, device=CPU)
    torch.save({"fc.weight": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="has no classifier.4.weight"):
        load_segmenter(MOBILE, file, device=CPU)
    segmenter = Segmenter.of(Small(), "last")
    with torch.no_grad():
        segmenter.model.stem.weight *= 1e7
    with pytest.raises(NotFinite, match=r"a.png on have NaN or infinity"):
        extract_maps(segmenter, pairs, Path("m.h5"))


def test_files_that_do_not_fit(featbank: Run, pairs: list[Pair]) -> None:
    """One line with the remedy, and no file, not even a half one."""
    torch.save(made(MOBILE).state_dict(), "net.pth")
    command = (*COMMAND, "--model", MOBILE, "--device", "cpu")
    Path("photos/d.png").write_bytes(Path("photos/a.png").read_bytes())
    with pytest.warns(UserWarning, match="1 file in photos and labels without a partner left out"):
        featbank(*command)
    for name in ("m.h5", "photos/d.png"):
        Path(name).unlink()
    image = Path("photos/c.png").read_bytes()
    Image.fromarray(np.zeros((33, 64, 3), np.uint8)).save("photos/c.png")
    error = featbank(*command, code=2).stderr
    assert "labels/c.png has 33 × 65 pixels, photos/c.png 33 × 64. Give labels" in error
    Path("photos/c.png").write_bytes(image[:200])
    assert "photos/c.png is not a readable image" in featbank(*command, code=2).stderr
    Path("photos/c.png").write_bytes(image)
    Path("labels/c.png").write_bytes(image)
    assert "labels/c.png has several channels" in featbank(*command, code=2).stderr
    Path("labels/c.png").write_bytes(b"none")
    assert "labels/c.png is not a readable PNG file" in featbank(*command, code=2).stderr
    Path("labels/c.png").unlink()
    Path("photos/a.jpg").write_bytes(image)
    assert "photos has a.jpg and a.png" in featbank(*command, code=2).stderr
    for path in Path("photos").iterdir():
        path.unlink()
    assert "No image in photos (0 images)" in featbank(*command, code=2).stderr
    Path("photos").rmdir()
    assert "photos is not a folder" in featbank(*command, code=2).stderr
    assert not [*Path().glob("*m.h5*"), *Path().glob(".m.h5*")]


def test_interrupted(pairs: list[Pair]) -> None:
    """An interrupted run leaves an earlier file as it was, and no part of a new one."""
    Path("m.h5").write_text("earlier")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_maps(Segmenter.of(Small(), "last"), pairs, Path("m.h5"), report=interrupt)
    assert Path("m.h5").read_text() == "earlier"
    assert not [*Path().glob(".m.h5*")]
