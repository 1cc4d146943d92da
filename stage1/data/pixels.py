"""Read an image file as upright 8-bit RGB on white, or as numbers, or say why it cannot be read.

Pillow is loaded where images are decoded.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.regular import Unopened, regular_status

if TYPE_CHECKING:
    from PIL import Image

_FULL_RANGE = ("PNG", "PPM", "TIFF", "JPEG2000")
"""Formats of which Pillow returns 16-bit values in 0…65535."""

_ORIENTATION, _BITS, _PHOTOMETRIC = 0x112, 0x102, 0x106


class Undecoded(Exception):
    """An image that cannot be read; the message completes a sentence that starts with its path."""


def read_rgb(path: Path) -> Image.Image:
    """Decode an image to RGB, as a viewer shows it.

    8-bit RGB and grey keep their values. 16-bit values keep their upper 8 bits, as Pillow does
    with 16-bit RGB. Alpha is composited on white. EXIF orientations are applied. Only the first of
    several frames is read, with a warning for each format.

    Raises
    ------
    FileNotFoundError
        For a path without a file.
    Undecoded
        For anything but a regular file, and for one that is empty, damaged, too large, or of an
        unknown range of values.
    """
    with _decoded(path) as file:
        return _upright(_in_colour(file), file)


def read_values(path: Path) -> np.ndarray:
    """Decode the numbers of a PNG of one channel [H, W]: grey values, or entries of the palette.

    Returns
    -------
    uint8, or uint16 for 16 bits. Pillow scales grey of 2 and 4 bits to 0…255.

    Raises
    ------
    FileNotFoundError, Undecoded
        As `read_rgb`.
    """
    with _decoded(path) as file:
        return np.asarray(file).astype(np.uint16 if file.mode.startswith("I") else np.uint8)


@contextlib.contextmanager
def _decoded(path: Path) -> Iterator[Any]:
    """Yield Pillow's image of a file; errors, also those of the body, are those of `read_rgb`."""
    from PIL import Image

    try:
        if regular_status(path).st_size == 0:
            raise Undecoded("is empty (0 bytes)")
        with Image.open(path) as file:
            _check_size(file, Image.MAX_IMAGE_PIXELS)
            _warn_of_frames(file)
            file.load()
            yield file
    except Unopened as error:
        raise Undecoded(str(error)) from None
    except (FileNotFoundError, MemoryError, Undecoded):
        raise
    except PermissionError as error:
        raise Undecoded(f"cannot be opened ({error.strerror})") from None
    except Image.DecompressionBombError:
        raise _too_large(2 * (Image.MAX_IMAGE_PIXELS or 0)) from None
    except ValueError as error:
        if "MAX_TEXT" in str(error):
            raise Undecoded("has more text in its PNG chunks than Pillow reads") from None
        raise _unreadable(error) from None
    except Exception as error:  # a damaged file raises anything, depending on the format
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> Undecoded:
    return Undecoded(f"is not a readable image ({type(error).__name__})")


def _check_size(image: Image.Image, limit: int | None) -> None:
    """Apply Pillow's limit; it raises at twice that itself, and every decoding thread needs it."""
    if limit is not None and image.width * image.height > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Undecoded:
    return Undecoded(f"has more than {limit:,} pixels, as a decompression bomb has")


def _warn_of_frames(file: Any) -> None:
    """Warn once for each format: Python prints equal warnings once.

    The other pictures in an MPO, a camera's JPEG, are previews and further views.
    """
    if file.format != "MPO" and getattr(file, "is_animated", False):
        warnings.warn(f"Of {file.format} images with several frames, only the first is read.")


def _in_colour(file: Any) -> Image.Image:
    if file.mode == "F":
        raise Undecoded("has floating-point values, whose range is unknown")
    if file.mode.startswith("I"):
        return _eight_bits(file).convert("RGB")
    if "transparency" in file.info or file.mode in ("LA", "PA", "RGBA", "RGBa"):
        return _on_white(file)
    return file.convert("RGB")


def _eight_bits(file: Any) -> Image.Image:
    """The upper 8 bits of 12-bit or 16-bit grey values."""
    from PIL import Image

    # Before 11.3, Pillow opened 16-bit PNG files in the mode of 32 bits, as it still does PGM.
    if file.format not in _FULL_RANGE or (file.mode == "I" and file.format not in ("PNG", "PPM")):
        raise Undecoded("has integers of 32 bits or with a sign, whose range is unknown")
    values = np.asarray(file)
    tags = getattr(file, "tag_v2", {})
    grey = (values >> (int(np.max(tags.get(_BITS, 16))) - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow respects only at 8 bits
        grey = 255 - grey
    if "transparency" in file.info:
        grey[values == file.info["transparency"]] = 255
    return Image.fromarray(grey)


def _on_white(file: Any) -> Image.Image:
    from PIL import Image

    key = file.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, as the values were in the file
        file.info["transparency"] = tuple(value >> 8 for value in key)
    image = file.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _upright(image: Image.Image, file: Image.Image) -> Image.Image:
    """Turn `image` by the EXIF orientation of `file`; damaged EXIF is ignored."""
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        method = methods.get(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # as in `read_rgb`
        method = None
    return image if method is None else image.transpose(method)
