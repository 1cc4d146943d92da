"""From images to the leaderboard, which the installed command shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from featbank import Bank
from tests.conftest import Run


def test_images_to_leaderboard(featbank: Run, installed: Run, tmp_path: Path) -> None:
    """Train briefly on digits, extract, sweep every recipe; the bank agrees with the backbone: the
    stored classifier on the stored features gives the accuracy that training measured."""
    featbank(
        "train", "--dataset", "digits-lt", "--imbalance", 20, "--epochs", 8, "--mixup", 0.2,
        "--device", "cpu", "-o", "run",
    )  # fmt: skip
    featbank("extract", "run", "-o", "bank.h5", "--device", "cpu")
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    with Bank(tmp_path / "bank.h5") as bank:
        assert bank.views == ("instance", "balanced")
        assert bank.splits == ("train", "val", "test")
        x, y = bank.load("test")
        classifier = bank.classifier()
        assert classifier is not None
        top1 = 100 * np.mean((x @ classifier[0].T + classifier[1]).argmax(1) == y)
        assert abs(top1 - checkpoint["accuracy"]["test"]["top1"]) < 0.3
        assert set(bank.batchnorm("balanced")) == set(bank.batchnorm("instance"))
    featbank("sweep", "bank.h5", "--seeds", 0, "--set", "epochs=2", "-o", "r.sqlite")
    rows = json.loads(installed("leaderboard", "r.sqlite", "--format", "json").stdout)
    assert {"crt", "lws", "mislas", "disalign", "los", "balanced_softmax", "tau_norm", "ncm"} <= {
        row["name"] for row in rows
    }
    untouched = next(row for row in rows if row["name"] == "tau_norm")
    assert untouched["top1"] > 30
    error = featbank("extract", "run", "-o", "bank.h5", code=2).stderr
    assert "bank.h5 exists" in error
