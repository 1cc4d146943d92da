"""``featbank submit``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import Integer
from featbank.cli.sweep import sweep
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_EXITS = (0, 1, 2)
"""Exit codes of commands; the signal of the end of a task's time exits with another."""


@dataclass(frozen=True)
class Task:
    """A task of the array: a sweep of a shard, which continues where it was when it is requeued.

    Attributes
    ----------
    arguments
        Those of ``featbank sweep``.
    """

    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"featbank sweep {shlex.join(self.arguments)}"

    def __call__(self) -> None:
        """Sweep."""
        from featbank.cli import main

        try:
            main.main(args=["sweep", *self.arguments], prog_name="featbank")
        except SystemExit as end:
            if end.code not in _EXITS:
                raise
            if end.code:
                raise RuntimeError(f"{self} ended with exit code {end.code}.") from None

    def checkpoint(self) -> DelayedSubmission:
        """The task to requeue when SLURM takes the machine away, or its time ends."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument(
    "arguments",
    metavar="[BANK]... [SPECIFICATION] [OPTION OF SWEEP]...",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
)
@click.option("--slurm", "partition", required=True, metavar="PARTITION", help="The partition.")
@click.option(
    "--array",
    "count",
    required=True,
    type=Integer(1, 100_000),
    metavar="N",
    help="Tasks, a shard each.",
)
@click.option(
    "--time",
    default="12:00:00",
    show_default=True,
    help="Time of a task as SLURM writes it; a task that reaches it is requeued and continues.",
)
@click.option("--gpus", type=Integer(1), help="GPUs of a task. [default: none are asked for]")
@click.option("--cpus", type=Integer(1), help="CPU threads of a task. [default: the partition's]")
@click.option("--mem", help="Memory of a task, such as 32G. [default: the partition's]")
@click.option(
    "--sbatch",
    "further",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A further setting of sbatch, such as account=lab; repeat for more.",
)
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    default="slurm-logs",
    show_default=True,
    help="Folder of the script, the logs and what the tasks are read from; all machines see it.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything and print the script; submit nothing."
)
def submit(
    *,
    arguments: tuple[str, ...],
    partition: str,
    count: int,
    logs: Path,
    dry_run: bool,
    further: tuple[str, ...],
    time: str,
    gpus: int | None,
    cpus: int | None,
    mem: str | None,
) -> None:
    """Submit a sweep to SLURM as one array job, a shard a task.

    Options that are not listed here are those of `featbank sweep`. The sweep is checked and planned
    here before it is submitted.

    \b
    featbank submit bank.h5 sweep.toml --slurm gpu --array 8 --gpus 1 --time 4:00:00
    featbank submit bank.h5 sweep.toml --seeds 0,1 --slurm cpu --array 32 --cpus 4 --dry-run
    """
    from stage2.executors.slurm import Array, Request

    settings = dict(_setting(text) for text in further)
    request = Request(partition, time, gpus, cpus, mem, further=settings)
    array = Array(count, request, logs)
    follows = _checked(arguments, count)
    tasks = [Task((*arguments, "--shard", f"{i}/{count}")) for i in range(1, count + 1)]
    if dry_run:
        click.echo(array.script())
        say(f"Every task runs a shard, the first one: {tasks[0]}")
        return
    job = array.send(tasks)
    say(f"Submitted job {job}: {number(count, 'task')} on {partition}, logs in {logs}.")
    say(f"Watch: squeue -j {job}")
    say(follows)


def _setting(text: str) -> tuple[str, str | bool]:
    """Name and value of a setting of sbatch; True where it has none."""
    name, equals, value = text.removeprefix("--").partition("=")
    return name, value if equals else True


def _checked(arguments: Sequence[str], count: int) -> str:
    """Check and plan a sweep as its first shard does; a line on what follows all shards."""
    with sweep.make_context("featbank sweep", list(arguments)) as context:
        given: dict[str, Any] = context.params
        for name, flag in (("shard_text", "--shard"), ("listed", "--list")):
            if given[name]:
                raise ConfigError(f"featbank submit takes no {flag}. Leave it out.")
        if given.get("executor", "local") != "local":
            raise ConfigError("A task of SLURM trains by itself. Leave out --executor.")
        given |= {"shard_text": f"1/{count}", "dry_run": True, "device": _device(given["device"])}
        return str(sweep.invoke(context))


def _device(name: str) -> str:
    """The device to plan for: the one of the tasks, or the CPU where this machine has none."""
    import torch

    return "cpu" if name.startswith("cuda") and not torch.cuda.is_available() else name
