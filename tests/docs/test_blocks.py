"""Every command and Python block of README and docs runs as written, in its own folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from featbank import Bank
from featbank.cli import main
from featbank.errors import ConfigError
from stage2.methods import losses, samplers
from tests.conftest import ROOT, Toy
from tests.docs.conftest import run
from tests.docs.pages import BLOCKS, CODE, RUN, SHOWN, Block

SHELL = [block for block in CODE if block.mark is None and block.language != "python"]
PYTHON = [block for block in CODE if block.mark is None and block.language == "python"]
LEFT_OUT = [block for block in CODE if block.mark is not None]


@pytest.fixture
def folder(
    materials: Path, tmp_path: Path, few_epochs: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the materials as the current folder."""
    copy = tmp_path / "page"
    shutil.copytree(materials, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block: Block, folder: Path) -> None:
    """Reference: the page: each command ends with exit code 0 and writes its output."""
    if "featbank verify bank.h5\nfeatbank split" in block.text:
        shutil.copy("without-val.h5", "bank.h5")
    elif "mine.h5" in block.text and "featbank import" not in block.text:
        run("import", "--train", "x.npy", "y.npy", "--val", "xv.npy", "yv.npy", "-o", "mine.h5")
    elif "train_x.npy" in block.text or "colleague.h5" in block.text:
        _save_features()
    elif "extract-maps" in block.text:
        _save_segmenter()
    if block.page == "docs/afg.md":  # minutes of training: its sweeps are checked and planned only
        shutil.copy("results.sqlite", "afg.sqlite")
        for words in block.commands:
            _featbank([*words, "--dry-run"] if words[1] == "sweep" else words)
        return
    outputs = [
        Path(words[i + 1])
        for words in block.commands
        for i, word in enumerate(words[:-1])
        if word in ("-o", "--output")
    ]
    for output in outputs:
        shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
    if all(words[0] == "featbank" for words in block.commands):
        for words in block.commands:
            _featbank(words)
    else:
        _bash(block.text, folder)
    for output in outputs:
        assert output.exists(), output


def _featbank(words: list[str]) -> None:
    """Run a command as a shell would: expand patterns, redirect output."""
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], words[words.index(">") + 1]
    expanded: list[str] = []
    for word in words[1:]:
        expanded += sorted(map(str, Path().glob(word))) if "*" in word else [word]
    output = run(*expanded)
    assert output
    if target:
        Path(target).write_text(output)


def _bash(text: str, home: Path) -> None:
    """Run a block in its own shell, which stops at the first error; with a home of its own, but
    not to compile the engine anew there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    compiled = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    own = {"HOME": str(home), "FEATBANK_CACHE": str(home / "banks")}
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
        env={**os.environ, **own, "PATH": path, "XDG_CACHE_HOME": compiled},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block: Block, folder: Path, make_toy: Callable[..., Toy]) -> None:
    """Reference: the page: each block runs, after the blocks it builds on."""
    names: dict[str, Any] = {}
    if added := re.search(r"^(LOSSES|SAMPLERS)\[", block.text, re.M):  # an entry for its module
        module = {"LOSSES": losses, "SAMPLERS": samplers}[added[1]]
        names = {**vars(module), added[1]: dict(getattr(module, added[1]))}
    elif "GridSearchCV" in block.text:
        toy = make_toy()
        names = {"X": toy.features["train"]["instance"], "y": toy.labels["train"]}
    elif "load_checkpoint" in block.text:
        names = {"images": torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)}
    elif block.text.startswith("save_features(") or "colleague.h5" in block.text:
        _save_features()
        return
    elif "Segmenter" in block.text:
        _save_segmenter()
    exec(compile(block.text, str(block), "exec"), names)


def _save_segmenter() -> None:
    """Write a network of random weights for the classes of classes.txt, images and label maps."""
    torch.manual_seed(0)
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    torch.save(network.state_dict(), "deeplab.pth")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for folder, shape, values in (
            (split, (33, 65, 3), range(256)),
            (f"{split}_labels", (33, 65), (0, 1, 255)),
        ):
            Path(folder).mkdir()
            for m in range(3):
                pixels = rng.choice(values, shape).astype(np.uint8)
                Image.fromarray(pixels).save(f"{folder}/{m}.png")


def _save_features() -> tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]]:
    """Run the blocks of docs/features.md with a small torchvision model of random weights."""
    torch.manual_seed(0)
    model = resnet18(weights=None)
    model.fc = torch.nn.Identity()
    transform = ResNet18_Weights.DEFAULT.transforms(crop_size=32)
    names = {"model": model, "transform": transform}
    for block in PYTHON:
        if block.page == "docs/features.md":
            exec(block.text, names)
    return model, transform


def test_features_of_a_model(folder: Path) -> None:
    """Reference: the forward pass of single images, in the order of the folder names."""
    model, transform = _save_features()
    run("import", "--train", "train_x.npy", "train_y.npy", "--dtype", "float32", "-o", "own.h5")
    with Bank("own.h5") as bank:
        features, labels = bank.load("train")
    files = [path for name in ("ape", "bee") for path in sorted(Path("mine/train", name).iterdir())]
    assert labels.tolist() == [0] * 28 + [1] * 24
    for row in (0, 30, 51):
        with torch.no_grad():
            expected = model.eval()(transform(Image.open(files[row]))[None])[0]
        np.testing.assert_allclose(features[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", LEFT_OUT, ids=str)
def test_blocks_that_are_not_run(block: Block) -> None:
    """Reference: the command line: options and choices of each command are known; Python compiles.

    The ids of this test list the blocks that are not run; each mark gives the reason.
    """
    assert block.mark, f"{block} is not run, and its mark gives no reason"
    if block.language == "python":
        compile(block.text, str(block), "exec")
        return
    for words in block.commands:
        if script := re.search(r"scripts/\w+(\.py)?", " ".join(words)):
            text = (ROOT / script[0]).read_text()
            assert all(word in text for word in words if word.startswith("--")), words
        elif words[0] != "pip":
            _parse(words)


def _parse(words: list[str]) -> None:
    """Parse a command without running it, also after ``torchrun … -m``."""
    assert words[0] in ("featbank", "torchrun"), words
    arguments = words[words.index("featbank") + 1 :]
    context = click.Context(main, info_name="featbank")
    name, command, rest = main.resolve_command(context, arguments)
    assert command is not None, words
    command.make_context(name, rest, parent=context)


def test_every_block_is_known() -> None:
    """Reference: the languages that are run, and those that are only shown."""
    for block in BLOCKS:
        assert block.language in (*RUN, *SHOWN), f"{block}: {block.language}"
        assert block.mark is None or block.language in RUN, f"{block} would not be run anyway"


def test_a_wrong_option_is_reported() -> None:
    """Reference: an unknown option, a wrong choice, an unknown command, a mark without reason."""
    for text in (
        "featbank sweep bank.h5 --recipes crt",
        "featbank leaderboard r.sqlite --format xml",
        "torchrun --nproc-per-node 2 -m featbank trian --dataset lists",
    ):
        with pytest.raises((click.UsageError, ConfigError)):
            _parse(text.split())
    with pytest.raises(AssertionError, match="gives no reason"):
        test_blocks_that_are_not_run(Block("README.md", 1, "sh", "featbank info bank.h5\n", ""))
