"""Fixtures of the stage-1 tests: small images on disk, one short training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stage1.training.settings import default_settings
from stage1.training.train import train

MakeLists = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: three epochs on the digits."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    train(default_settings("digits-lt", epochs=3), run)
    return run


@pytest.fixture
def make_lists(tmp_path: Path) -> MakeLists:
    """Write lists of random 16×12 PNG images; returns the options of the data set `lists`."""

    def make(**labels: list[int]) -> dict[str, str]:
        from PIL import Image

        rng = np.random.default_rng(0)
        options = {"root": str(tmp_path / "images")}
        for split, values in labels.items():
            lines = []
            for row, label in enumerate(values):
                path = tmp_path / "images" / split / f"{row} of {split}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(path)
                lines.append(f"{split}/{path.name} {label}\n")
            file = tmp_path / f"{split}.txt"
            file.write_text("".join(lines))
            options[f"{split}_list"] = str(file)
        return options

    return make
