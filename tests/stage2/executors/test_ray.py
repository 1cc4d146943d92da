"""Sweeps on local Ray workers: a local sweep's results, whatever happens to workers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import featbank as package
from featbank import Bank, errors, write_bank
from featbank.delivery import Sender
from stage2.adaptive import search
from stage2.engine.halving import Halving
from stage2.engine.plan import FusedGroup
from stage2.executors import open_executor
from stage2.features.planning import plan_bank
from stage2.features.views import Views
from stage2.methods.recipe import Recipe, expand
from stage2.results.store import Store
from stage2.search import Sampling
from stage2.specification import read_specification
from stage2.sweep import SweepResults, sweep
from tests.conftest import Run
from tests.stage2.features.test_views import spoiled
from tests.stage2.synthetic import Problem, problem

ray = pytest.importorskip("ray")

from stage2.executors.ray import Ray  # noqa: E402  after the check
from stage2.executors.ray_worker import Job, _pieces, bank_of  # noqa: E402

GRID = expand(
    {
        "crt": {"lr": [0.1, 0.2], "epochs": [2]},
        "lws": {},
        "tau_norm": {},
        "mislas": {"epochs": [2]},
        "ce": {"generator": ["afg"], "epochs": [2]},
        "ncm": {},
    },
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ray]:
    """Two workers with a CPU each, in a Ray of their own."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets are short
    before = os.environ.copy()
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": folder,
    }
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 << 20,
        _temp_dir=folder,
    )
    signal.signal(signal.SIGTERM, handler)
    try:
        with Ray(gpus_per_group=0, cpus_per_group=1) as opened:
            yield opened
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def plain(small: Problem, tmp_path: Path) -> Iterator[Bank]:
    """The small problem as a bank without a stage-1 classifier."""
    features = {s: {"instance": small.x[s, "instance"]} for s in small.y}
    names = [str(k) for k in range(6)]
    write_bank(tmp_path / "plain.h5", features, small.y, class_names=names)
    with Bank(tmp_path / "plain.h5") as opened:
        yield opened


def same(got: SweepResults, expected: SweepResults) -> None:
    """Assert that two sweeps have the same table and parameters, to the last bit."""
    assert got.board == expected.board
    parameters = {outcome.recipe: outcome.parameters for outcome in got.outcomes}
    assert parameters.keys() == {outcome.recipe for outcome in expected.outcomes}
    for outcome in expected.outcomes:
        for name, values in outcome.parameters.items():
            got_values = parameters[outcome.recipe][name]
            assert torch.equal(got_values, values), f"{name} of {outcome.recipe}"


def test_a_sweep_on_ray_is_a_local_one(bank: Bank, cluster: Ray) -> None:
    """Reference: the local sweep, to the last bit, generators and two views included."""
    assert cluster.site().count == 2
    same(sweep(bank, GRID, executor=cluster), sweep(bank, GRID))


def test_halving(bank: Bank, cluster: Ray) -> None:
    """Reference: the local sweep; configurations are compared within uncut groups."""
    recipes = expand({"crt": {"lr": [0.01, 0.1, 0.2, 0.4], "epochs": [4]}}, seeds=(0, 1))
    halving = Halving(eta=2)
    got = sweep(bank, recipes, halving=halving, executor=cluster)
    expected = sweep(bank, recipes, halving=halving)
    same(got, expected)
    assert got.left_out == expected.left_out


def test_folds_and_probes(plain: Bank, cluster: Ray) -> None:
    """Reference: the local sweep on folds; linear and cosine probes of all rows and of every fold
    are trained here, once, and workers train none."""
    recipes = expand({"lws": {"epochs": [2]}, "tau_norm": {}, "crt": {"epochs": [2]}})
    recipes.append(Recipe("disalign", z0="cosine", epochs=2))
    for member in cluster._workers().members:
        forbid = member.actor.__ray_call__.remote(
            lambda _: (
                setattr(sys.modules["stage2.features.probes"], "fit_linear", None)
                or setattr(sys.modules["stage2.features.probes"], "fit_cosine", None)
            )
        )
        ray.get(forbid)
    lines: dict[str, list[str]] = {"here": [], "there": []}
    expected = sweep(plain, recipes, folds=3, screen=True, notice=lines["here"].append)
    got = sweep(
        plain, recipes, folds=3, screen=True, notice=lines["there"].append, executor=cluster
    )
    same(got, expected)

    def trained(kind: str) -> list[str]:
        return sorted(line.rpartition(":")[0] for line in lines[kind])

    assert trained("there") == trained("here")
    assert len(trained("there")) == 8


