"""The benchmark: its arithmetic, its clock, its loops, and the command from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import errors
from stage2.benchmark import WORKLOADS, Workload, contenders, find_workload, loops, timing
from stage2.benchmark.ceilings import MOST_ROUNDS, ceilings
from stage2.benchmark.timing import Task, interleaved
from stage2.benchmark.workloads import TimedPart
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.plan import FusedGroup
from tests.conftest import Run

CPU = torch.device("cpu")
TINY = ("--shape", "400,8,5,32", "--configurations", "1,3", "--steps", "4", "--threads", "1")
TOLD_ONCE = {
    *("shape", "rows", "dim", "classes", "batch_size", "epochs", "steps", "timed_steps"),
    *("repeats", "device", "threads", "precision", "torch", "budget_bytes", "cache_bytes"),
    *("feature_bytes", "ceilings", "measurements"),
}


@pytest.mark.parametrize(
    ("name", "rows", "classes", "largest", "smallest"),
    [
        ("cifar100-lt", 10_847, 100, 500, 5),
        ("imagenet-lt", 115_846, 1_000, 1280, 5),
        ("places-lt", 62_500, 365, 4980, 5),
        ("inaturalist2018", 437_513, 8_142, 1000, 2),
    ],
)
def test_shapes_are_those_of_the_data_sets(
    name: str, rows: int, classes: int, largest: int, smallest: int
) -> None:
    """Reference: the published N, K, n_max and n_min."""
    workload = WORKLOADS[name]
    got = workload.rows, workload.classes, workload.counts.max(), workload.counts.min()
    assert got == (rows, classes, largest, smallest)
    assert (np.diff(workload.counts) <= 0).all()


def test_cifar_counts_are_the_exponential_profile() -> None:
    """Reference: ⌊500·0.01^(k/99)⌋ and the FLOPs of 10 epochs of 84 steps of 128 rows."""
    workload = WORKLOADS["cifar100-lt"]
    assert workload.counts.tolist() == [int(500 * 0.01 ** (k / 99)) for k in range(100)]
    assert workload.steps == 840
    assert workload.flops == 4 * 840 * 128 * 64 * 100


def test_the_floor_counts_what_a_cache_cannot_hold() -> None:
    """Reference: the traffic of 100 steps, B = 10, N = 100, D = 4, K = 5, counted by hand."""
    workload = Workload("", np.full(5, 20), 4, 10, 0, 1, 1)
    features, weights = 4 * 100 * 4, 4 * 4 * 5
    assert workload.moved(2, cache=10**9) == features / 2 + weights
    # the state of two configurations is 320 bytes, the features are 1,600
    assert workload.moved(2, cache=319) == 10 * features / 2 + 100 * 4 * weights
    assert workload.moved(2, cache=1000) == 10 * features / 2 + weights
    # no more than 16 side by side: 64 configurations have the state of 16, 2,560 bytes
    assert workload.moved(64, cache=2560) == features / 64 + weights


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [
        (None, None, TimedPart(2, 84)),
        (3, None, TimedPart(3, 84)),
        (None, 5, TimedPart(1, 5)),
        (None, 84, TimedPart(1, 84)),
        (None, 10**6, TimedPart(10, 84)),
    ],
)
def test_a_part_of_the_recipe_is_timed(
    epochs: int | None, steps: int | None, expected: TimedPart
) -> None:
    """Reference: whole epochs where there is one, else the steps asked for."""
    assert WORKLOADS["cifar100-lt"].part("cpu", epochs, steps) == expected


def test_a_gpu_shape_says_so_on_a_cpu() -> None:
    """Reference: the error's words; on a GPU the shape has a part."""
    with pytest.raises(errors.ConfigError, match="is measured on a GPU"):
        WORKLOADS["inaturalist2018"].part("cpu")
    assert WORKLOADS["inaturalist2018"].part("cuda").all_steps == 85


def test_tasks_run_in_turn_on_one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: a clock that only the tasks advance, 3 s at the start and 2 s or 10 s a step."""
    now, seen, told = [0.0], [], []

    def run(name: str, pace: float, part: TimedPart) -> None:
        now[0] += pace * part.all_steps + (0 if name in dict(seen) else 3)
        seen.append((name, part.all_steps))

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    tasks = [
        Task("a", "", lambda part: run("a", 2, part), 4, TimedPart(2, 5), 8.0),
        Task("b", "", lambda part: run("b", 10, part), 1),
    ]
    a, b = interleaved(tasks, 2, CPU, lambda *counts: told.append(counts))
    assert seen == [("a", 1), ("b", 1), ("a", 10), ("b", 1), ("a", 10), ("b", 1)]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert a.seconds == [8.0 * 20 / 4] * 2, "20 s, 8 times as many steps, 4 configurations"
    assert b.seconds == [10.0] * 2
    assert (a.start, b.start) == (3.0, 3.0)


MEMORY_OF_TASKS = """
import torch
from stage2.benchmark.timing import TimedPart, Task, interleaved

