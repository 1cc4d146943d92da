"""What all tests share: one start, small long-tailed arrays and banks, the real features."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from featbank import write_bank
from featbank.cli import main

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FORM_OF_WARNINGS = warnings.formatwarning


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless `-m` speaks of them."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what collection imported, a million objects."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Start every test alike, whatever ran before it: random numbers, threads, form of warnings."""
    import torch  # here, as the process that hands out the tests does without

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.formatwarning = FORM_OF_WARNINGS


@dataclass
class Toy:
    """Gaussian classes of unequal size, with a least-squares stage-1 classifier."""

    features: dict[str, dict[str, np.ndarray]]
    labels: dict[str, np.ndarray]
    classifier: tuple[np.ndarray, np.ndarray]

    def write(self, path: Path, **options: object) -> Path:
        """Write it as a bank."""
        options.setdefault("classifier", {"instance": self.classifier})
        write_bank(path, self.features, self.labels, **options)  # type: ignore[arg-type]
        return path


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    """Makes a `Toy` of given training counts."""

    def make(
        counts: tuple[int, ...] = (120, 60, 25, 12, 5),
        *,
        dim: int = 8,
        splits: tuple[str, ...] = ("train", "val", "test"),
        views: tuple[str, ...] = ("instance", "balanced"),
    ) -> Toy:
        rng = np.random.default_rng(0)
        classes = len(counts)
        centers = rng.normal(size=(classes, dim)) * 1.5
        features: dict[str, dict[str, np.ndarray]] = {}
        labels: dict[str, np.ndarray] = {}
        for split in splits:
            y = np.repeat(np.arange(classes), counts if split == "train" else 20)
            x = centers[y] + rng.normal(size=(len(y), dim))
            features[split] = {
                view: (x + 0.1 * i).astype(np.float32) for i, view in enumerate(views)
            }
            labels[split] = y
        x = np.c_[features["train"][views[0]], np.ones(sum(counts))]
        solution = np.linalg.lstsq(x, np.eye(classes)[labels["train"]], rcond=None)[0]
        weight = 4 * solution[:-1].T.astype(np.float32)
        return Toy(features, labels, (weight, 4 * solution[-1].astype(np.float32)))

    return make


@pytest.fixture
def toy_bank(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """A bank of five classes, D = 8, both views, with val and test."""
    return make_toy().write(tmp_path / "toy.h5")


@pytest.fixture(scope="session")
def real_features() -> Path:
    """Features of a ResNet-32 on CIFAR-100-LT, where the workplace has them."""
    path = SHARED / "data" / "cifar100-lt-resnet32-features.npz"
    if not path.exists():
        pytest.skip("the real features are not part of the project")
    return path


@dataclass(frozen=True)
class Done:
    """A finished command: what it printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


Run = Callable[..., Done]


@pytest.fixture
def featbank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, in a temporary folder; it must exit with `code`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> Done:
        result = CliRunner().invoke(main, list(map(str, arguments)))
        crashed = result.exception is not None and not isinstance(result.exception, SystemExit)
        if crashed or result.exit_code != code:
            raise AssertionError(
                f"{arguments} exited with {result.exit_code}, not {code}: {result.output}"
            ) from result.exception
        return Done(result.stdout, result.stderr, result.exit_code)

    return run


@pytest.fixture
def installed(tmp_path: Path) -> Run:
    """Runs the installed command as a process of its own, as a user does."""
    command = Path(sys.executable).with_name("featbank")

    def run(*arguments: object, code: int = 0) -> Done:
        done = subprocess.run(
            [command, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return Done(done.stdout, done.stderr, done.returncode)

    return run
