"""The GPU table of docs/performance.md: what a day measured, beside the model of the same GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from measuring_day import PRECISIONS
from steps import HEADS_OF

from stage2.benchmark import find_workload
from stage2.benchmark.gpus import GPUS
from stage2.benchmark.model import SHAPES, model
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe

BEGIN, END = "<!-- gpu: begin, written by scripts/gpu_day --write -->", "<!-- gpu: end -->"

Record = dict[str, Any]


def write(page: Path, folder: Path, *, small: bool = False) -> None:
    """Write the tables between the two marks of the page, or the beginnings of them."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"gpu_day: {page} has no place for the table, between {BEGIN} and {END}.")
    before, _, rest = text.partition(BEGIN)
    block = "\n".join(lines(records(folder), 1 if small else None))
    page.write_text(f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def records(folder: Path) -> dict[int, Record]:
    """What the phases measured on a GPU, by number; tries on a CPU are no measurements."""
    found = {}
    for path in sorted(folder.glob("phase-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["device"] != "cpu" and not record["small"]:
            found[record["phase"]] = record
    return found


def lines(measured: dict[int, Record], most: int | None = None) -> Iterator[str]:
    """The lines between the marks, of `most` shapes and heads."""
    any_record = next(iter(measured.values()), None)
    device = any_record["device"] if any_record else "H200"
    gpu = next((name for name in GPUS if name.upper() in device.upper()), "h200")
    if any_record is None:
        yield f"**A model of an {gpu.upper()}, not a measurement.**"
    else:
        yield (
            f"Measured on one {device} (torch {any_record['torch']}, Triton "
            f"{any_record['triton']}), beside the model of an {gpu.upper()}, in italics."
        )
    yield ""
    yield from sweeps_table(gpu, measured, list(SHAPES)[:most])
    yield ""
    trained = [name for name, h in HEADS.items() if h.trained and not h.takes_tokens]
    yield from heads_table(gpu, measured, trained[:most])
    for part in (_accuracy, _ceilings):
        if found := list(part(measured)):
            yield from ("", *found)


def sweeps_table(gpu: str, measured: dict[int, Record], shapes: Sequence[str]) -> Iterator[str]:
    """Sweeps of linear heads by shape, number and precision."""
    yield (
        "| | together | | ms a step | GB moved | launches | training, s | evaluation, s | all, s |"
    )
    yield _rule(9)
    for shape in shapes:
        for number in SHAPES[shape]:
            for name in PRECISIONS:
                row = model(find_workload(shape), gpu=gpu, configurations=number, precision=name)
                step = _result(measured, 4, f"{shape}, {number}, linear, sgd, {name}", "ms")
                whole = _result(measured, 5, f"group {shape}, {number}, {name}", "seconds")
                yield _line(
                    shape,
                    f"{number:,}",
                    name,
                    _beside(step, 1e3 * row["step_seconds"], measured),
                    _number(row["bytes_step"] / 1e9),
                    f"{row['launches_step']:.0f}",
                    _beside(None, row["training_seconds"], measured),
                    _beside(None, row["evaluation_seconds"], measured),
                    _beside(whole, row["seconds"], measured),
                )


def heads_table(gpu: str, measured: dict[int, Record], heads: Sequence[str]) -> Iterator[str]:
    """Seconds of other heads and optimisers, 300 configurations of ImageNet-LT."""
    number = SHAPES[HEADS_OF][0]
    workload = find_workload(HEADS_OF)
    yield f"{number} configurations of {HEADS_OF}, milliseconds of a step and seconds in all:"
    yield ""
    yield "| head | optimiser | tf32, ms a step | all, s | bf16, ms a step | all, s |"
    yield _rule(6)
    for head in heads:
        for optimiser in ("sgd", "adamw"):
            cells = []
            for name in PRECISIONS[1:]:
                recipe = partial(Recipe, "ce", head=head, optimiser=optimiser)
                row = model(workload, gpu=gpu, configurations=number, precision=name, recipe=recipe)
                title = f"{HEADS_OF}, {number}, {head}, {optimiser}, {name}"
                step = _result(measured, 4, title, "ms")
                cells += [
                    _beside(step, 1e3 * row["step_seconds"], measured),
                    _beside(None, row["seconds"], measured),
                ]
            yield _line(head, optimiser, *cells)


def _accuracy(measured: dict[int, Record]) -> Iterator[str]:
    """Differences of accuracy by precision."""
    found = _result(measured, 5, "accuracy")
    if not found:
        return
    yield "| preset | metric | fp32 | deviation over seeds | tf32 | bf16 |"
    yield _rule(6)
    for preset, metrics in found.items():
        for metric, values in metrics.items():
            yield _line(
                preset,
                metric,
                f"{values['fp32']:.3f}",
                f"{values['deviation']:.3f}",
                *(f"{values[name]:+.3f}" for name in PRECISIONS[1:]),
            )


def _ceilings(measured: dict[int, Record]) -> Iterator[str]:
    """The device's limits in a sentence."""
    if 2 not in measured:
        return
    copy = _result(measured, 2, "copy", "TB/s")
    rates = [(_result(measured, 2, f"square product, {n}", "TFLOP/s"), n) for n in PRECISIONS]
    products = ", ".join(f"{rate:.0f} in {name}" for rate, name in rates if rate)
    if copy:
        yield f"Copies ran at {copy:.2f} TB/s, large products at {products}, in TFLOP/s."


def _result(measured: dict[int, Record], phase: int, name: str, key: str | None = None) -> Any:
    """A measurement, or None where there is none."""
    result = measured.get(phase, {}).get("results", {}).get(name, {}).get("result")
    return result if key is None or result is None else result.get(key)


def _beside(measurement: float | None, modelled: float, measured: dict[int, Record]) -> str:
    """A measured number and the modelled one in italics; without measurements the latter alone."""
    if not measured:
        return _number(modelled)
    first = f"{_number(measurement)} " if measurement else ""
    return f"{first}*{_number(modelled)}*"


def _number(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _line(*["---"] * columns)
