"""``featbank submit`` to the daemons of SLURM: an array, and a task that is told to make room."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.stage2.executors.test_shards import figures

DAEMONS = ("slurmctld", "slurmd")

pytestmark = pytest.mark.long

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _told(*command: str) -> str:
    """The output of a command of SLURM."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def _until(happened: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, why()
        time.sleep(0.2)


@pytest.fixture
def daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A controller and a node of two CPUs, in a folder with their logs."""
    if not all(map(shutil.which, DAEMONS)) or os.geteuid() != 0:
        pytest.skip("needs the daemons of SLURM, and root for them")
    folder = tmp_path / "cluster"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    ports = {"controller": _free_port(), "node": _free_port()}
    text = CONFIGURATION.format(host=host, folder=folder, **ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    processes = []
    try:
        for daemon in DAEMONS:
            with (folder / f"{daemon}.out").open("w") as output:
                processes.append(
                    subprocess.Popen([daemon, "-D"], stdout=output, stderr=subprocess.STDOUT)
                )
        try:
            _until(lambda: "idle" in _told("sinfo", "-h"), 30, lambda: _logs(folder))
        except AssertionError as error:
            pytest.skip(f"the daemons of SLURM do not run here: {str(error)[-300:]}")
        yield folder
        _told("scancel", "--user=root")
        _until(lambda: not _told("squeue", "-h").strip(), 60, lambda: _told("squeue"))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))


def _ended(seconds: float, logs: Path) -> None:
    """Wait until no job is left."""
    _until(
        lambda: not _told("squeue", "-h").strip(),
        seconds,
        lambda: _told("squeue") + "\n".join(p.read_text() for p in logs.glob("*.out")),
    )


@pytest.mark.usefixtures("toy_bank")
def test_an_array_of_a_real_slurm(featbank: Run, daemons: Path, tmp_path: Path) -> None:
    """Reference: one sweep, to the last bit. A task that is told to make room, as before the end of
    its time, is requeued, keeps what it had stored, and continues."""
    del daemons
    sweep = ("toy.h5", "--recipe", "crt", "--set", "epochs=400", "--seeds", "0,1,2,3,4,5")
    told = featbank(
        *("submit", *sweep, "--slurm", "debug", "--array", "2", "--cpus", "1", "--time", "30")
    ).stdout
    job = told.partition("Submitted job ")[2].partition(":")[0]
    assert job.isdigit(), told
    first, log = (
        tmp_path / "results.shard-1-of-2.sqlite",
        tmp_path / f"slurm-logs/{job}_0_0_log.out",
    )

    def stored() -> list[tuple[object, ...]]:
        if not first.exists():
            return []
        with closing(sqlite3.connect(f"file:{first}?mode=ro", uri=True)) as database:
            return database.execute("SELECT recipe, finished FROM run").fetchall()

    _until(lambda: len(stored()) > 0, 90, lambda: _told("squeue") + log.read_text())
    before = stored()
    _told("scancel", "--signal=USR2", f"{job}_0")
    _ended(400, tmp_path / "slurm-logs")
    assert set(before) <= set(stored()), "a run that was stored was trained again"
    assert len(before) < len(stored()), "the sweep was too short to be interrupted"
    assert "Requeued job" in log.read_text()
    shards = sorted(tmp_path.glob("results.shard-*.sqlite"))
    featbank("merge-results", *shards, "-o", "results.sqlite")
    featbank("sweep", *sweep, "-o", "one.sqlite")
    assert figures(tmp_path / "results.sqlite") == figures(tmp_path / "one.sqlite")
