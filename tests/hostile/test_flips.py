"""One flipped bit, anywhere in a bank: the content is read as it was written, or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import pytest

from tests.hostile.banks import everything, write_full
from tests.hostile.children import in_children

Bit = tuple[int, int]
"""Byte and bit."""


def read_flipped(path: Path, bits: Iterable[Bit]) -> Counter[str]:
    """Count the outcomes of reading a bank with each of `bits` flipped."""
    sound, content = path.read_bytes(), everything(path)
    damaged = path.with_name("damaged.h5")

    def read(bit: Bit) -> str:
        place, number = bit
        data = bytearray(sound)
        data[place] ^= 1 << number
        damaged.write_bytes(data)
        return "equal" if everything(damaged) == content else "different"

    outcomes = in_children(read, bits := list(bits))
    for bit, outcome in zip(bits, outcomes, strict=True):
        harmless = outcome.text == "equal" or "BankError" in outcome.bases
        assert harmless and "\n" not in outcome.text, (bit, outcome)  # noqa: PT018
    return Counter(
        outcome.text if outcome.kind == "returned" else outcome.kind for outcome in outcomes
    )


def random_bits(path: Path, count: int, seed: int) -> Iterator[Bit]:
    """Bits anywhere in the file."""
    draw, size = random.Random(seed), path.stat().st_size
    return ((draw.randrange(size), draw.randrange(8)) for _ in range(count))


def metadata(path: Path) -> list[int]:
    """The bytes of a bank that no dataset's chunks lie in."""
    data: set[int] = set()

    def add(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            for i in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(i)
                data.update(range(chunk.byte_offset, chunk.byte_offset + chunk.size))

    with h5py.File(path) as file:
        file.visititems(add)
    return sorted(set(range(path.stat().st_size)) - data)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_flipped_bit_anywhere(tmp_path: Path, dtype: str) -> None:
    """75 random bits of each type's bank; some hit what is read and some do not."""
    path = write_full(tmp_path / "b.h5", dtype=dtype)
    ends = read_flipped(path, random_bits(path, 75, seed=0))
    assert set(ends) >= {"equal", "Corrupt"}, ends


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [24, 1200])
def test_two_thousand_flipped_bits(tmp_path: Path, dtype: str, rows: int) -> None:
    """1,000 of each type, in a bank that is half metadata and in one that is nearly all data."""
    path = write_full(tmp_path / "b.h5", rows=rows, dtype=dtype)
    ends = read_flipped(path, random_bits(path, 500, seed=1))
    print(f"\n{dtype}, {path.stat().st_size} bytes: {dict(ends)}")


@pytest.mark.long
def test_a_flipped_bit_in_every_byte_of_the_metadata(tmp_path: Path) -> None:
    """Superblock, object headers, attributes, links: one bit of each byte, another by seed."""
    path = write_full(tmp_path / "b.h5")
    draw, places = random.Random(2), metadata(path)
    ends = read_flipped(path, ((place, draw.randrange(8)) for place in places))
    print(f"\n{len(places)} of {path.stat().st_size} bytes: {dict(ends)}")