def test_optuna(bank: Bank, cluster: Ray, tmp_path: Path) -> None:
    """Reference: the local search: the same trials and the same table."""
    pytest.importorskip("optuna")
    path = tmp_path / "space.toml"
    path.write_text(
        'seeds = [0]\n[search]\nmethod = "optuna"\n'
        "[recipes.crt]\nlr = {log = [1e-3, 1]}\nepochs = 2"
    )
    space = read_specification(path, banks=[bank.path]).space(bank)
    boards = [
        search(bank, space, Sampling(trials=4, batch=2), results=tmp_path / name, **options)
        for name, options in (("ray.sqlite", {"executor": cluster}), ("local.sqlite", {}))
    ]
    assert boards[0] == boards[1]


def test_a_worker_killed_in_mid_group(bank: Bank, cluster: Ray, tmp_path: Path) -> None:
    """Reference: the local sweep; the group of the killed worker trains elsewhere, and a new worker
    takes its place."""
    recipes = [Recipe("crt", lr=0.01 * i, epochs=60, seed=i) for i in range(1, 7)]
    members = cluster._workers().members
    pids = ray.get([m.actor.__ray_call__.remote(lambda _: os.getpid()) for m in members])
    killed: list[int] = []

    def kill(done: int, _: int) -> None:
        if not killed:
            busy = next(i for i, member in enumerate(members) if member.sent)
            os.kill(pids[busy], signal.SIGKILL)
            killed.append(pids[busy])

    got = sweep(bank, recipes, executor=cluster, progress=kill)
    assert killed
    same(got, sweep(bank, recipes))
    until = time.monotonic() + 30
    while len(cluster._workers().members) < 2 and time.monotonic() < until:
        cluster._workers().turn()
    assert len(cluster._workers().members) == 2


def test_groups_are_taken_as_workers_become_free(bank: Bank, cluster: Ray) -> None:
    """Reference: by hand: never more than one group ahead of two workers; an iterator that waits
    for the first outcome holds no outcome back."""
    groups = plan_bank(bank, [Recipe("crt", epochs=2, seed=seed) for seed in range(8)])
    taken: list[FusedGroup] = []
    first = threading.Event()

    def each() -> Iterator[FusedGroup]:
        for number, group in enumerate(groups):
            if number == 1:
                assert first.wait(60), "the first outcome was held back"
            taken.append(group)
            yield group

    views = Views(bank, "cpu", None, 1)
    views.prepare([])
    done = 0
    for trained in cluster(views).run(each()):
        assert len(taken) <= done + 3, f"{len(taken)} groups taken after {done}"
        done += 1
        assert [outcome.status for outcome in trained.outcomes] == ["done"]
        first.set()
    assert done == 8


def test_an_error_of_the_iterator_and_of_a_worker(bank: Bank, toy_bank: Path, cluster: Ray) -> None:
    """Reference: the errors themselves; the workers train on afterwards."""

    def broken() -> Iterator[FusedGroup]:
        yield plan_bank(bank, [Recipe("ncm")])[0]
        raise errors.ConfigError("no more")

    with pytest.raises(errors.ConfigError, match="no more"):
        list(cluster(Views(bank, "cpu", None, 1)).run(broken()))
    spoiled(toy_bank, "train/instance/feature", np.s_[0, 31, 2], np.nan)
    with pytest.raises(errors.NotFinite, match=r"toy.h5: train/instance, .* in row 31"):
        sweep(toy_bank, [Recipe("crt", epochs=2)], executor=cluster)
    assert len(sweep(bank, [Recipe("ncm")], executor=cluster).outcomes) == 1


