"""Images of every kind as RGB of 8 bits: in memory, streamed, and where some are skipped."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from featbank import errors
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, batches_of
from stage1.data.pixels import Undecoded, read_rgb

RNG = np.random.default_rng(7)
GREY16 = RNG.integers(0, 1 << 16, (6, 5), np.uint16)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 5, 1), np.uint8)
ALPHA[0] = [[0], [255], [1], [128], [254]]
WAYS = {"memory": {}, "streamed": {"stream": True}, "skipping": {"skip_unreadable": True}}


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, 2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Porter and Duff's `over`, in floats."""
    share = alpha / 255
    return colour * share + 255 * (1 - share)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_rgb(path))


def loaded(path: Path, **options: object) -> list[np.ndarray]:
    """The image through a data set of two, as each of `WAYS` gives it."""
    plain = Image.fromarray(np.zeros_like(pixels(path)))
    plain.save(path.parent / "plain.png")
    (path.parent / "list.txt").write_text(f"{path.name} 0\nplain.png 1\n")
    images = []
    for way in WAYS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lists share images
            lists = dict.fromkeys(("train_list", "test_list"), str(path.parent / "list.txt"))
            dataset = load_dataset(
                DatasetSettings("lists", root=str(path.parent), **lists, **way, **options)  # type: ignore[arg-type]
            )
        (batch,) = batches_of(
            dataset.splits["train"].images, [torch.arange(2)], torch.device("cpu")
        )
        images.append(batch[0].numpy().transpose(1, 2, 0))
    return images


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "gif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_plain_images_are_pillows(tmp_path: Path, suffix: str, mode: str) -> None:
    """Reference: Pillow's ``convert("RGB")``, to the last bit."""
    if mode == "P" and suffix in ("jpg", "ppm"):
        pytest.skip("no palettes")
    image = Image.fromarray(COLOUR).convert(mode)
    path = saved(tmp_path / f"a.{suffix}", image)
    with Image.open(path) as file:
        assert (pixels(path) == np.asarray(file.convert("RGB"))).all()


def test_pixels_of_a_plain_image_stay_as_they_were(tmp_path: Path) -> None:
    """Reference: a digest from before other kinds were converted; cut and scaled, too."""
    ramp = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3) * 2654435761 >> 8
    path = saved(tmp_path / "a.png", Image.fromarray((ramp & 255).astype(np.uint8)))
    whole, *_ = loaded(path)
    cut, *_ = loaded(path, image_size=8)
    digests = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in (whole, cut)]
    assert digests == ["f4269705abc72ec3", "36ddc52c5a147bec"]


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_grey_of_16_bits_keeps_its_upper_8(tmp_path: Path, suffix: str) -> None:
    """Reference: NumPy's shift; the same grey saved as 16-bit RGB gives the same image."""
    options = {"irreversible": False} if suffix == "jp2" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(GREY16), **options)
    for image in loaded(path):
        assert (image == repeated(GREY16 >> 8)).all()
    rgb = tmp_path / "rgb.png"
    rgb.write_bytes(png(repeated(GREY16).astype(">u2"), colour=2))
    assert (pixels(rgb) == pixels(path)).all()


def test_grey_of_16_bits_with_the_high_byte_first(tmp_path: Path) -> None:
    """Reference: NumPy's shift."""
    image = Image.frombytes("I;16B", (5, 6), GREY16.astype(">u2").tobytes())
    assert (pixels(saved(tmp_path / "a.tif", image)) == repeated(GREY16 >> 8)).all()


def test_grey_of_12_bits(tmp_path: Path) -> None:
    """Reference: NumPy's shift; two values of a TIFF share three bytes."""
    values = RNG.integers(0, 1 << 12, (6, 4), np.uint16)
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    one, two = values.ravel()[::2], values.ravel()[1::2]
    packed = np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], 1).astype(np.uint8)
    bits = struct.pack("<HHI", 0x102, 3, 1)
    content = path.read_bytes().replace(bits + b"\x10", bits + b"\x0c")
    path.write_bytes(content.replace(values.tobytes(), packed.tobytes().ljust(values.nbytes)))
    assert (pixels(path) == repeated(values >> 4)).all()


