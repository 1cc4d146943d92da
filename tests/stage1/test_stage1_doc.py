"""docs/stage1.md says what the code does."""

from __future__ import annotations

import dataclasses
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
    """Reference: `PRESETS`, line by line: the settings, then the source of each."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section("Presets").splitlines()
        if line.startswith("| `")
    ]
    settings, sources = (
        {row[0].strip("`"): row[1:] for row in rows if len(row) == width and "--" not in row[0]}
        for width in (10, 3)
    )
    assert list(settings) == list(sources) == list(PRESETS)
    for name, preset in PRESETS.items():
        assert sources[name] == [preset.description, preset.source]
        backbone, epochs, lr, batch, decay, schedule, mixup, augmentation, more = settings[name]
        rate, _, warmup = lr.partition(", warm-up ")
        nine = {
            "backbone": backbone,
            "epochs": int(epochs),
            "lr": float(rate),
            "warmup": int(warmup or 0),
            "batch_size": int(batch),
            "weight_decay": float(decay),
            "schedule": schedule,
            "mixup": float(mixup),
            "augmentation": augmentation,
        }
        assert {option: preset.settings[option] for option in nine} == nine
        others = {option: value for option, value in preset.settings.items() if option not in nine}
        shown = [*dataclasses.replace(preset, settings=others).options]
        assert re.findall("`(.*?)`", more) == shown, name


def test_names_are_reported() -> None:
    """Reference: the tables of augmentations, of losses that are refused, and backbones' names."""
    names_listed = re.findall("`([a-z-]+)`", section("Augmentation"))
    assert [name for name in names_listed if name in AUGMENTATIONS] == list(AUGMENTATIONS)
    refused = [name for name, loss in LOSSES.items() if loss.unsuited]
    assert re.findall("`([a-z_]+)`", section("Losses"))[: len(refused)] == refused
    names = re.findall(r"`((?:cifar-)?resne[a-z0-9_]+)`", section("Backbones"))
    assert len(names) == 7
    for name in names:
        assert backbone_problem(name) is None, name