def found(*tasks):
    return [timing.memory >> 20 for timing in interleaved(tasks, 2, torch.device("cpu"))]

def fill(mib):
    return lambda _: torch.ones(mib << 18).sum()

others = [torch.ones(128 << 18)]
freeing = lambda part: others.clear() if part.all_steps > 1 else None
print(*found(Task("", "", fill(256), 1), Task("", "", fill(64), 1)))
print(*found(Task("", "", freeing, 1, TimedPart(1, 2)), Task("", "", fill(64), 1)))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_memory_is_each_tasks_own() -> None:
    """Reference: by hand: 64 MiB after 256, and 64 after 128 of others' were freed meanwhile; in a
    process of its own, where nothing else takes memory or gives it back."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_TASKS], capture_output=True, text=True, check=True
    )
    for line, expected in zip(done.stdout.splitlines(), ([256, 64], [0, 64]), strict=True):
        for got, mib in zip(map(int, line.split()), expected, strict=True):
            assert mib - 6 < got < mib + 40, f"got {line} MiB, expected about {expected}"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_ceilings_leave_pytorch_as_it_was(precision: str) -> None:
    """Reference: the threads and the precision of products before."""
    workload = find_workload("60,4,3,20")
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    product, own, copy = ceilings(workload, CPU, threads=2, precision=precision)
    for task in (own, copy):
        task.run(TimedPart(1, 1))
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == before
    assert product.amount == 2 * 2048**3
    each = 2 * (2 * 20 * 4 * 16 * 3)  # logits and gradient of 16 heads
    assert own.amount == 2 * MOST_ROUNDS * each, "on 2 threads"


@pytest.mark.parametrize("test_rows", [0, 7])
def test_the_engine_trains_the_part(monkeypatch: pytest.MonkeyPatch, test_rows: int) -> None:
    """Reference: what the engine is given, and that it came to an end: 3 rates, 2 epochs of 3."""
    given = []

    def spy(group: FusedGroup, data: ViewData, *, workers: int) -> None:
        given.append((group, data, run_group(group, data, workers=workers)))

    monkeypatch.setattr(contenders, "run_group", spy)
    workload = find_workload("90,4,3,10")
    bench = contenders.Bench(workload, torch.randn(90, 4), torch.arange(90) % 3, 1, 1 << 30, "fp32")
    task = contenders.fused(bench, 3, TimedPart(2, 3, test_rows))
    task.run(task.part)
    assert task.scale == 90 / 6, "10 epochs of 9 steps, 6 of them timed"
    rates = [recipe.settings["lr"] for group, _, _ in given for recipe in group.recipes]
    assert sorted(rates) == pytest.approx([0.01, 0.1**1.5, 0.1])
    for group, data, outcomes in given:
        assert (group.stream.epochs, group.stream.steps) == (2, 3)
        assert {name: len(rows.labels) for name, rows in data.evaluated.items()} == (
            {"test": test_rows} if test_rows else {}
        )
        for outcome in outcomes:
            assert outcome.status == "done"
            assert len(outcome.curves["loss"]) == 2
            assert bool(outcome.evaluations) == bool(test_rows)


def test_the_loops_learn() -> None:
    """Reference: labels of well separated classes; a loop that does not train is at a fifth."""
    torch.manual_seed(0)
    workload = find_workload("500,8,5,50")
    y = torch.arange(500) % 5
    x = torch.randn(500, 8) + 6 * torch.eye(5, 8)[y]
    part = TimedPart(5, 10)
    models: dict[str, Any] = {
        "plain": loops.plain_loop(x, y, workload, part),
        "loader": loops.loader_loop(x, y, workload, CPU, part),
        **loops.module_dict(x, y, workload, 2, part),
    }
    for name, model in models.items():
        right = (model(x).argmax(1) == y).float().mean()
        assert right > 0.95, f"{name}: got {right:.3f} right, expected more than 0.95"
    fitted: Any = loops.logistic_regression(x, y, 1)
    assert (fitted.predict(x) == y.numpy()).mean() > 0.95


def test_the_usual_loops_take_the_parts_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the steps of the part, counted at the optimiser: 2 epochs of 3."""
    taken = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *a, **k: (taken.append(1), step(*a, **k)))
    workload = find_workload("90,4,3,10")
    x, y = torch.randn(90, 4), torch.arange(90) % 3
    for run in (
        lambda part: loops.plain_loop(x, y, workload, part),
        lambda part: loops.loader_loop(x, y, workload, CPU, part),
        lambda part: loops.module_dict(x, y, workload, 2, part),
    ):
        taken.clear()
        run(TimedPart(2, 3))
        assert len(taken) == 6, f"got {len(taken)} steps, expected 6"