def test_grey_whose_white_is_zero(tmp_path: Path) -> None:
    """Reference: the negative, which Pillow leaves to us at 16 bits; at 8 it is its own."""
    for values, high in ((GREY16, GREY16 >> 8), (COLOUR[..., 0], COLOUR[..., 0])):
        path = saved(tmp_path / "a.tif", Image.fromarray(values))
        entry = struct.pack("<HHI", 0x106, 3, 1)
        path.write_bytes(path.read_bytes().replace(entry + b"\1\0", entry + b"\0\0"))
        assert (pixels(path) == repeated(255 - high)).all()


def png(values: np.ndarray, *, colour: int, transparency: bytes = b"") -> bytes:
    """A PNG file of 16 bits, by its specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", transparency) if transparency else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_composited_on_white(tmp_path: Path, mode: str) -> None:
    """Reference: `over` in floats, to half a level; opaque pixels keep their bits."""
    image = Image.fromarray(COLOUR).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.putalpha(Image.fromarray(ALPHA[..., 0]))
    assert image.mode == mode
    colour = np.asarray(image.convert("RGBA"))[..., :3]
    for array in loaded(saved(tmp_path / ("a.tif" if mode == "PA" else "a.png"), image)):
        np.testing.assert_allclose(array, on_white(colour, ALPHA), atol=1)
        assert (array[ALPHA[..., 0] == 255] == colour[ALPHA[..., 0] == 255]).all()
        assert (array[ALPHA[..., 0] == 0] == 255).all()


@pytest.mark.parametrize("suffix", ["webp", "gif", "png"])
def test_transparent_parts_of_other_formats_are_white(tmp_path: Path, suffix: str) -> None:
    """A flat dark image with a transparent corner."""
    image = Image.new("RGBA", (6, 6), (40, 80, 120, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 2))
    if suffix == "png":  # a palette with an opacity for each colour
        image = image.quantize(4)
    options = {"lossless": True} if suffix == "webp" else {}
    array = pixels(saved(tmp_path / f"a.{suffix}", image, **options))
    assert (array[:2, :2] == 255).all()
    assert (array[3:] == (40, 80, 120)).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_a_colour_that_stands_for_nothing(tmp_path: Path, mode: str) -> None:
    """PNG's transparent colour is white; every other keeps its bits."""
    image = Image.fromarray(GREY16) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    key = image.getpixel((3, 2))
    path = saved(tmp_path / "a.png", image, transparency=key)
    plain = pixels(saved(tmp_path / "b.png", image))
    is_key = [[image.getpixel((x, y)) == key for x in range(5)] for y in range(6)]
    assert (pixels(path) == np.where(np.array(is_key)[..., None], 255, plain)).all()


