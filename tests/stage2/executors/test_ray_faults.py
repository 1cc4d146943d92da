"""Sweeps on a Ray cluster of two nodes, of which everything is killed once.

Reference throughout: the figures of a local sweep of one thread, to the last bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank, write_bank
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.conftest import ROOT
from tests.stage2.executors.nodes import Nodes, kill, two_nodes

pytest.importorskip("ray")
pytestmark = pytest.mark.long

SEEDS, EPOCHS, STEPS = 8, 15, 400
OPTIONS = ("--recipe", "crt", "--set", f"epochs={EPOCHS}", "--set", f"steps_per_epoch={STEPS}")
OPTIONS = (*OPTIONS, "--seeds", ",".join(map(str, range(SEEDS))))


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head and two nodes that train, 2 and 3."""
    with two_nodes() as opened:
        yield opened


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of groups that take a second or two."""
    rng = np.random.default_rng(0)
    labels = {
        "train": np.repeat(np.arange(5), (500, 200, 60, 20, 9)),
        "test": np.repeat(np.arange(5), 20),
    }
    features = {
        split: {"instance": (rng.normal(size=(len(y), 256)) + y[:, None] / 5).astype(np.float32)}
        for split, y in labels.items()
    }
    path = tmp_path_factory.mktemp("bank") / "big.h5"
    write_bank(path, features, labels, class_names=[str(k) for k in range(5)])
    return path


def figures(bank: Path, results: Path) -> dict[str, object]:
    """What a results file says of each run."""
    with Bank(bank) as opened, Store(results) as store:
        return {run.recipe: (run.status, run.metrics) for run in store.runs(opened.fingerprint)}


@pytest.fixture(scope="module")
def expected(big: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The figures of a local sweep."""
    results = tmp_path_factory.mktemp("local") / "local.sqlite"
    torch.set_num_threads(1)
    recipes = [
        Recipe("crt", epochs=EPOCHS, steps_per_epoch=STEPS, seed=seed) for seed in range(SEEDS)
    ]
    sweep(big, recipes, results=results, workers=1)
    return figures(big, results)


def stored(bank: Path, results: Path) -> int:
    """Runs that a results file has."""
    return len(figures(bank, results)) if results.exists() else 0


def wait(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait for a condition."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """Exit code and standard error of a sweep."""
    _, error = process.communicate(timeout=seconds)
    return process.returncode, error


def finished(process: subprocess.Popen[str]) -> str:
    """Standard error of a sweep that ends well."""
    code, error = ended(process)
    assert code == 0, error
    return error


def test_a_worker_and_a_node_are_killed(
    nodes: Nodes, big: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    """First a worker in mid-group, then a whole node; then a node joins."""
    results = tmp_path / "ray.sqlite"
    running = nodes.sweep(big, *OPTIONS, "-o", results)
    wait(lambda: nodes.workers(2) and stored(big, results))
    kill(nodes.workers(2))
    wait(lambda: nodes.workers(3))
    nodes.kill_node(3)
    assert stored(big, results) < SEEDS, "the sweep was done before"
    finished(running)
    assert figures(big, results) == expected


def test_the_command_is_killed(
    nodes: Nodes, big: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    """The same command keeps what is stored, and trains the rest."""
    results = tmp_path / "ray.sqlite"
    running = nodes.sweep(big, *OPTIONS, "-o", results)
    wait(lambda: stored(big, results))
    running.kill()
    ended(running)
    before = stored(big, results)
    assert 0 < before < SEEDS
    finished(nodes.sweep(big, *OPTIONS, "-o", results))
    assert figures(big, results) == expected


def test_ctrl_c(nodes: Nodes, big: Path, expected: dict[str, object], tmp_path: Path) -> None:
    """One line, exit 1; the workers end, and the same command continues."""
    results = tmp_path / "ray.sqlite"
    running = nodes.sweep(big, *OPTIONS, "-o", results)
    wait(lambda: stored(big, results))
    running.send_signal(signal.SIGINT)
    code, error = ended(running, 30)
    assert code == 1
    assert "featbank: stopped." in error
    assert "the same command continues" in error
    assert len(error.splitlines()) == 1, error
    wait(lambda: not (nodes.workers(2) or nodes.workers(3)), 20)
    finished(nodes.sweep(big, *OPTIONS, "-o", results))
    assert figures(big, results) == expected


def test_the_head_is_lost_and_comes_back(
    nodes: Nodes, big: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    """One line and exit 1; on the cluster that is started again the same command continues."""
    results = tmp_path / "ray.sqlite"
    running = nodes.sweep(big, *OPTIONS, "-o", results)
    wait(lambda: stored(big, results))
    assert stored(big, results) < SEEDS, "the sweep was done before"
    nodes.kill_head()
    for number in (2, 3):  # else the groups that they train still arrive
        nodes.kill_node(number)
    code, error = ended(running, 60)
    assert code == 1, error
    assert "Ray" in error.splitlines()[-1]
    assert "the same command continues" in error.splitlines()[-1]
    nodes.start_head()
    nodes.start_node(number=2)
    finished(nodes.sweep(big, *OPTIONS, "-o", results))
    assert figures(big, results) == expected


def test_a_worker_of_another_version(big: Path, tmp_path: Path) -> None:
    """It is told and does without; with --any-version its results carry its version."""
    other = tmp_path / "other"
    for package in ("featbank", "stage1", "stage2"):
        shutil.copytree(ROOT / package, other / package)
    version = other / "featbank" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    nodes = Nodes()
    try:
        nodes.start_head()
        nodes.start_node(number=2, PYTHONPATH=str(other))
        alone = ended(nodes.sweep(big, "--recipe", "ncm", "-o", tmp_path / "a.sqlite"))
        assert alone[0] == 2, alone
        assert "featbank 9." in alone[1]
        assert "give --any-version" in alone[1]
        nodes.start_node(number=3)
        assert "The node is not used." in finished(
            nodes.sweep(big, "--recipe", "ncm", "-o", tmp_path / "b.sqlite")
        )
        nodes.kill_node(3)
        finished(nodes.sweep(big, "--recipe", "ncm", "--any-version", "-o", tmp_path / "c.sqlite"))
        with Bank(big) as bank, Store(tmp_path / "c.sqlite") as store:
            (run,) = store.runs(bank.fingerprint)
        assert run.versions["featbank"].startswith("9.")
    finally:
        nodes.close()


def test_a_node_without_the_bank(big: Path, expected: dict[str, object], tmp_path: Path) -> None:
    """Node 3 sees an empty folder where the bank is: the bank is sent there, once."""
    apart = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs none {big.parent} && exec "$@"',
        "-",
    )
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs rights that this process does not have")
    cache, results = Path(f"/tmp/cache-{os.getpid()}"), tmp_path / "ray.sqlite"
    nodes = Nodes()
    try:
        nodes.start_head()
        nodes.start_node(*apart, number=3, FEATBANK_CACHE=str(cache))
        finished(nodes.sweep(big, *OPTIONS, "-o", results))
        assert figures(big, results) == expected
        (copy,) = cache.glob("*/*.h5")
        assert copy.read_bytes() == big.read_bytes()
    finally:
        nodes.close()
        shutil.rmtree(cache, ignore_errors=True)
