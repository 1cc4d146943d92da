"""The storage layout of a dataset, parsed from the bytes of its object header.

When the HDF5 library opens a virtual dataset, it opens the files that the dataset is made of. So
the header is parsed first, without the library: HDF5 File Format Specification 3.0, sections
IV.A.1.b (object header of version 2) and IV.A.2.i (data layout message). Banks have headers of
version 2 alone, the only ones with a checksum.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

VIRTUAL = 3
"""Layout class of a virtual dataset, which is made of parts of others."""

_LAYOUT, _CONTINUATION = 0x08, 0x10
_MOST_BLOCKS, _MOST_BYTES = 64, 1 << 16
_TIMES, _PHASES, _ORDERED = 0x20, 0x10, 0x04


class HeaderError(Exception):
    """Not an object header of version 2."""


def layout_classes(descriptor: int, address: int) -> set[int]:
    """Layout classes that the object header at `address` declares: one, for a sound dataset.

    Raises
    ------
    HeaderError
        If the header is damaged or of another version.
    """
    try:
        return {data[1] for kind, data in _messages(descriptor, address) if kind == _LAYOUT}
    except (struct.error, IndexError, OverflowError, OSError):
        raise HeaderError("its header cannot be read") from None


def _messages(descriptor: int, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield the messages of an object header and its continuation blocks: type and data."""
    start = os.pread(descriptor, 32, address)
    signature, version, flags = struct.unpack_from("<4sBB", start)
    if (signature, version) != (b"OHDR", 2):
        raise HeaderError("its header has no checksum")
    at = 6 + (16 if flags & _TIMES else 0) + (4 if flags & _PHASES else 0)
    width = 1 << (flags & 3)  # bytes of the size of the first block
    size = int.from_bytes(start[at : at + width], "little")
    blocks = [_read(descriptor, address + at + width, size)]
    prefix = 6 if flags & _ORDERED else 4  # type, size, flags (, order)
    for block in blocks:
        at = 0
        while at + prefix <= len(block):
            kind, size = struct.unpack_from("<BH", block, at)
            data = block[at + prefix : at + prefix + size]
            if kind == _CONTINUATION and len(blocks) < _MOST_BLOCKS:
                place, extent = struct.unpack("<QQ", data)
                blocks.append(_read(descriptor, place, extent)[4:-4])  # signature, checksum
            yield kind, data
            at += prefix + size


def _read(descriptor: int, address: int, size: int) -> bytes:
    return os.pread(descriptor, min(size, _MOST_BYTES), address)