def test_a_transparent_colour_of_16_bits(tmp_path: Path) -> None:
    """It is scaled as the pixels are, in RGB."""
    values = repeated(GREY16).astype(">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png(values, colour=2, transparency=values[4, 1].tobytes()))
    array = pixels(path)
    assert (array[4, 1] == 255).all()
    assert (array[0] == repeated(GREY16 >> 8)[0]).all()


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path: Path, suffix: str) -> None:
    """Reference: 255 − ink, less black, of flat patches; the JPEG is Adobe's, inverted."""
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
    image = Image.new("CMYK", (64, 16))
    for place, ink in enumerate(inks):
        image.paste(ink, (16 * place, 0, 16 * place + 16, 16))
    path = saved(tmp_path / f"a.{suffix}", image, **({"quality": 100} if suffix == "jpg" else {}))
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
    np.testing.assert_allclose(pixels(path)[8, 8::16].astype(int), expected, atol=4)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_are_converted(tmp_path: Path, mode: str) -> None:
    """Reference: the colours that were converted to them, to a few levels."""
    flat = Image.new("RGB", (8, 8), (180, 90, 60))
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(flat, srgb, lab, outputMode="LAB")
        assert image is not None
        image.info.clear()
    else:
        image = flat.convert(mode)
    array = pixels(saved(tmp_path / "a.tif", image))
    np.testing.assert_allclose(array[4, 4].astype(int), (180, 90, 60), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_orientations_are_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Reference: `ImageOps.exif_transpose`; sizes are those after turning, also where it is cut."""
    exif = Image.Exif()
    exif[0x112] = orientation
    colour = np.zeros((16, 24, 3), np.uint8)
    colour[:8, :8], colour[8:, :8], colour[:8, 16:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(colour), exif=exif, **options)
    with Image.open(path) as file:
        turned = ImageOps.exif_transpose(file).convert("RGB")
    assert turned.size == ((24, 16) if orientation < 5 else (16, 24))
    assert (pixels(path) == np.asarray(turned)).all()
    if suffix == "png":
        for array in loaded(path):
            assert (array == np.asarray(turned)).all()
        for array in loaded(path, image_size=10):
            fit = ImageOps.fit(turned, (10, 10), Image.Resampling.BILINEAR)
            assert (array == np.asarray(fit)).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_is_damaged_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    """Reference: the image without it."""
    image = Image.fromarray(COLOUR)
    path = saved(tmp_path / "a.jpg", image, exif=exif)
    assert (pixels(path) == pixels(saved(tmp_path / "b.jpg", image))).all()


UNKNOWN = {
    "floats": (Image.fromarray(GREY16.astype(np.float32) / 7), "a.tif", "floating-point"),
    "floats of a map": (Image.fromarray(GREY16.astype(np.float32)), "a.pfm", "floating-point"),
    "32 bits": (Image.fromarray(GREY16.astype(np.int32) << 12), "a.tif", "integers of 32 bits"),
    "a sign": (Image.fromarray(GREY16.astype(np.int32) - 9), "a.tif", "integers of 32 bits"),
}


@pytest.mark.parametrize(("image", "name", "says"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_values_of_no_known_range_are_refused(
    tmp_path: Path, image: Image.Image, name: str, says: str
) -> None:
    """They trained as solid white."""
    with pytest.raises(Undecoded, match=f"has .*{says}.*, whose range is unknown"):
        read_rgb(saved(tmp_path / name, image))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_of_several_frames_is_read(tmp_path: Path, suffix: str) -> None:
    """Reference: the frame; the words do not depend on the file, so Python prints them once."""
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    said = set()
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        with pytest.warns(UserWarning, match="with several frames, only the first") as caught:
            assert (pixels(path) == (255, 0, 0)).all()
        said |= {str(warning.message) for warning in caught}
    assert len(said) == 1


def test_a_camera_file_of_two_pictures_is_read_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """An MPO, as telephones write it; Pillow's first frame."""
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ((0, 200, 0), (200, 0, 0))]
    pictures[0].save(tmp_path / "a.mpo", save_all=True, append_images=pictures[1:])
    path = (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    np.testing.assert_allclose(pixels(path)[8, 8].astype(int), (0, 200, 0), atol=4)
    assert not recwarn.list


@pytest.mark.parametrize(("limit", "refused"), [(24, True), (29, True), (30, False), (14, True)])
def test_more_pixels_than_pillow_decodes_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, refused: bool
) -> None:
    """5×6 pixels: above Pillow's limit, above twice of it, and just at it."""
    path = saved(tmp_path / "a.png", Image.fromarray(COLOUR))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not refused:
            assert (pixels(path) == COLOUR).all()
            return
        with pytest.raises(Undecoded, match=r"has more than \d+ pixels, as a decompression bomb"):
            read_rgb(path)


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` cut short, or with a few bytes changed."""
    if rng.random() < 0.3:
        return content[: rng.integers(1, len(content))]
    changed = bytearray(content)
    for place in rng.integers(0, min(len(changed), rng.choice([64, 10_000])), rng.integers(1, 9)):
        changed[place] = rng.integers(256)
    return bytes(changed)


def fuzz(path: Path, rounds: int) -> None:
    """Every damaged file is read or refused, by nothing but `Undecoded`."""
    makes: list[Callable[[], tuple[Image.Image, str, dict]]] = [
        lambda: (Image.fromarray(COLOUR), "JPEG", {"exif": Image.Exif().tobytes()}),
        lambda: (Image.fromarray(COLOUR), "PNG", {}),
        lambda: (Image.fromarray(GREY16), "TIFF", {"compression": "tiff_lzw"}),
        lambda: (Image.fromarray(GREY16), "PNG", {"transparency": 5}),
        lambda: (Image.fromarray(COLOUR).quantize(9), "GIF", {"transparency": 2}),
        lambda: (Image.fromarray(COLOUR), "WEBP", {}),
        lambda: (Image.fromarray(COLOUR), "BMP", {}),
        lambda: (Image.fromarray(COLOUR), "ICO", {}),
        lambda: (Image.fromarray(COLOUR), "JPEG2000", {}),
    ]
    rng = np.random.default_rng(1)
    sound = []
    for make in makes:
        image, kind, options = make()
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        sound.append(stream.getvalue())
    ends = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in itertools.islice(itertools.cycle(sound), rounds):
            path.write_bytes(damage(content, rng))
            try:
                assert read_rgb(path).mode == "RGB"
                ends["read"] += 1
            except Undecoded:
                ends["refused"] += 1
    assert min(ends.values()) > rounds // 10, ends


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """A few hundred, of nine kinds."""
    fuzz(tmp_path / "a.png", 400)


@pytest.mark.long
def test_many_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """The long form."""
    fuzz(tmp_path / "a.png", 40_000)


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_image_is_named_with_its_line_or_left_out(tmp_path: Path, way: str) -> None:
    """Floats stop the run in memory and streamed, and are left out where that is asked for."""
    saved(tmp_path / "f.tif", Image.fromarray(GREY16.astype(np.float32)))
    for name in "abc":
        saved(tmp_path / f"{name}.png", Image.fromarray(COLOUR))
    (tmp_path / "train.txt").write_text("a.png 0\nf.tif 1\nb.png 1\n")
    (tmp_path / "test.txt").write_text("c.png 0\n")
    settings = DatasetSettings(
        "lists",
        root=str(tmp_path),
        train_list=str(tmp_path / "train.txt"),
        test_list=str(tmp_path / "test.txt"),
        **WAYS[way],  # type: ignore[arg-type]
    )
    if way == "skipping":
        with pytest.warns(UserWarning, match=r"left out, 1 in all: .*train\.txt line 2 \(f\.tif\)"):
            assert load_dataset(settings).train_counts.tolist() == [1, 1]
    else:
        with pytest.raises(errors.DataError, match=r"line 2: .*f\.tif has floating-point .* give"):
            load_dataset(settings)


def test_text_that_is_too_long_is_the_reason(tmp_path: Path) -> None:
    """A valid PNG whose text Pillow does not unpack, or not all of it."""
    for name, texts, size in (("one", 1, 3 << 20), ("many", 70, 1 << 20)):
        info = PngInfo()
        for i in range(texts):
            info.add_text(f"comment{i}", "x" * (size - 1), zip=True)
        path = saved(tmp_path / f"{name}.png", Image.fromarray(COLOUR), pnginfo=info)
        with pytest.raises(Undecoded, match="has more text in its PNG chunks than Pillow reads"):
            read_rgb(path)
