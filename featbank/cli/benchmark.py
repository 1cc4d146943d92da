"""``featbank benchmark``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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

    from stage2.benchmark import Workload


MOST = {"configurations": 10_000, "threads": 1024}
"""Largest numbers of configurations trained together, and of threads."""

NAMES = {"fused": "featbank", "fused_evaluated": "featbank, test too"}
"""What the table calls the engine."""


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME",
    help="cifar100-lt, imagenet-lt, places-lt, inaturalist2018 (GPU), or N,D,K or N,D,K,B; "
    "repeat for more. [default: cifar100-lt; with --model three]",
)
@click.option(
    "--configurations",
    metavar="C1,C2",
    help="Numbers of configurations trained together. [default: 1,16,64,256; with --model by "
    "shape]",
)
@device_option
@click.option(
    "--threads", metavar="T1,T2", help="Numbers of CPU threads. [default: 1 and PyTorch's]"
)
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
    help="Precision of the engine's matrix products, and of the ceilings; on a GPU opponents then "
    "have tf32.",
)
@memory_option("Budget of a fused group and its features, such as 2GiB. [default: as in sweep]")
@click.option(
    "--counts",
    type=FILE,
    help="JSON list of class counts in place of the shape's own.",
)
@click.option(
    "--model",
    "gpu",
    metavar="GPU",
    help="Measure nothing: print a model of the time on a GPU, which need not be here. h200, h100, "
    "a100 or b200; at all precisions unless --precision is given.",
)
@format_option("json carries every number.", ("table", "json"))
@click.pass_context
def benchmark(
    context: click.Context,
    *,
    shapes: tuple[str, ...],
    configurations: str | None,
    threads: str | None,
    counts: Path | None,
    gpu: str | None,
    form: str,
    **options: Any,
) -> None:
    """Measure the engine beside its opponents and this machine's ceilings.

    Trains on random features of a benchmark's shape: linear heads, cross-entropy, SGD, 10 epochs.
    Everything runs in one process, in turn. Opponents train the same rows in the same order, and
    their parameters are compared with the engine's before they are timed.

    \b
    hand_fused    one product, analytic gradient and SGD by hand
    hand_tiles    the same on tiles of 16, one thread each
    one_linear    one nn.Linear(D, C*K), autograd
    baddbmm       torch.baddbmm as in HFTA, autograd
    vmap_grad     torch.func, vmap(grad)
    module_dict   a ModuleDict of heads over one batch
    plain_loop    a plain PyTorch loop, one head
    data_loader   a DataLoader loop, one head
    scikit_learn  LogisticRegression to its end: not ranked
    lbfgs, cuml   torch.optim.LBFGS, cuML: on a GPU, not ranked

    \b
    featbank benchmark
    featbank benchmark --shape imagenet-lt --configurations 16,64 --format json
    featbank benchmark --model h200
    """
    if gpu is not None:
        numbers = _numbers("configurations", configurations) if configurations else None
        _model(context, gpu, shapes, configurations=numbers, counts=counts, form=form)
        return
    options["configurations"] = _numbers("configurations", configurations or "1,16,64,256")
    if threads is not None:
        options["threads"] = _numbers("threads", threads)
    from stage2.benchmark import benchmark as measure

    workloads = _workloads(shapes or ("cifar100-lt",), counts)
    if form == "json":
        results = [measure(workload, **options) for workload in workloads]
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for workload in workloads:
        with progress("runs") as report:
            result = measure(workload, progress=report, **options)
        show(result)


def _workloads(shapes: Sequence[str], counts: Path | None) -> list[Workload]:
    from stage2.benchmark import find_workload, with_counts

    workloads = [find_workload(shape) for shape in shapes]
    if counts:
        if len(workloads) > 1:
            raise ConfigError(f"--counts {counts} is for one shape. Give one --shape with it.")
        workloads = [with_counts(workloads[0], counts)]
    return workloads


def _model(
    context: click.Context,
    gpu: str,
    shapes: Sequence[str],
    *,
    configurations: Sequence[int] | None,
    counts: Path | None,
    form: str,
) -> None:
    """Print the model of a GPU."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("device", "threads", "repeats", "epochs", "steps", "memory")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise ConfigError(f"--model measures nothing. Leave out {', '.join(given)}.")
    from featbank.cli.modelling import show_model
    from stage2.benchmark.gpus import find_gpu
    from stage2.benchmark.model import SHAPES, model

    find_gpu(gpu)
    precision = context.params["precision"]
    asked = context.get_parameter_source("precision") is ParameterSource.COMMANDLINE
    rows = [
        model(workload, gpu=gpu, configurations=number, precision=each)
        for workload in _workloads(shapes or tuple(SHAPES), counts)
        for number in configurations or SHAPES.get(workload.name, (1, 16, 64, 256))
        for each in ([precision] if asked else PRECISION.choices or ())
    ]
    if form == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    show_model(rows)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= MOST[option]:
        raise ConfigError(
            f"--{option} {shortened(text)[1:-1]} is not a list of numbers of {option}, at most "
            f"{MOST[option]:,}. Write --{option} 1,16."
        )
    return sorted(set(numbers))


