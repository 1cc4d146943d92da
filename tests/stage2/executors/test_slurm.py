"""``featbank submit``: one array job, on submitit's local executor and a SLURM of shell scripts.

`test_slurm_daemons.py` has the daemons of a real one.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featbank import errors
from featbank.cli.submit import Task
from tests.conftest import Run
from tests.stage2.executors.test_shards import figures

submitit = pytest.importorskip("submitit")

from stage2.executors.slurm import Array, Request, minutes  # noqa: E402  # needs submitit

SWEEP = ("toy.h5", "--recipe", "crt", "--recipe", "ncm", "--set", "epochs=2", "--seeds", "0,1")

SBATCH = """\
#!/bin/bash
# Runs the tasks of an array one after another, in the background.
grep -q partition=full "$1" && { echo "sbatch: error: invalid partition" >&2; exit 1; }
cp "$1" "$SLURM_HERE/script.sh"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
(
    for task in $(seq 0 "$last"); do
        export SLURM_JOB_ID=$((7 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task
        bash "$SLURM_HERE/script.sh"
    done
    touch "$SLURM_HERE/ended"
) > "$SLURM_HERE/log" 2>&1 < /dev/null &
echo $! > "$SLURM_HERE/pid"
echo "Submitted batch job 7"
"""

SRUN = """\
#!/bin/bash
# Runs a command with its output in a file.
while [[ $1 == --* ]]; do
    if [[ $1 == --output ]]; then output=$2; shift; fi
    shift
done
output=${output//%A/$SLURM_ARRAY_JOB_ID}
output=${output//%a/$SLURM_ARRAY_TASK_ID}
exec "$@" > "${output//%t/0}" 2>&1
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """``sbatch`` and ``srun`` on the PATH; waits for the end of the job."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_HERE", str(folder))

    def wait() -> None:
        for _ in range(600):
            if (folder / "ended").exists():
                return
            time.sleep(0.2)
        raise AssertionError((folder / "log").read_text())

    yield wait
    if (folder / "pid").exists() and not (folder / "ended").exists():
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


@pytest.mark.usefixtures("toy_bank")
def test_an_array_ends_with_the_table_of_one_sweep(
    featbank: Run, slurm: Callable[[], None], tmp_path: Path
) -> None:
    """Reference: one sweep, to the last bit; the commands are those that were printed."""
    options = ("--slurm", "debug", "--array", "2", "--cpus", "1", "--time", "10")
    told = featbank("submit", *SWEEP, *options).stdout.splitlines()
    assert told[0].startswith("shard 1 of 2: ")
    assert "Submitted job 7: 2 tasks on debug, logs in slurm-logs." in told
    assert "Watch: squeue -j 7" in told
    slurm()
    logs = sorted((tmp_path / "slurm-logs").glob("7_*_0_log.out"))
    assert len(logs) == 2
    for log in logs:
        assert "Job completed successfully" in log.read_text()
    command = shlex.split(told[-1].partition(": ")[2])
    featbank("merge-results", *sorted(tmp_path.glob(command[2])), *command[3:])
    featbank("sweep", *SWEEP, "-o", "one.sqlite")
    assert figures(tmp_path / "results.sqlite") == figures(tmp_path / "one.sqlite")


@pytest.mark.usefixtures("toy_bank")
def test_tasks_run_in_the_local_executor(tmp_path: Path, featbank: Run) -> None:
    """Reference: a task that ends well has its file, one that does not raises with its command."""
    executor = submitit.LocalExecutor(tmp_path / "logs")
    tasks = [Task((*SWEEP, "--shard", "1/1")), Task(("absent.h5", "--shard", "1/1"))]
    done, failed = executor.submit_array(tasks)
    assert done.result() is None
    with pytest.raises(submitit.core.utils.FailedJobError, match=r"absent\.h5 --shard 1/1 ended"):
        failed.result()
    told = featbank("merge-results", "results.shard-1-of-1.sqlite", "-o", "all.sqlite").stdout
    assert "missing" not in told


def test_a_task_is_requeued_as_it_is() -> None:
    """Reference: its command, which continues from its results."""
    task = Task((*SWEEP, "--shard", "1/2"))
    assert task.checkpoint().function == task


@pytest.mark.usefixtures("toy_bank")
def test_a_dry_run_prints_the_script(
    featbank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: every setting, in the words of sbatch; here there is no SLURM."""
    monkeypatch.setenv("PATH", "")
    told = featbank(
        *("submit", *SWEEP, "--slurm", "gpu", "--array", "8", "--gpus", "1", "--cpus", "4"),
        *("--mem", "32G", "--time", "1-2", "--sbatch", "account=lab", "--sbatch", "--exclusive"),
        "--dry-run",
    ).stdout
    for setting in (
        *("partition=gpu", "array=0-7%8", "gpus-per-node=1", "cpus-per-task=4", "mem=32G"),
        *("time=1560", "account=lab", "exclusive"),
    ):
        assert f"#SBATCH --{setting}\n" in told, setting
    assert "export OMP_NUM_THREADS=4" in told
    assert f"featbank sweep {shlex.join(SWEEP)} --shard 1/8" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.h5"]


@pytest.mark.usefixtures("toy_bank", "slurm")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--slurm", "full"), "sbatch refused the job: sbatch: error: invalid partition"),
        (("--time", "soon"), "soon' is no time of SLURM"),
        (("--time", "0"), "leaves no time"),
        (("--sbatch", "a b=1"), "no setting of sbatch"),
        (("--shard", "1/2"), "takes no --shard"),
        (("--executor", "ray"), "Leave out --executor"),
        (("--search", "optuna"), "Optuna"),
        (("--recipe", "cart"), "Did you mean"),
        (("--tim", "3"), "--tim"),
        (("--array", "0"), "--array"),
    ],
)
def test_what_cannot_be_submitted(featbank: Run, options: tuple[str, ...], word: str) -> None:
    """Reference: one line and exit code 2."""
    told = featbank("submit", *SWEEP, "--slurm", "debug", "--array", "2", *options, code=2)
    assert word in told.stderr
    assert len(told.stderr.splitlines()) == 1, told.stderr
    assert not Path("slurm/ended").exists()


@pytest.mark.usefixtures("toy_bank")
def test_no_slurm_here(featbank: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reference: one line that names --dry-run."""
    monkeypatch.setenv("PATH", str(tmp_path))
    told = featbank("submit", *SWEEP, "--slurm", "debug", "--array", "2", code=2).stderr
    assert "no sbatch or srun here" in told
    assert len(told.splitlines()) == 1


def test_the_extra_that_is_missing(tmp_path: Path, toy_bank: Path) -> None:
    """Reference: one line with the command that installs it, exit code 2."""
    block = "import sys; sys.modules['submitit'] = None; from featbank.cli import main; main()"
    command = [sys.executable, "-c", block, "submit", str(toy_bank), "--slurm", "x", "--array", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'featbank[slurm]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_times() -> None:
    """Reference: the manual of sbatch: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    expected = {"90": 90, "1:30": 2, "12:00:00": 720, "2-12": 3600, "1-0:30": 1470}
    assert {text: minutes(text) for text in expected} == expected
    assert minutes("0-1:00:01") == 61
    for text in ("", "-1", "1:2:3:4", "1h", "٣"):
        with pytest.raises(errors.ConfigError, match="no time of SLURM"):
            minutes(text)


def test_one_task_is_no_array(tmp_path: Path) -> None:
    """Reference: submitit, which submits a single function as a plain job."""
    settings: dict[str, Any] = {"partition": "cpu"}
    assert "--array" not in Array(1, Request(**settings), tmp_path).script()
