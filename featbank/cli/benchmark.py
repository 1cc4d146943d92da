"""``featbank benchmark``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    FILE,
    Integer,
    device_option,
    format_option,
    memory_option,
    setting_option,
)
from featbank.cli.progress import progress
from featbank.cli.terminal import console
from featbank.errors import ConfigError
from featbank.settings import shortened
from stage2.methods.precisions import PRECISION

if TYPE_CHECKING:
    from rich.table import Table


MOST_CONFIGURATIONS = 10_000
"""Configurations that are trained together."""


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=("cifar100-lt",),
    show_default=True,
    metavar="NAME",
    help="cifar100-lt, imagenet-lt, places-lt, inaturalist2018 (GPU), or N,D,K or N,D,K,B; "
    "repeat for more.",
)
@click.option(
    "--configurations",
    default="1,16,64,256",
    show_default=True,
    metavar="C1,C2",
    help="Numbers of configurations trained together.",
)
@device_option
@click.option("--threads", type=Integer(1, 1024), help="CPU threads. [default: PyTorch's]")
@click.option(
    "--repeats",
    default=2,
    show_default=True,
    type=Integer(1, 1000),
    help="Times that everything is measured, in turn.",
)
@click.option(
    "--epochs",
    type=Integer(1, 10),
    help="Epochs timed, of the recipe's 10; times are scaled to 10. [default: by shape]",
)
@click.option("--steps", type=Integer(1, 1_000_000), help="Steps timed, in place of epochs.")
@setting_option(
    PRECISION,
    default=PRECISION.default,
    show_default=True,
    type=click.Choice(PRECISION.choices),
    help="Precision of the engine's matrix products, and of the ceilings.",
)
@memory_option("Budget of a fused group and its features, such as 2GiB. [default: as in sweep]")
@click.option(
    "--counts",
    type=FILE,
    help="JSON list of class counts in place of the shape's own.",
)
@format_option("json carries every number.", ("table", "json"))
def benchmark(
    *, shapes: tuple[str, ...], configurations: str, counts: Path | None, form: str, **options: Any
) -> None:
    """Measure the engine beside the usual loops and this machine's ceilings.

    Trains on random features of a benchmark's shape: linear heads, cross-entropy, SGD, 10 epochs.
    Everything runs in one process, in turn.

    \b
    featbank benchmark
    featbank benchmark --shape imagenet-lt --configurations 16,64 --format json
    """
    options["configurations"] = _numbers(configurations)
    from stage2.benchmark import benchmark as measure
    from stage2.benchmark import find_workload, with_counts

    workloads = [find_workload(shape) for shape in shapes]
    if counts:
        if len(workloads) > 1:
            raise ConfigError(f"--counts {counts} is for one shape. Give one --shape with it.")
        workloads = [with_counts(workloads[0], counts)]
    if form == "json":
        results = [measure(workload, **options) for workload in workloads]
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for workload in workloads:
        with progress("runs") as report:
            result = measure(workload, progress=report, **options)
        show(result)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= MOST_CONFIGURATIONS:
        raise ConfigError(
            f"--configurations {shortened(text)[1:-1]} is not a list of numbers of configurations, "
            f"at most {MOST_CONFIGURATIONS:,}. Write --configurations 1,16,64."
        )
    return sorted(set(numbers))


def show(result: dict[str, Any]) -> None:
    """Print a result of `stage2.benchmark.benchmark` as a table, and in words."""
    output = console()
    trained = [row for row in result["measurements"] if row["floor"]]
    best = max(trained, key=lambda row: row["configurations"])
    table = _table(result, best["configurations"])
    for part in (_title(result), table, *_sentences(result, best)):
        output.print(part)


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['shape']}: N = {result['rows']:,}, D = {result['dim']:,}, "
        f"K = {result['classes']:,}, B = {result['batch_size']}, {result['epochs']} epochs. "
        f"{result['device']}, threads: {result['threads']}, {result['precision']}, "
        f"torch {result['torch']}. Medians (min … max) of {result['repeats']} repeats."
    )


def _table(result: dict[str, Any], largest: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for title in (
        "ms for one\nconfiguration",
        "configurations\na second",
        f"times that of\n{largest} together",
        "% of\nthe floor",
        "steps\ntimed",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result["measurements"]:
        table.add_row(
            row["description"],
            _range(row["seconds"], 1e3),
            _number(row["configurations_per_second"]["median"]),
            _range(row["times_fused"]) if row["times_fused"] else "",
            _range(row["floor"]["share"], 100) if row["floor"] else "",
            f"{row['timed_steps']:,}" if row["timed_steps"] else "all",
        )
    return table


def _sentences(result: dict[str, Any], best: dict[str, Any]) -> list[str]:
    """Sentences on the machine, and on how the row `best` compares with it."""
    floor = best["floor"]
    fused = [row for row in result["measurements"] if row["name"].startswith("fused")]
    memory = result["feature_bytes"] + max(row["memory_bytes"] for row in fused)
    start = sum(row["start_seconds"] for row in fused)
    return [
        *(
            f"This machine does {_range(ceiling['per_second'], 1e-9)} "
            f"{'GB/s' if name == 'copy' else 'GFLOP/s'} in {ceiling['description']}."
            for name, ceiling in result["ceilings"].items()
        ),
        f"The floor is {_range(floor['seconds'], 1e3)} ms a configuration: its products take "
        f"{_range(floor['product_seconds'], 1e3)} ms at the first rate, what it must move takes "
        f"{_range(floor['memory_seconds'], 1e3)} ms at the last.",
        f"{best['configurations']} together reach {_range(floor['share'], 100)} % of the floor, "
        f"and {_range(floor['share_of_products'], 100)} % of the second rate.",
        f"{result['timed_steps']:,} of {result['steps']:,} steps were timed, fewer where the table "
        "says so, and scaled to all.",
        f"Features and training took at most {_number(memory / 2**30)} GiB of memory, of a budget "
        f"of {result['budget_bytes'] / 2**30:.1f} GiB.",
        f"Compiling, tuning and set-up took {start:.1f} s in the first steps, which are not in "
        "the times.",
    ]


def _range(spread: dict[str, float], unit: float = 1) -> str:
    low, middle, high = (_number(spread[key] * unit) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low} … {high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
