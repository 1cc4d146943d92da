"""Exported heads that were changed: the same output as the intact head, or one line that says no.

A head goes from hand to hand as a file. Whatever happened to it on the way, nobody gets other
logits from it without a word.
"""

from __future__ import annotations

import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from featbank import errors
from stage2 import load_head
from stage2.export.facts import HeadFacts
from stage2.export.forms import Affine, Gated, HeadModule
from stage2.export.headfile import KEY, UNCHECKED, save_head

DIM, CLASSES = 5, 3
FEATURES = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
JUNK: list[Any] = [None, True, -1, 0, 2**70, 10**400, 1e308, float("nan"), float("inf"), "", "x"]
JUNK += ["\x1b[2J\n", "\ud800", [], {}, [[]], ["a"] * 3, {"a": 1}, [0.5], "instance", "y" * 10_000]


def tensors(*names: str) -> dict[str, torch.Tensor]:
    """Weights of any kind by name."""
    made = torch.Generator().manual_seed(1)
    shapes = {"weight": (CLASSES, DIM), "v": (DIM,), "c": (1,)}
    return {name: torch.randn(shapes.get(name, (CLASSES,)), generator=made) for name in names}


@pytest.fixture(scope="module", params=["affine", "gated"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head as it was written."""
    if request.param == "affine":
        empty = {"empty": torch.tensor([False, True, False])}
        form = HeadModule(Affine({**tensors("weight", "bias"), **empty}, {"parts": 1}))
    else:
        scale = torch.tensor([0.7])
        names = ("weight", "bias", "alpha", "beta", "v", "c")
        form = HeadModule(Gated(tensors(*names), {}), scale)
    facts = HeadFacts(
        class_names=["ape", "bee", "c|t"],
        views=["instance"],
        dim=DIM,
        bank="0" * 64,
        recipe={"id": "crt-0", "name": "crt", "settings": {"lr": 0.1, "seed": 3}},
        seed=3,
        epoch="last",
        metrics={"test": {"top1": 50.0, "ece": None}},
        groups={"many": "n > 100"},
        version="0",
    )
    path = tmp_path_factory.mktemp("heads") / "intact.safetensors"
    save_head(path, form, facts)
    return path


Change = Callable[[bytes, random.Random], bytes]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit to eight of the file."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def weight_flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit of a number."""
    changed, start = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
    changed[rng.randrange(start, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_or_longer(data: bytes, rng: random.Random) -> bytes:
    """A part of the file, or more than it."""
    return rng.choice([data[: rng.randrange(len(data))], data + rng.randbytes(9)])


def lying_header(data: bytes, rng: random.Random) -> bytes:
    """Other shapes, types, places or names of a tensor, and another length of the header."""
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    change = rng.randrange(6)
    if change == 0:
        header[name]["shape"] = rng.choice(
            [[], [2**40, 2**40], [0], [-1], [DIM, CLASSES], [1] * 50]
        )
    elif change == 1:
        header[name]["dtype"] = rng.choice(["I32", "F64", "BF16", "BOOL", "F8_E4M3", "X", 3])
    elif change == 2:
        header[name]["data_offsets"] = rng.choice([[0, 4], [0, 2**63], [-4, 0], [8, 4], []])
    elif change == 3:
        header[rng.choice(["bias", "view.weight", "\x1b[2J"])] = header.pop(name)
    elif change == 4:
        header[name] = rng.choice(JUNK[:3] + JUNK[9:])
    text = json.dumps(header).encode()
    length = len(text) if change < 5 else rng.choice([0, 2**63, 10**8, len(text) - 1])
    return struct.pack("<Q", length) + text + rest


def repacked(data: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with another document, its weights as they were."""
    size = struct.unpack("<Q", data[:8])[0]
    document = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
    edited = edit(document)
    text = json.dumps(document) if edited is None else edited
    return save_tensors(load_tensors(data), {KEY: text})


def junk_in_a_field(data: bytes, rng: random.Random) -> bytes:
    """Anything in the place of a field, at the top or one level down."""

    def edit(document: dict[str, Any]) -> None:
        name = rng.choice(list(document))
        inner = document[name]
        if isinstance(inner, dict) and inner and rng.random() < 0.5:
            inner[rng.choice(list(inner))] = rng.choice(JUNK)
        elif isinstance(inner, list) and inner and rng.random() < 0.5:
            inner[rng.randrange(len(inner))] = rng.choice(JUNK)
        else:
            document[name] = rng.choice(JUNK)

    return repacked(data, edit)


def missing_or_more(data: bytes, rng: random.Random) -> bytes:
    """A field less, or one more."""

    def edit(document: dict[str, Any]) -> None:
        if rng.random() < 0.7:
            del document[rng.choice(list(document))]
        else:
            document[rng.choice(["Digest", "weights", "\n"])] = rng.choice(JUNK)

    return repacked(data, edit)


def deep(data: bytes, rng: random.Random) -> bytes:
    """JSON in JSON, thousands deep, or of a number of thousands of digits."""
    depth = rng.choice([500, 100_000])
    text = rng.choice(["[" * depth, '{"a":' * depth, '{"schema": ' + "9" * depth + "}"])
    return repacked(data, lambda document: text)


CHANGES: tuple[Change, ...] = (
    flipped, weight_flipped, cut_or_longer, lying_header, junk_in_a_field, missing_or_more, deep,
)  # fmt: skip


def outcome(path: Path) -> torch.Tensor | str:
    """The logits of a head, or the line that refuses it; anything else is raised."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            return load_head(path)(FEATURES)
    except errors.FeatbankError as error:
        return str(error)


def check_fuzz(intact: Path, folder: Path, seeds: range) -> None:
    """Change the head in as many ways, in turn; see the first lines of this file."""
    data, right = intact.read_bytes(), outcome(intact)
    assert isinstance(right, torch.Tensor), right
    refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        change = CHANGES[seed % len(CHANGES)]
        path = folder / "changed.safetensors"
        path.write_bytes(change(data, rng))
        got = outcome(path)
        if isinstance(got, str):
            refused += 1
            assert "\n" not in got, (seed, got)
            assert str(path) in got, (seed, got)
        else:
            assert torch.equal(got, right), (seed, change.__name__)
    assert refused > 0.8 * len(seeds), refused


def test_fifty_changed_heads(intact: Path, tmp_path: Path) -> None:
    """The short form."""
    check_fuzz(intact, tmp_path, range(50))


@pytest.mark.long
def test_thousands_of_changed_heads(intact: Path, tmp_path: Path) -> None:
    """The same with other seeds."""
    check_fuzz(intact, tmp_path, range(100, 3000))


def test_every_bit_of_the_weights_counts(intact: Path, tmp_path: Path) -> None:
    """A flip of any bit behind the header is refused, where the number stays finite as well."""
    data = intact.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    path = tmp_path / "h.safetensors"
    for bit in range(0, 8 * (len(data) - start), 7):
        changed = bytearray(data)
        changed[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert isinstance(outcome(path), str), bit


def test_an_older_head_is_read_and_said_to_be_unchecked(intact: Path, tmp_path: Path) -> None:
    """Schema 1, without a digest: the same logits, and a warning with the remedy."""

    def edit(document: dict[str, Any]) -> None:
        del document["digest"]
        document["schema"] = UNCHECKED

    path = tmp_path / "old.safetensors"
    path.write_bytes(repacked(intact.read_bytes(), edit))
    with pytest.warns(UserWarning, match=r"old.safetensors is a head of an older .*unchecked"):
        head = load_head(path)
    assert torch.equal(head(FEATURES), load_head(intact)(FEATURES))


def test_a_checked_head_cannot_pass_as_an_older_one(intact: Path, tmp_path: Path) -> None:
    """Schema 1 with a digest is none, and schema 2 without one neither."""
    path = tmp_path / "h.safetensors"
    data = intact.read_bytes()
    path.write_bytes(repacked(data, lambda document: document.update(schema=1)))
    assert "'digest' is none of its fields" in str(outcome(path))
    path.write_bytes(repacked(data, lambda document: document.pop("digest") and None))
    assert "digest is missing" in str(outcome(path))
