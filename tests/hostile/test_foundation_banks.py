"""Tokens, widths, text and default scales of any content: refused in one line, or read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank, errors
from featbank.bank.verify import verify
from tests.hostile.banks import (
    CLASSES,
    FEATURE,
    ROWS,
    TOKENS,
    WIDTH,
    assert_refused,
    assert_refused_in_time,
    everything,
    opened,
    replace,
    write_full,
)
from tests.hostile.test_flips import read_flipped

TOKEN, TEXT, FACTOR = "train/tokens/feature", "text/tokens/feature", "text/tokens/logit_scale"
SCALE = "scale/tokens/default"
EMBEDDINGS = np.ones((1, CLASSES, WIDTH), np.float32)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank of schema 5 with all there can be."""
    return write_full(tmp_path / "full.h5", foundation=True)


def tokens(*shape: int) -> np.ndarray:
    """Features of zeros."""
    return np.zeros(shape, np.float32)


ARRAYS = {
    "tokens of another count": (TOKEN, tokens(1, ROWS, 9, WIDTH), "test/tokens/feature has shape"),
    "tokens of another width": (TOKEN, tokens(1, ROWS, TOKENS, 9), "test/tokens/feature has shape"),
    "tokens in train only": (TOKEN, tokens(1, ROWS, WIDTH), "test/tokens/feature has shape"),
    "no tokens": (TOKEN, tokens(1, ROWS, 0, WIDTH), f"{TOKEN} has rows of shape [0, {WIDTH}]"),
    "tokens of five axes": (TOKEN, tokens(1, 1, ROWS, TOKENS, WIDTH), "5 axes, not float32"),
    "another type of tokens": (
        TOKEN,
        tokens(1, ROWS, TOKENS, WIDTH).astype("f2"),
        "all features have one type",
    ),
    "first view of another width": (FEATURE, tokens(2, ROWS, 9), "dim is 8, instance has D = 9"),
    "text of another width": (TEXT, EMBEDDINGS[..., 1:], "not [A ≥ 1, 3, 6]"),
    "text of other classes": (TEXT, EMBEDDINGS[:, 1:], "not [A ≥ 1, 3, 6]"),
    "text of no prompt": (TEXT, EMBEDDINGS[:0], "not [A ≥ 1, 3, 6]"),
    "text of two axes": (TEXT, EMBEDDINGS[0], "2 axes, not float32 and 3"),
    "text float16": (TEXT, EMBEDDINGS.astype("f2"), "has type float16"),
    "text with NaN": (TEXT, EMBEDDINGS * np.nan, f"{TEXT} has embeddings that are 0 or not"),
    "text of zeros": (TEXT, EMBEDDINGS * 0, f"{TEXT} has embeddings that are 0 or not"),
    "factor float32": (FACTOR, np.ones(1, "f4"), "has type float32"),
    "two factors": (FACTOR, np.ones(2), "has shape [2], not [1]"),
    **{
        f"factor {value}": (FACTOR, np.array([value]), f"{FACTOR} is {value}, which is no scale")
        for value in (0.0, -1.0, np.nan, np.inf)
    },
    "scale of another word": (SCALE, np.array([b"units"]), "is 'units', which is no scale"),
    "scale 0": (SCALE, np.array([b"0"]), "is '0', which is no scale"),
    "scale below 0": (SCALE, np.array([b"-1"]), "is '-1', which is no scale"),
    "scale not UTF-8": (SCALE, np.array([b"\xff"]), "row 0 is not UTF-8"),
    "two scales": (SCALE, np.array([b"unit", b"unit"]), "has shape [2], not [1]"),
}


@pytest.mark.parametrize("case", ARRAYS.values(), ids=ARRAYS.keys())
def test_another_array(bank: Path, case: tuple[str, np.ndarray, str]) -> None:
    """Type, axes, shape and values."""
    name, array, says = case
    options = {"chunks": (1, *array.shape[1:])} if array.ndim > 2 and array.size else {}
    replace(bank, name, array, **options)
    assert_refused(bank, errors.Corrupt, says)


@pytest.mark.parametrize("name", [TEXT, FACTOR])
def test_half_a_text(bank: Path, name: str) -> None:
    """Embeddings and their factor come together."""
    with opened(bank) as file:
        del file[name]
    assert_refused(bank, errors.Corrupt, f"{name} is missing")


