"""The table of ``featbank benchmark --model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from featbank.cli.benchmark import _table
from featbank.cli.terminal import console


def show_model(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print results of `stage2.benchmark.model.model` of one GPU, a table for each shape."""
    output = console()
    first = rows[0]
    output.print(
        f"A model, not a measurement: what {first['gpu_label']} would take for linear heads under "
        f"cross-entropy, SGD, {first['epochs']} epochs."
    )
    for _, group in groupby(rows, key=lambda row: row["shape"]):
        of_shape = list(group)
        output.print()
        output.print(_title(of_shape[0]))
        output.print()
        output.print(_rows(of_shape))
    output.print()
    for sentence in _sentences(rows):
        output.print(sentence)


def _title(row: Mapping[str, Any]) -> str:
    val = f", {row['val_rows']:,} on val after each epoch" if row["val_rows"] else ""
    return (
        f"{row['shape']}: N = {row['rows']:,}, D = {row['dim']:,}, K = {row['classes']:,}, "
        f"B = {row['batch_size']}, {row['steps']:,} steps; {row['test_rows']:,} rows on test{val}."
    )


def _rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    parts = list(rows[0]["step_device_seconds"])
    unit, scale = ("µs", 1e6) if rows[0]["step_seconds"] < 1e-3 else ("ms", 1e3)
    table = _table("C", "", f"{unit} a\nstep", *parts, "GiB", "train\ns", "eval.\ns", "all\ns")
    for row in rows:
        table.add_row(
            f"{row['configurations']:,}",
            row["precision"],
            *(
                _number(scale * seconds)
                for seconds in (row["step_seconds"], *row["step_device_seconds"].values())
            ),
            _number(row["peak_bytes"] / 2**30),
            _number(row["training_seconds"]),
            _number(row["evaluation_seconds"]),
            _number(row["seconds"]),
        )
    return table


def _sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The meaning of the columns, and the assumptions."""
    rates = rows[0]["rates"]
    products = ", ".join(f"{rates[name] / 1e12:.0f} in {name}" for name in ("bf16", "tf32", "fp32"))
    return [
        "The engine ran on tensors without numbers, and its kernels were counted. A kernel takes "
        f"the larger of its bytes at {rates['bytes'] / 1e12:.1f} TB/s and its product at "
        f"{products} TFLOP/s, which are shares of the data sheet, and at least "
        f"{1e6 * rates['shortest']:.0f} µs; a step takes the sum, or the time in which "
        f"the host calls them at {1e6 * rates['call']:.0f} µs each, whichever is longer; small "
        "steps are replayed from a graph, whose pieces are called at once.",
        "Train has all epochs and val after each, eval. the evaluation at the end. GiB is the most "
        "memory in training. Statistics, reading and storing on the host are not in it.",
    ]


def _number(value: float) -> str:
    """Three digits, and no more than three decimals."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"
