"""`featbank info`: one screen for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, BankWriter
from tests.conftest import Run, Toy

EXTRACTED = {
    "made_by": "featbank extract",
    "run": "runs/r32",
    "checkpoint_sha256": "abcdef0123456789",
    "stage1": {"settings": {"backbone": "resnet32", "epochs": 200, "mixup": 1.0, "lr": 0.1}},
    "dataset": {"name": "cifar100-lt", "imbalance": 100, "val_per_class": None},
    "views": {"instance": {}, "balanced": {"batches": 85, "seed": 0}},
}


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """An extracted bank with copies, paths and BatchNorm statistics."""
    toy, path = make_toy(), tmp_path / "b.h5"
    with BankWriter(path, list("abcde"), dim=8, dtype="float16", provenance=EXTRACTED) as writer:
        for split, y in toy.labels.items():
            writer.split(split, y, paths=[f"{split}{i}" for i in range(len(y))])
            for view, x in toy.features[split].items():
                copies = 4 if split == "train" and view == "instance" else 1
                rows = writer.features(split, view, copies=copies)
                for _ in range(copies):
                    rows.append(x)
        writer.classifier("instance", *toy.classifier)
        writer.batchnorm("balanced", {f"bn{i}": (np.zeros(3), np.ones(3)) for i in range(7)})
    return path


def test_the_screen(featbank: Run, bank: Path) -> None:
    """All there is to know, in at most 100 columns and 24 lines."""
    shown = featbank("info", "b.h5").stdout
    with Bank(bank) as b:
        assert f"fingerprint {b.fingerprint[:12]}" in shown.splitlines()[0]
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "classes K = 5, training samples 120 … 5 (imbalance 24)",
        "few 2 classes, 17 samples (n < 20)",
        "train 222 5 5 … 120 train, with paths, seen by stage 1",
        "val 100 5 20 val, with paths, not seen by stage 1",
        "test 100 5 20 test, with paths",
        "features D = 8, float16, views: instance, balanced",
        "instance 4 copies of train; stage-1 classifier; no BatchNorm statistics",
        "balanced stage-1 classifier of instance; 7 BatchNorm layers",
        "made by featbank extract",
        "run runs/r32, checkpoint abcdef012345…",
        "training backbone resnet32, epochs 200, mixup 1.0",
        "dataset name cifar100-lt, imbalance 100",
        "balanced batches 85, seed 0",
    ):
        assert line in lines, (line, shown)
    assert max(map(len, shown.splitlines())) <= 100
    assert len(lines) <= 24


def test_json_has_everything(featbank: Run, bank: Path) -> None:
    """Compared with the bank itself."""
    summary = json.loads(featbank("info", "b.h5", "--json").stdout)
    with Bank(bank) as b:
        assert summary["fingerprint"] == b.fingerprint
        assert summary["train_counts"] == summary["full_counts"] == b.train_counts.tolist()
        assert summary["class_names"] == b.class_names
        assert summary["provenance"] == EXTRACTED
        assert (summary["num_classes"], summary["dim"], summary["schema"]) == (5, 8, 1)
        assert summary["dtype"] == "float16"
        assert summary["size"] == bank.stat().st_size
        for name, mask in b.groups().items():
            group = summary["groups"][name]
            assert group["classes"] == np.flatnonzero(mask).tolist()
            assert group["samples"] == b.train_counts[mask].sum()
    assert summary["splits"]["val"] == {
        "rows": 100, "classes": 5, "per_class": [20, 20], "source": "val", "paths": True,
        "cells": False, "source_groups": None, "seen": 0, "held_out": 0, "from_test": 0,
    }  # fmt: skip
    assert summary["views"]["instance"]["copies"] == {"train": 4, "val": 1, "test": 1}
    assert summary["views"]["balanced"] == {
        "copies": {"train": 1, "val": 1, "test": 1},
        "tokens": None,
        "dim": 8,
        "text": None,
        "default_scale": None,
        "classifier": "instance",
        "batchnorm_layers": 7,
        "norm": None,
        "expert_weight": 1.0,
    }


def test_the_history_of_a_rearranged_bank(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Every step back to the extraction is on the screen, newest first."""
    make_toy(splits=("train", "test")).write(tmp_path / "b.h5", provenance=EXTRACTED)
    featbank("split", "b.h5", "--val-per-class", 2, "-o", "v.h5")
    featbank("split", "v.h5", "--shards", 2, "-o", ".")
    featbank("merge", "v-0of2.h5", "v-1of2.h5", "-o", "m.h5")
    shown = featbank("info", "m.h5").stdout
    lines = [" ".join(line.split()) for line in shown[shown.index("made by") :].splitlines()]
    assert [line for line in lines if line.startswith(("made", "settings"))] == [
        "made by featbank merge",
        "made by featbank split",
        "settings shard 0, shards 2",
        "made by featbank split",
        "settings val_per_class 2, seed 0",
        "made by featbank extract",
    ]
    assert any(line.startswith("from v-0of2.h5 (") and "and 1 more" in line for line in lines)


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"made_by": 3, "views": [1], "parts": [], "from": "x", "stage1": None},
        {"parts": [7]},
        {"dataset": 3},
    ],
)
def test_any_provenance_can_be_shown(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path, provenance: dict
) -> None:
    """Other writers may put anything there."""
    make_toy().write(tmp_path / "b.h5", provenance=provenance)
    assert "made by" in featbank("info", "b.h5").stdout
    assert json.loads(featbank("info", "b.h5", "--json").stdout)["provenance"] == provenance


@pytest.mark.parametrize("command", ["info", "verify", "merge", "split"])
def test_help_has_an_example(featbank: Run, command: str) -> None:
    """Each command's help shows a line that can be copied."""
    assert f"featbank {command} " in featbank(command, "--help").stdout.split("Options:")[0][20:]


def test_a_label(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Reference: the option of `featbank import`; the label is no part of the content."""
    toy = make_toy()
    for split in ("train", "test"):
        np.save(tmp_path / f"x_{split}.npy", toy.features[split]["instance"])
        np.save(tmp_path / f"y_{split}.npy", toy.labels[split])
    pairs = [w for s in ("train", "test") for w in (f"--{s}", f"x_{s}.npy", f"y_{s}.npy")]
    featbank("import", *pairs, "-o", "plain.h5")
    featbank("import", *pairs, "--label", "CLIP ViT-B", "-o", "named.h5")
    assert featbank("info", "named.h5").stdout.startswith("CLIP ViT-B: named.h5  (")
    facts = [json.loads(featbank("info", f"{n}.h5", "--json").stdout) for n in ("plain", "named")]
    assert [each["label"] for each in facts] == [None, "CLIP ViT-B"]
    assert facts[0]["fingerprint"] == facts[1]["fingerprint"]
    for label in ("a,b", "all", ""):
        error = featbank("import", *pairs, "--label", label, "-o", "wrong.h5", code=2).stderr
        assert f"The label {label!r} cannot name a bank." in error
        assert not (tmp_path / "wrong.h5").exists()
