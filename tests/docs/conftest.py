"""Small files under the names that README and docs use, written once for all workers."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock
from PIL import Image
from scipy import io

from featbank import Bank
from featbank.cli import main, train
from stage1.training import settings as stage1_settings
from stage2.engine.plan import BatchStream, Shape
from stage2.methods.recipe import Recipe
from tests.conftest import ROOT, Toy

EXPERTS = ("expert0/instance", "expert1/instance", "expert2/instance")


@pytest.fixture
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop stage 1 after one epoch and stage 2 after four, whatever a command asks for."""
    original = stage1_settings.default_settings

    def shortened(*arguments: object, **options: object) -> stage1_settings.TrainSettings:
        settings = original(*arguments, **options)  # type: ignore[arg-type]
        return dataclasses.replace(settings, epochs=1, warmup=0)

    for module in (stage1_settings, train):  # the command imported it by name
        monkeypatch.setattr(module, "default_settings", shortened)
    stream_of = BatchStream.of

    def short(recipe: Recipe, shape: Shape) -> BatchStream:
        stream = stream_of(recipe, shape)
        return dataclasses.replace(stream, epochs=min(stream.epochs, 4))

    monkeypatch.setattr(BatchStream, "of", staticmethod(short))


@pytest.fixture
def materials(
    make_toy: Callable[..., Toy],
    few_epochs: None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with every file that the commands of the pages read; do not write to it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "materials"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            with monkeypatch.context() as patch:
                patch.chdir(unfinished)
                _make(make_toy)
            unfinished.rename(folder)
    return folder


def run(*words: str) -> str:
    """Run a command in the current folder and return its output."""
    result = CliRunner().invoke(main, words)
    if result.exception:
        raise AssertionError(f"{words} exited with {result.exit_code}: {result.output}") from (
            result.exception
        )
    return result.stdout


def _make(make_toy: Callable[..., Toy]) -> None:
    run("train", "--dataset", "digits-lt", "-o", "runs/digits")
    shutil.copytree("runs/digits", "runs/r32")
    run("extract", "runs/digits", "-o", "bank.h5")
    recipes = ("crt", "lws", "mislas", "tau_norm", "glag", "balanced_softmax")
    options = "--set epochs=4 --set lws:lr=0.05,0.2 --seeds 0,1 -o results.sqlite"
    named = [word for name in recipes for word in ("--recipe", name)]
    run("sweep", "bank.h5", *named, *shlex.split(options))
    run("export", "results.sqlite", "mislas", "-o", "head.safetensors")
    run(*shlex.split("sweep bank.h5 smoothing-grid --set epochs=1 --seeds 0 -o grid.sqlite"))
    run("sweep", "bank.h5", "tau-curve", "-o", "tau.sqlite")
    Path("demo").mkdir()
    for name in ("bank.h5", "results.sqlite"):
        shutil.copy(name, "demo")
    with Bank("bank.h5") as bank:
        np.save("features.npy", bank.load("test")[0])
    experts = make_toy(views=EXPERTS)
    experts.write(Path("experts.h5"), classifier=dict.fromkeys(EXPERTS, experts.classifier))
    _make_arrays(make_toy((120, 60, 25, 12, 8)))
    _make_images()
    without_val = make_toy((60, 45, 30, 28, 26), splits=("train", "test"))
    without_val.write(Path("without-val.h5"))
    run("split", "without-val.h5", "--shards", "3", "-o", "shards")
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.S)
    (specification,) = (text for text in examples if "[recipes." in text)
    Path("sweep.toml").write_text(specification)
    for page in ("foundation", "regions"):  # which make the files of their commands
        text = (ROOT / f"docs/{page}.md").read_text()
        exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), {})
    regions = "import-regions --train train_boxes.npz train.json --test val_boxes.npz val.json"
    run(*regions.split(), "-o", "regions.h5")
    for page, file in (("features", "pixels.npz"), ("dense", "dense.npz")):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.S)
        exec(next(block for block in blocks if file in block), {})
    run("import", "pixels.npz", "--ignore-label", "255", "-o", "pixels.h5")


def _make_arrays(toy: Toy) -> None:
    for split, suffix in (("train", ""), ("val", "v"), ("test", "t")):
        np.save(f"x{suffix}.npy", toy.features[split]["instance"])
        np.save(f"y{suffix}.npy", toy.labels[split])
    np.save("w.npy", toy.classifier[0])
    np.savez("text.npz", text=np.stack([toy.classifier[0]] * 2))
    np.save("b.npy", toy.classifier[1])
    pixels = {f"x_{split}": views["instance"] for split, views in toy.features.items()}
    pixels |= {f"y_{split}": np.append(y[:-1], 255) for split, y in toy.labels.items()}
    names = np.array(["wall", "floor", "tree", "lamp", "clock"])
    np.savez("scenes.npz", class_names=names, **pixels)
    np.save("scene_counts.npy", [500_000, 90_000, 9_000, 700, 50])
    rows = {"X": toy.features["train"]["instance"], "y": toy.labels["train"][:, None] + 1}
    io.savemat("m.mat", rows)


def _make_images() -> None:
    rng = np.random.default_rng(0)
    counts = {"ape": 28, "bee": 24}
    for folder in (Path("photos"), Path("mine/train"), Path("mine/test"), Path("images")):
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shutil.copytree("images", "cifar100-lt")
    rows = [
        f"{name}/{i}.png {label}"
        for label, (name, count) in enumerate(counts.items())
        for i in range(count)
    ]
    for start, name in enumerate(("train.txt", "val20.txt", "test80.txt")):
        Path(name).write_text("\n".join(rows[start::3]) + "\n")
    shutil.copy("test80.txt", "test.txt")
    Path("classes.txt").write_text("ape\nbee\n")
