"""docs/stage1.md says what the code does."""

from __future__ import annotations

import re

from stage1.augment import AUGMENTATIONS
from stage1.backbones import backbone_problem
from stage1.training.presets import PRESETS
from stage2.methods.losses import LOSSES
from tests.conftest import ROOT

TEXT = (ROOT / "docs/stage1.md").read_text()


def section(title: str) -> str:
    """Text under a heading."""
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_presets_are_reported() -> None:
    """Reference: `PRESETS`, line by line."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section("Presets").splitlines()
        if line.startswith("| `")
    ][1:]
    assert [row[0].strip("`") for row in rows] == list(PRESETS)
    for name, backbone, epochs, lr, batch, decay, schedule, mixup, augmentation in rows:
        rate, _, warmup = lr.partition(", warm-up ")
        own = dict(PRESETS[name.strip("`")].settings)
        assert own.pop("augmentation", "standard") == augmentation
        for option in own.keys() & {"experts", "loss"}:
            assert f"`--{option} {own.pop(option)}`" in section("Presets"), name
        assert own == {
            "backbone": backbone,
            "epochs": int(epochs),
            "lr": float(rate),
            "warmup": int(warmup or 0),
            "batch_size": int(batch),
            "weight_decay": float(decay),
            "schedule": schedule,
            "mixup": float(mixup),
        }


def test_names_are_reported() -> None:
    """Reference: the tables of augmentations, of losses that are refused, and backbones' names."""
    names_listed = re.findall("`([a-z-]+)`", section("Augmentation"))
    assert [name for name in names_listed if name in AUGMENTATIONS] == list(AUGMENTATIONS)
    assert re.findall("`([a-z_]+)`", section("Losses"))[:1] == [
        name for name, loss in LOSSES.items() if loss.unsuited
    ]
    names = re.findall(r"`((?:cifar-)?resne[a-z0-9_]+)`", section("Backbones"))
    assert len(names) == 7
    for name in names:
        assert backbone_problem(name) is None, name
