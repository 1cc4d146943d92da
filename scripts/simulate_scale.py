"""A sweep of 10⁵ configurations over banks of web size on 1 to 1,000 GPUs, simulated.

Claim (docs/scale.md): planned by the planner itself for the shapes of ImageNet-21k and LAION-400M,
timed by the model of a GPU and by what streaming reads; time, memory, traffic, and what ends the
scaling. It is no measurement, and needs no GPU and no bank.

    scripts/simulate_scale [--configurations 100000] [--bank laion-400m] [--gpus 1,8,64] [--write]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from featbank.files import replacing
from stage2.benchmark.cluster import Driver, Task, Timeline, simulate
from stage2.benchmark.gpus import GPUS
from stage2.benchmark.scale import (
    BANKS,
    QUANTITIES,
    Costs,
    Machine,
    ShapedBank,
    budgets,
    configurations,
    cpu_machine,
    cut,
    gpu_machine,
    planned,
    quantity,
)
from stage2.engine.plan import FusedGroup
from stage2.plots.figure import COLOURS, DASHES, GRID, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- {}: begin, written by scripts/simulate_scale --write -->", "<!-- {}: end -->"

DEFAULT, CHOSEN, CPU = "default budget", "chosen budget", "nodes of CPUs"
GROUPS_EACH = 4
"""Groups of a worker up to which smaller budgets are tried."""


@dataclass(frozen=True)
class Row:
    """A sweep on so many workers."""

    bank: ShapedBank
    kind: str
    machine: Machine
    workers: int
    tasks: list[Task]
    time: Timeline
    longest_first: Timeline
    start_bytes: float
    host_bytes: float  # of a node, for windows

    @property
    def nodes(self) -> int:
        """Nodes that the workers are on."""
        return -(-self.workers // self.machine.per_node)

    @property
    def node_bytes(self) -> float:
        """Bytes of the bank that the workers of a node read, on average."""
        read = sum(task.read for task in self.tasks) + self.workers * self.start_bytes
        return read / self.nodes

    @property
    def longest(self) -> str:
        """The work that the epochs of most groups take longest for."""
        return Counter(task.longest for task in self.tasks).most_common(1)[0][0]


def main() -> None:
    """Simulate, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=100_000)
    parser.add_argument("--bank", choices=BANKS)
    parser.add_argument("--gpu", choices=GPUS, default="h200")
    parser.add_argument("--gpus", default="1,8,64,256,1000", help="numbers of GPUs")
    parser.add_argument("--write", action="store_true", help="write docs/scale.md and its picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = [int(count) for count in options.gpus.split(",")]
    rows = []
    for bank in [BANKS[options.bank]] if options.bank else BANKS.values():
        rows += _simulated(bank, options.configurations, options.gpu, counts)
    text = _table(rows)
    print(text)
    if options.write:
        _written("simulated", text)
        _written("assumptions", _assumptions(options.gpu))
        save(lambda: _figure(rows), PAGE.with_suffix(".svg"))


def _simulated(bank: ShapedBank, number: int, gpu: str, counts: Sequence[int]) -> Iterator[Row]:
    started = time.perf_counter()
    recipes = configurations(bank, number)
    print(f"{bank.label}: {len(recipes):,} recipes, {bank.size / 1e9:,.0f} GB", flush=True)
    plans = list(budgets(bank, recipes, gpu_machine(gpu), GROUPS_EACH * max(counts)))
    machine, groups = plans[0]
    for count in counts:
        yield _row(bank, DEFAULT, machine, groups, count)
    for count in counts:
        each = (_row(bank, CHOSEN, *plan, count) for plan in plans)
        yield min(each, key=lambda row: row.time.seconds)
    machine = cpu_machine()
    groups = planned(bank, configurations(bank, number, "fp32"), machine)
    for count in counts:
        yield _row(bank, CPU, machine, groups, count)
    print(f"planned and simulated in {time.perf_counter() - started:.0f} s", flush=True)


def _row(
    bank: ShapedBank, kind: str, machine: Machine, groups: list[FusedGroup], count: int
) -> Row:
    costs = Costs(bank, machine)
    tasks = [costs.task(group) for group in cut(bank, groups, count)]
    driver = Driver(quantity("dispatch"), bank.store + bank.run_bytes / quantity("network"))
    ready = costs.ready(-(-count // machine.per_node))
    first = sorted(tasks, key=lambda task: -task.seconds)
    return Row(
        bank,
        kind,
        machine,
        count,
        tasks,
        simulate(tasks, count, driver, ready=ready, depth=machine.depth),
        simulate(first, count, driver, ready=ready, depth=machine.depth),
        costs.start_bytes,
        machine.per_node * costs.host_bytes,
    )


def _table(rows: Sequence[Row]) -> str:
    """A table for each bank and kind of plan."""
    tables = []
    for bank in dict.fromkeys(row.bank.name for row in rows):
        for kind in (DEFAULT, CHOSEN, CPU):
            of = [row for row in rows if (row.bank.name, row.kind) == (bank, kind)]
            unit = "nodes" if kind == CPU else "GPUs"
            head = (
                f"{of[0].bank.label}, {kind}:\n\n"
                f"| {unit} | GiB a worker | groups | time | longest first | trains, % | starts, % "
                "| no group, % | driver busy, % | waits for it, GB | an epoch is "
                "| a node reads, TB | and holds, GB |\n" + "| --- " * 13 + "|\n"
            )
            tables.append(head + "\n".join(map(_line, of)))
    return "\n\n".join(tables)


def _line(row: Row) -> str:
    at = row.time
    cells = [
        f"{row.workers:,}",
        f"{row.machine.memory / 2**30:.3g}",
        f"{len(row.tasks):,}",
        _duration(at.seconds),
        _duration(row.longest_first.seconds),
        f"{100 * at.training:.0f}",
        f"{100 * at.starting:.0f}",
        f"{100 * at.idle:.0f}",
        f"{100 * at.driver:.0f}",
        f"{at.waiting * row.bank.run_bytes / 1e9:.1f}",
        row.longest,
        _number(row.node_bytes / 1e12),
        f"{row.host_bytes / 1e9:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:,.1f} d" if hours >= 48 else f"{hours:.1f} h"


def _assumptions(gpu: str) -> str:
    """Everything that the simulation starts from, as a table."""
    lines = ["| | | from |", "| --- | --- | --- |"]
    for row in QUANTITIES.values():
        source = f"`{row.source}`" if "--" in row.source else row.source
        origin = f"{row.origin}: {source}" if source else row.origin
        lines.append(f"| {row.label} | {_with_unit(row.value, row.unit)} | {origin} |")
    model = "model: `featbank benchmark --model`, no GPU has confirmed it"
    lines.append(f"| steps and evaluation on a GPU | {GPUS[gpu].label} | {model} |")
    for bank in BANKS.values():
        for value, unit, label in (
            (bank.store, "s", "storing a run"),
            (bank.statistics, "s", "statistics of a run"),
            (bank.run_bytes, "B", "a stored run"),
        ):
            cells = f"{bank.label}, {label} | {_with_unit(value, unit)}"
            lines.append(f"| {cells} | measured: `scripts/measure_scale.py --only store` |")
    return "\n".join(lines)


def _with_unit(value: float, unit: str) -> str:
    """``182 GFLOP/s``, ``370 ns``."""
    prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n"}
    factor = next(each for each in prefixes if value >= each)
    return f"{value / factor:.3g} {prefixes[factor]}{unit}".strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _written(name: str, text: str) -> None:
    """Put a text between two marks of the page."""
    page, begin, end = PAGE.read_text(), BEGIN.format(name), END.format(name)
    before, rest = page.split(begin)
    _, after = rest.split(end)
    with replacing(PAGE) as part:
        part.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _figure(rows: Sequence[Row]) -> Figure:
    """Time, the share of it that trains, and what a node reads, over the number of GPUs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    banks = list(dict.fromkeys(row.bank.name for row in rows))
    plotted: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("hours", lambda row: row.time.seconds / 3600),
        ("time that workers train, %", lambda row: 100 * row.time.training),
        ("TB of the bank that a node reads", lambda row: row.node_bytes / 1e12),
    )
    for axis, (name, value) in zip(figure.subplots(1, 3), plotted, strict=True):
        for colour, bank in zip(COLOURS, banks, strict=False):
            for dash, kind in zip(DASHES, (DEFAULT, CHOSEN), strict=False):
                of = [row for row in rows if (row.bank.name, row.kind) == (bank, kind)]
                xs, ys = [row.workers for row in of], [value(row) for row in of]
                label = f"{of[0].bank.label}, {kind}"
                axis.plot(xs, ys, color=colour, linestyle=dash, label=label, linewidth=1.2)
                if name == "hours" and kind == DEFAULT:
                    ideal = [ys[0] * xs[0] / x for x in xs]
                    axis.plot(xs, ideal, color="0.7", linewidth=0.6, zorder=0)
        axis.set_xscale("log")
        if name[-1] == "%":
            axis.set_ylim(0, 105)
        else:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(xs, [f"{x:,}" for x in xs])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
        axis.set_xlabel("GPUs")
        axis.set_title(name)
        axis.grid(**GRID)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    main()