def test_the_command_tells_numbers_that_agree(featbank: Run) -> None:
    """Reference: rates, ratios and the floor, recomputed from the times of the one repeat."""
    [result] = json.loads(featbank("benchmark", *TINY, "--repeats", 1, "--format", "json").stdout)
    assert set(result) == TOLD_ONCE
    assert (result["steps"], result["timed_steps"]) == (120, 4)
    rates = {name: c["per_second"]["median"] for name, c in result["ceilings"].items()}
    assert set(rates) == {"product", "own_products", "copy"}
    rows = result["measurements"]
    assert [(row["name"], row["configurations"]) for row in rows] == [
        *(("fused", 1), ("fused_evaluated", 1), ("fused", 3), ("fused_evaluated", 3)),
        *(("plain_loop", 1), ("data_loader", 1), ("module_dict", 16), ("module_dict", 64)),
        ("scikit_learn", 1),
    ]
    largest = rows[2]["seconds"]["median"]
    for row in rows:
        seconds = row["seconds"]["median"]
        assert seconds > 0
        assert row["configurations_per_second"]["median"] == pytest.approx(1 / seconds)
        assert (row["floor"] is None) == (row["name"] != "fused")
        if row["name"].startswith("fused"):
            assert row["times_fused"] is None
        else:
            assert row["times_fused"]["median"] == pytest.approx(seconds / largest)
    assert [row["test_rows"] for row in rows[:4]] == [0, 13, 0, 13], "400 rows, 4 of 120 steps"
    floor = rows[2]["floor"]
    assert floor["flops"] == 4 * 120 * 32 * 8 * 5
    products, traffic = floor["flops"] / rates["product"], floor["bytes"] / rates["copy"]
    assert floor["product_seconds"]["median"] == pytest.approx(products)
    assert floor["memory_seconds"]["median"] == pytest.approx(traffic)
    assert floor["seconds"]["median"] == pytest.approx(max(products, traffic))
    assert min(products, traffic) > 0
    assert floor["share"]["median"] == pytest.approx(max(products, traffic) / largest)
    own = floor["flops"] / rates["own_products"]
    assert floor["share_of_products"]["median"] == pytest.approx(own / largest)


def test_the_table_speaks(featbank: Run) -> None:
    """Reference: a line for each contender, and the sentences under it; two shapes, two tables."""
    told = featbank("benchmark", *TINY, "--shape", "300,4,3,30", "--repeats", 2).stdout
    assert told.count("times that of") == 2
    for line in (
        "400,8,5,32: N = 400, D = 8, K = 5, B = 32, 10 epochs. cpu, threads: 1, fp32",
        "featbank, 3 together, and 400 test rows evaluated",
        "a ModuleDict of 64 heads over one batch, 1 thread",
        "scikit-learn's LogisticRegression",
        "GFLOP/s in the two products of a step, [32, 8] × [8, 16·5] and the transpose's.",
        "3 together reach",
        "4 of 120 steps were timed",
    ):
        assert line in told, f"{line!r} is not in:\n{told}"


def test_counts_take_the_place_of_the_shapes_own(featbank: Run, tmp_path: Path) -> None:
    """Reference: their sum, as N."""
    (tmp_path / "counts.json").write_text("[50, 30, 9, 4, 2]")
    options = (*TINY, "--counts", "counts.json", "--repeats", 1, "--format", "json")
    [result] = json.loads(featbank("benchmark", *options).stdout)
    assert (result["rows"], result["steps"], result["timed_steps"]) == (95, 20, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shape", "cifar"), "Unknown shape 'cifar'. Write N,D,K or N,D,K,B, or choose from"),
        (("--shape", "10,5"), "Unknown shape '10,5'."),
        (("--shape", "10,5,11"), "Shape 10,5,11 leaves nothing to train."),
        (("--shape", "100000000,2048,10"), "take 762.9 GiB"),
        (("--configurations", "1,x"), "--configurations 1,x is not a list of numbers"),
        (("--configurations", "0"), "--configurations 0 is not a list of numbers"),
        (("--epochs", "1", "--steps", "4"), "Both epochs and steps are given."),
        (("--shape", "inaturalist2018", "--device", "cpu"), "is measured on a GPU"),
        (("--device", "abacus"), "Device 'abacus' cannot be used"),
        (("--counts", "none.json"), "none.json is not a list of class counts"),
        (("--counts", "text.json"), "text.json is not a list of class counts"),
        (("--counts", "short.json"), "short.json has 2 numbers, shape cifar100-lt has 100"),
        (
            ("--shape", "places-lt", "--shape", "9,2,2", "--counts", "short.json"),
            "--counts short.json is for one shape.",
        ),
    ],
)
def test_wrong_input_is_one_line(
    featbank: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    """Reference: the message, exit code 2, nothing printed."""
    (tmp_path / "text.json").write_text("counts")
    (tmp_path / "short.json").write_text("[3, 1]")
    done = featbank("benchmark", *options, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, f"got {done.stderr!r}, expected one line"
    assert not done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_tells_its_memory(featbank: Run) -> None:
    """Reference: logits of three configurations at least, and a floor above nothing."""
    options = (*TINY, "--device", "cuda", "--repeats", 1, "--format", "json")
    [result] = json.loads(featbank("benchmark", *options).stdout)
    fused = result["measurements"][2]
    assert fused["memory_bytes"] > 4 * 32 * 3 * 5
    assert fused["floor"]["seconds"]["median"] > 0