def test_other_versions(
    bank: Bank, cluster: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Reference: ConfigError with both versions; with `any_version` results carry the worker's."""
    real = package.__version__
    monkeypatch.setattr(package, "__version__", "9.9.9")
    pool = cluster._workers()
    place = pool.members[0].place
    assert place
    problem = pool._version_problem(place)
    assert problem
    assert f"featbank {real}, not 9.9.9" in problem
    monkeypatch.setattr(pool, "_any_version", True)
    assert pool._version_problem(place) is None
    sweep(bank, [Recipe("ncm")], results=tmp_path / "r.sqlite", executor=cluster)
    with Store(tmp_path / "r.sqlite") as store:
        (run,) = store.runs(bank.fingerprint)
    assert run.versions["featbank"] == real


def test_a_bank_that_is_not_on_the_node(
    bank: Bank, cluster: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the file; it is sent once, in pieces, into a folder of its fingerprint."""
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("stage2.executors.ray_worker.PIECE", 10_000)
    size = bank.path.stat().st_size
    job = Job(
        "/nowhere/bank.h5", None, bank.fingerprint, size, cluster.site(), None, parameters=True
    )
    sender = ray.remote(Sender).options(num_cpus=0).remote(str(bank.path))
    sent = []

    def pieces() -> Iterator[bytes]:
        for start in range(0, size, 10_000):
            sent.append(start)
            whole = ray.get(sender.piece.remote(start))
            yield whole[:10_000]

    copy = bank_of(job, pieces)
    assert copy.read_bytes() == bank.path.read_bytes()
    assert copy == tmp_path / "cache" / bank.fingerprint / "bank.h5"
    count = len(sent)
    assert bank_of(job, pieces) == copy
    assert len(sent) == count, "it was sent again"
    whole = b"".join(_pieces(sender, 1))
    assert whole == bank.path.read_bytes()
    other = dataclasses.replace(job, fingerprint="0" * 64)
    with pytest.raises(errors.Mismatch, match="another bank"):
        bank_of(other, pieces)
    assert [p.name for p in (tmp_path / "cache" / ("0" * 64)).iterdir()] == [".lock"]


def test_a_bank_that_is_replaced_in_mid_sweep(bank: Bank, cluster: Ray, tmp_path: Path) -> None:
    """Reference: one line with both fingerprints; what is stored are whole groups of the first."""
    path, results = bank.path, tmp_path / "r.sqlite"
    problem(seed=1).bank(tmp_path / "other.h5").close()
    recipes = [Recipe("crt", epochs=2, seed=seed) for seed in range(16)]

    def replace(done: int, total: int) -> None:
        if done == 1:
            (tmp_path / "other.h5").replace(path)

    with pytest.raises(errors.Mismatch, match=f"was replaced by .*{bank.fingerprint[:12]}"):
        sweep(bank, recipes, results=results, executor=cluster, progress=replace)
    with Store(results) as store:
        assert 1 <= len(store.finished(bank.fingerprint)) < len(recipes)
        assert len(store.banks()) == 1


def test_wrong_options(featbank: Run, toy_bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one line and exit 2, at once."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    sweeps = ("sweep", toy_bank, "--recipe", "ncm")
    started = time.monotonic()
    for options, expected in (
        (
            ("--executor", "ray", "--address", "127.0.0.1:1"),
            "No Ray cluster answers at 127.0.0.1:1",
        ),
        (("--executor", "ray", "--address", "somewhere"), "is not that of a Ray cluster"),
        (("--executor", "ray", "--gpus-per-group", 2), "must be a float"),
        (("--cpus-per-group", 2), "--cpus-per-group is of --executor ray"),
    ):
        failed = featbank(*sweeps, *options, code=2)
        assert expected in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
    assert time.monotonic() - started < 20


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: ConfigError with the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "stage2.executors.ray")
    with pytest.raises(errors.ConfigError, match=r"pip install 'featbank\[ray\]'"):
        open_executor("ray", {}).__enter__()


def test_no_room(cluster: Ray) -> None:
    """Reference: ConfigError with what there is."""
    with (
        Ray(gpus_per_group=0, cpus_per_group=64) as large,
        pytest.raises(errors.ConfigError, match="64 CPUs"),
    ):
        large.site()


def test_warnings_of_workers_are_given_here(plain: Bank, cluster: Ray) -> None:
    """Reference: the local sweep's: a cosine probe that stops short, or whatever it says."""
    recipes = [Recipe("ce", optimiser="lbfgs", max_iterations=1)]
    with warnings.catch_warnings(record=True) as here:
        warnings.simplefilter("always")
        sweep(plain, recipes)
    with warnings.catch_warnings(record=True) as there:
        warnings.simplefilter("always")
        sweep(plain, recipes, executor=cluster)
    assert sorted(str(w.message) for w in there) == sorted(str(w.message) for w in here)
    assert here


def test_the_command(featbank: Run, toy_bank: Path, cluster: Ray) -> None:
    """Reference: the table of a local sweep; the plan says where it trains."""
    cluster.__exit__()  # its workers leave their CPUs to others
    options = ("--recipe", "crt", "--recipe", "ncm", "--seeds", "0,1")
    local = featbank("sweep", toy_bank, *options, "-o", "local.sqlite")
    on_ray = (*options, "--executor", "ray", "--cpus-per-group", 1, "--gpus-per-group", 0)
    done = featbank("sweep", toy_bank, *on_ray, "-o", "ray.sqlite")

    def table(text: str) -> list[str]:
        return [line for line in text.splitlines() if "│" in line or "crt" in line]

    assert table(done.stdout) == table(local.stdout)
    assert "on 2 workers with cpu" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="here such workers start")
def test_workers_that_do_not_start(cluster: Ray) -> None:
    """Reference: ConfigError with the machine and the reason: Ray was told of a GPU that is not
    there, which two groups share."""
    cluster.__exit__()
    started = time.monotonic()
    with (
        Ray(gpus_per_group=0.5, cpus_per_group=1) as wrong,
        pytest.raises(errors.ConfigError, match=r"No worker starts on .*\(.*\)\. Is featbank"),
    ):
        wrong.site()
    assert time.monotonic() - started < 60
