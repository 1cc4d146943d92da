"""An array job of SLURM, submitted through submitit (extra ``[slurm]``)."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.settings import shortened

try:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError
except ImportError:
    raise errors.ConfigError(
        "Submitting to SLURM needs the package submitit. Run pip install 'featbank[slurm]'."
    ) from None

REQUEUES = 100
"""Times that a task is requeued at the end of its time."""

WARNING = 120
"""Seconds before the end of its time at which a task is told."""

_TIME = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d{2}))?(?::(?P<third>\d{2}))?"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


@dataclass(frozen=True)
class Request:
    """The settings that every task of an array is given.

    Attributes
    ----------
    partition
        The partition.
    time
        Its limit, as SLURM writes it: ``90`` minutes, ``12:00:00``, ``2-12``.
    gpus, cpus
        GPUs and CPU threads of a task; None as the partition has it.
    memory
        Memory of a task, such as ``32G``; None as the partition has it.
    name
        The job's name.
    further
        Further settings of ``sbatch`` by name; True for those without a value.
    """

    partition: str
    time: str = "12:00:00"
    gpus: int | None = None
    cpus: int | None = None
    memory: str | None = None
    name: str = "featbank"
    further: Mapping[str, str | bool] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """The parameters of submitit.

        Raises
        ------
        ConfigError
            For a time or the name of a setting that SLURM does not know.
        """
        for name in self.further:
            if not _NAME.fullmatch(name):
                raise errors.ConfigError(
                    f"{shortened(name)} is no setting of sbatch. Write --sbatch account=lab."
                )
        known = {
            "job_name": self.name,
            "partition": self.partition,
            "time": minutes(self.time),
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem": self.memory,
        }
        threads: dict[str, Any] = {}
        if self.cpus:  # srun does not take it over from sbatch since SLURM 22.05
            threads = {
                "setup": [f"export OMP_NUM_THREADS={self.cpus}"],
                "srun_args": [f"--cpus-per-task={self.cpus}"],
            }
        return {
            **{name: value for name, value in known.items() if value is not None},
            **threads,
            "signal_delay_s": WARNING,
            "stderr_to_stdout": True,
            "additional_parameters": dict(self.further),
        }


def minutes(text: str) -> int:
    """Minutes of a limit as SLURM writes it: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``,
    ``D-H:M:S``; seconds round up.

    >>> minutes("90"), minutes("12:00:00"), minutes("2-12"), minutes("1:30")
    (90, 720, 3600, 2)
    """
    match = _TIME.fullmatch(text) if text.isascii() else None
    if not match:
        raise errors.ConfigError(
            f"{shortened(text)} is no time of SLURM. Write --time 12:00:00, or 2-12 for two and a "
            "half days."
        )
    first, second, third = (int(match[name] or 0) for name in ("first", "second", "third"))
    if match["days"] is not None:
        hours, whole, seconds = 24 * int(match["days"]) + first, second, third
    elif match["third"] is not None:
        hours, whole, seconds = first, second, third
    else:
        hours, whole, seconds = 0, first, second
    total = 60 * hours + whole + (seconds > 0)
    if not total:
        raise errors.ConfigError(f"--time {text} leaves no time. Write --time 12:00:00.")
    return total


class Array(SlurmExecutor):
    """Submits the tasks of a request, and shows the script of it, also where there is no SLURM.

    Parameters
    ----------
    count
        The number of tasks.
    request
        What each is given.
    folder
        The folder of logs, and of what submitit keeps of tasks.
    """

    def __init__(self, count: int, request: Request, folder: Path) -> None:
        super().__init__(folder, max_num_timeout=REQUEUES)
        self._count = count
        self.update_parameters(**request.parameters(), array_parallelism=count)

    @classmethod
    def affinity(cls) -> int:
        """1 where there is no SLURM: the script can be made there as well."""
        return max(1, super().affinity())

    def send(self, tasks: Sequence[Callable[[], None]]) -> str:
        """Submit the array, a task for each function; the job's number.

        Raises
        ------
        ConfigError
            Where there is no SLURM here, or it refuses the job.
        """
        if not (shutil.which("sbatch") and shutil.which("srun")):
            raise errors.ConfigError(
                "There is no sbatch or srun here. Submit from a machine of the cluster, or print "
                "the script with --dry-run."
            )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the error has what sbatch prints
                jobs = self.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise errors.ConfigError(
                f"sbatch refused the job: {' '.join(str(error).split())}. Change what it names."
            ) from None
        return jobs[0].job_id.partition("_")[0]

    def script(self) -> str:
        """The batch script."""
        if self._count > 1:
            self.parameters["map_count"] = self._count
        return self._make_submission_file_text(self._submitit_command_str, "")
