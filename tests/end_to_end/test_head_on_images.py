"""An exported head on its backbone sees images as it saw the bank's features."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from featbank import Bank
from stage1.augment import normalise
from stage1.data.datasets import load_dataset
from stage1.training.checkpoint import load_checkpoint
from stage2 import load_head
from tests.conftest import ROOT, Run

TRAIN = ("train", "--dataset", "digits-lt", "--imbalance", 20, "--epochs", 1, "--device", "cpu")
IMAGES = 64


@pytest.mark.parametrize(
    ("experts", "view", "recipe"), [(1, "instance", "lws"), (2, "balanced", "cosine")]
)
def test_backbone_and_head_are_bank_and_head(
    experts: int, view: str, recipe: str, featbank: Run
) -> None:
    """Reference: the bank's features of the same test images, and `featbank predict`: 1e-4 on every
    logit. The balanced view takes its BatchNorm statistics from the bank."""
    featbank(*TRAIN, *(("--experts", experts) if experts > 1 else ()), "-o", "runs/digits")
    featbank("extract", "runs/digits", "-o", "bank.h5", "--device", "cpu")
    settings = ("--set", f"view={view}", "--set", "epochs=1", "--seeds", 0)
    featbank("sweep", "bank.h5", "--recipe", recipe, *settings)
    featbank("export", "results.sqlite", recipe, "-o", "head.safetensors")
    featbank("predict", "head.safetensors", "bank.h5", "-o", "predictions.npz")
    head = load_head("head.safetensors")
    assert len(head.facts.views) == experts
    _, checkpoint = load_checkpoint("runs/digits")
    backbone = checkpoint.model()
    images = load_dataset(checkpoint.settings.dataset).splits["test"].images[torch.arange(IMAGES)]
    with Bank("bank.h5") as bank, torch.no_grad():
        for branch, name in zip(backbone.branches, head.facts.views, strict=True):
            for layer, (mean, variance) in bank.batchnorm(name).items():
                batchnorm = branch.get_submodule(layer)
                batchnorm.running_mean.copy_(torch.from_numpy(mean))
                batchnorm.running_var.copy_(torch.from_numpy(variance))
        banked = [torch.from_numpy(bank.load("test", name)[0]) for name in head.facts.views]
        found = backbone.branch_features(normalise(images, checkpoint.preprocessing))
        seen, kept = (head(tuple(x) if experts > 1 else x[0]) for x in (found, banked))
    if recipe == "lws":  # as docs/export.md has it
        text = (ROOT / "docs" / "export.md").read_text()
        (code,) = re.findall(r"```python\n(import torch.*?)```", text, re.DOTALL)
        names: dict[str, Any] = {"images": images}
        exec(code, names)
        assert torch.equal(names["logits"], seen)
    assert (seen - kept[:IMAGES]).abs().max() < 1e-4
    assert np.abs(np.load("predictions.npz")["logits"] - kept.numpy()).max() < 1e-4