@pytest.mark.parametrize("chunks", [(1, ROWS, TOKENS, 1), (1, ROWS, 1, WIDTH)])
def test_chunks_of_half_rows(bank: Path, chunks: tuple[int, ...]) -> None:
    """A chunk holds whole rows, with all tokens."""
    replace(bank, TOKEN, tokens(1, ROWS, TOKENS, WIDTH), chunks=chunks)
    assert_refused(bank, errors.Corrupt, f"{TOKEN} has chunks {list(chunks)}, not of whole rows")


@pytest.mark.parametrize("name", [TOKEN, TEXT])
def test_more_bytes_than_the_file_has(bank: Path, name: str) -> None:
    """Refused before memory is allocated."""
    of_row = (ROWS, TOKENS, WIDTH) if name == TOKEN else (CLASSES, WIDTH)
    shape, chunk = (1 << 40, *of_row), (1, *of_row)
    replace(bank, name, None, shape=shape, dtype="f4", chunks=chunk, fletcher32=True)
    assert_refused_in_time(bank, errors.Truncated, f"{name} declares")


@pytest.mark.parametrize("part", ["text/{}/feature", "text/{}/logit_scale", "scale/{}/default"])
def test_one_dataset_under_two_names(bank: Path, part: str) -> None:
    """As for features."""
    with opened(bank) as file:
        file.copy("text/instance", "text/balanced")
        file.copy("scale/tokens", "scale/instance")
        file.copy("scale/tokens", "scale/balanced")
        del file[part.format("balanced")]
        file[part.format("balanced")] = file[part.format("instance")]
    assert_refused(bank, errors.Unsafe, "are one dataset")


def test_schema_4_has_none_of_it(bank: Path) -> None:
    """A file that claims an earlier schema has one D and three axes."""
    with opened(bank) as file:
        file.attrs["schema"] = np.int64(4)
    assert_refused(bank, errors.Corrupt, f"{TOKEN} has shape [1, 24, 5, 6], not [A ≥ 1, 24, 8]")


def test_verify_finds_what_opening_does_not(bank: Path) -> None:
    """Values of text, its factor and scale, by the checks of their names."""
    replace(bank, TEXT, EMBEDDINGS * np.float32(0))
    replace(bank, FACTOR, np.array([-1.0]))
    replace(bank, SCALE, np.array([b"big"]))
    found = {check.name: check.findings for check in verify(bank)}
    assert found["text"] == (
        f"{TEXT}, prompt 0: 3 rows 0, NaN or infinite, first 0",
        f"{FACTOR}: 1 row not > 0, first 0",
    )
    assert found["scale"] == (f"{SCALE}: 1 row no scale, first 0",)
    assert {TEXT, FACTOR, SCALE} == {finding.split(":")[0] for finding in found["digests"]}


def test_a_flipped_bit_of_tokens_is_placed(bank: Path) -> None:
    """The checksum of a chunk of tokens fails; its rows are named."""
    with opened(bank) as file:
        place = file[TOKEN].id.get_chunk_info(0).byte_offset
    data = bytearray(bank.read_bytes())
    data[place + 100] ^= 1
    bank.write_bytes(data)
    assert_refused(bank, errors.Corrupt, f"{TOKEN}, rows 0…23 of copy 0: the checksum fails")
    (check,) = (check for check in verify(bank) if check.name == "checksums")
    assert f"{TOKEN}, rows 0…23 of copy 0" in check.findings[0]


def test_flips_anywhere(bank: Path) -> None:
    """Random bits: the same content or an error."""
    draw = np.random.default_rng(5)
    size = bank.stat().st_size
    bits = [(int(draw.integers(size)), int(draw.integers(8))) for _ in range(60)]
    assert sum(read_flipped(bank, bits).values()) == len(bits)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([TOKEN, TEXT, FACTOR, SCALE, "test/tokens/feature"]),
    shape=st.lists(st.integers(0, 9), max_size=5),
    dtype=st.sampled_from(["f2", "f4", "f8", "i8", "S4", "u1"]),
)
def test_any_array_is_an_error_or_a_bank(
    name: str, shape: list[int], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any type and shape in the place of a dataset."""
    path = write_full(tmp_path_factory.getbasetemp() / "any.h5", foundation=True)
    array = np.ones(shape, dtype)
    chunks = {"chunks": tuple(1 if i == 0 else n for i, n in enumerate(shape))}
    replace(path, name, array, **(chunks if array.ndim > 2 and array.size else {}))
    refusal = ""
    try:
        content = everything(path)
    except errors.BankError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if not refusal:
        with Bank(path) as bank:
            assert content["train/tokens"] == bank.shape("train", "tokens")