def show(result: dict[str, Any]) -> None:
    """Print a result of `stage2.benchmark.benchmark` as two tables, and in words."""
    output = console()
    for part in (_title(result), "", _best(result), "", _all(result), "", *_sentences(result)):
        output.print(part)


def _title(result: dict[str, Any]) -> str:
    return (
        f"{result['shape']}: N = {result['rows']:,}, D = {result['dim']:,}, "
        f"K = {result['classes']:,}, B = {result['batch_size']}, {result['epochs']} epochs. "
        f"{result['device']}, {result['precision']}, torch {result['torch']}. Milliseconds for "
        f"one of C configurations trained together on T threads, medians of {result['repeats']}."
    )


def _best(result: dict[str, Any]) -> Table:
    """The engine beside its best opponent."""
    table = _table(
        "T", "C", "featbank", "opponent", "ms", "ratio", "% of\nfloor", "products\nalone"
    )
    best = {_place(row): row for row in result["comparisons"]}
    for row in result["measurements"]:
        if floor := row["floor"]:
            threads, configurations = place = _place(row)
            table.add_row(
                f"{threads}",
                f"{configurations:,}",
                _ms(row["seconds"]),
                *(_against(best[place]) if place in best else ("", "", "")),
                _number(100 * floor["share"]["median"]),
                _ms(floor["own_products_seconds"]),
            )
    return table


def _against(best: dict[str, Any]) -> tuple[str, str, str]:
    """The name and time of an opponent, and its ratio to the engine's."""
    low, middle, high = (f"{best['ratio'][key]:.2f}" for key in ("min", "median", "max"))
    return best["best"], _ms(best["best_seconds"]), f"{middle} ({low} … {high})"


def _all(result: dict[str, Any]) -> Table:
    """Every training."""
    rows = result["measurements"]
    numbers = sorted({row["configurations"] for row in rows})
    table = _table("", "T", *(f"C = {c:,}" for c in numbers))
    for name in dict.fromkeys(row["name"] for row in rows):
        times = {_place(row): _ms(row["seconds"]) for row in rows if row["name"] == name}
        for threads in result["threads"]:
            cells = (times.get((threads, c), "") for c in numbers)
            table.add_row(NAMES.get(name, name), f"{threads}", *cells)
    return table


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        left = title in ("", "opponent")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    return table


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return row["threads"], row["configurations"]


def _ms(spread: dict[str, float]) -> str:
    return _number(1e3 * spread["median"])


def _sentences(result: dict[str, Any]) -> list[str]:
    """Sentences on the machine and on what was timed."""
    threads = result["threads"][-1]
    fused = [row for row in result["measurements"] if row["name"].startswith("fused")]
    floor = [row["floor"] for row in fused if row["floor"] and row["threads"] == threads][-1]
    memory = result["feature_bytes"] + max(row["memory_bytes"] for row in fused)
    start = sum(row["start_seconds"] for row in fused)
    return [
        "The opponent is the fastest with at most T threads and C together; the ratio (min … max) "
        "is its time over featbank's. Opponents were compared with the engine first: the same "
        "parameters from the same batches. Solvers (scikit_learn, lbfgs, cuml) run to their end "
        "and are not ranked. Where a cell is empty, so many do not fit, or not together.",
        f"The engine's steps: {result['trained_by']}.",
        *(
            f"This machine does {_range(ceiling['per_second'], 1e-9)} "
            f"{'GB/s' if ceiling['name'] == 'copy' else 'GFLOP/s'} in {ceiling['description']}, "
            f"on {ceiling['threads']} thread{'s' * (ceiling['threads'] > 1)}."
            for ceiling in result["ceilings"]
            if ceiling["threads"] == threads
        ),
        f"The floor is {_range(floor['seconds'], 1e3)} ms a configuration: its products take "
        f"{_range(floor['product_seconds'], 1e3)} ms at the first rate, what it must move takes "
        f"{_range(floor['memory_seconds'], 1e3)} ms at the last. Its products alone take "
        f"{_range(floor['own_products_seconds'], 1e3)} ms at the second rate.",
        f"{result['timed_steps']:,} of {result['steps']:,} steps were timed, a quarter of these "
        f"for opponents with {result['many']} or more together, and scaled to all.",
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
