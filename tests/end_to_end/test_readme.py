"""What the README promises of its commands; tests/docs runs them all, test_road the whole road."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import io

from featbank import Bank, write_bank
from tests.conftest import ROOT, Run, Toy

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def block(language: str, containing: str) -> str:
    """The one block of a language that contains a text."""
    found = [text for kind, text in BLOCKS if kind == language and containing in text]
    assert len(found) == 1, (containing, len(found))
    return found[0]


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block."""
    return [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]


def test_importing_arrays(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """The arrays of the example, by the names it uses."""
    toy = make_toy((120, 60, 25, 12, 6))
    for split, suffix in (("train", ""), ("val", "v"), ("test", "t")):
        np.save(tmp_path / f"x{suffix}.npy", toy.features[split]["instance"])
        np.save(tmp_path / f"y{suffix}.npy", toy.labels[split])
    np.save(tmp_path / "w.npy", toy.classifier[0])
    np.save(tmp_path / "b.npy", toy.classifier[1])
    matlab = {"X": toy.features["train"]["instance"], "y": toy.labels["train"][:, None] + 1}
    io.savemat(tmp_path / "m.mat", matlab)
    for command in commands(block("sh", "featbank import")):
        shown = featbank(*command[1:]).stdout.splitlines()
        if "--dry-run" in command:
            assert "Nothing was written" in shown[-1]
    assert "K = 5" in featbank("info", "bank.h5").stdout
    assert np.load("features/train/label.npy").tolist() == toy.labels["train"].tolist()


def test_what_a_bank_promises(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """verify, split and merge on a bank without val; merged shards are the bank again."""
    toy = make_toy()
    features = {split: views for split, views in toy.features.items() if split != "val"}
    write_bank("bank.h5", features, {split: toy.labels[split] for split in features})
    featbank("split", "bank.h5", "--shards", "3", "-o", "shards")
    for command in commands(block("sh", "featbank verify")):
        words: list[str] = []
        for word in command[1:]:
            words += sorted(map(str, Path().glob(word))) if "*" in word else [word]
        featbank(*("2" if word == "20" else word for word in words))  # toy classes are small
    with Bank("bank.h5") as bank, Bank("whole.h5") as whole, Bank("with-val.h5") as held:
        assert bank.fingerprint == whole.fingerprint
        assert "val" in held.splits
