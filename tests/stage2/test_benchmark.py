"""The benchmark: its arithmetic, its clock, its loops, and the command from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import errors
from featbank.devices import torch_threads
from stage2.benchmark import (
    WORKLOADS,
    Workload,
    comparison,
    contenders,
    find_workload,
    opponents,
    timing,
)
from stage2.benchmark.ceilings import MOST_ROUNDS, ceilings
from stage2.benchmark.contenders import Bench
from stage2.benchmark.opponents import OPPONENTS, Opponent
from stage2.benchmark.timing import Task, Timing, interleaved
from stage2.benchmark.training import Heads, Training
from stage2.benchmark.workloads import TimedPart
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from tests.conftest import ROOT, Run

CPU = torch.device("cpu")
TINY = ("--shape", "400,8,5,32", "--configurations", "1,3", "--steps", "4", "--threads", "1")
TOLD_ONCE = {
    *("shape", "rows", "dim", "classes", "batch_size", "epochs", "steps", "timed_steps"),
    *("repeats", "device", "threads", "precision", "torch", "budget_bytes", "cache_bytes"),
    *("feature_bytes", "ceilings", "measurements", "comparisons", "many", "trained_by"),
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
        (None, None, TimedPart(10, 84)),
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


def bench_of(sizes: str, rows: int, classes: int, dim: int) -> Bench:
    """A bench of random features of a shape."""
    torch.manual_seed(0)
    y = torch.arange(rows) % classes
    return Bench(find_workload(sizes), torch.randn(rows, dim), y, 1 << 30, "fp32")


@pytest.mark.parametrize("test_rows", [0, 7])
def test_the_engine_trains_the_part(monkeypatch: pytest.MonkeyPatch, test_rows: int) -> None:
    """Reference: what the engine is given, and that it came to an end: 3 rates, 2 epochs of 3."""
    given = []

    def spy(group: FusedGroup, data: ViewData, *, workers: int) -> list[Outcome]:
        outcomes = run_group(group, data, workers=workers)
        given.append((group, data, outcomes))
        return outcomes

    monkeypatch.setattr(contenders, "run_group", spy)
    task = contenders.fused(bench_of("90,4,3,10", 90, 3, 4), 3, TimedPart(2, 3, test_rows), 1)
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


@pytest.mark.parametrize("name", [name for name in OPPONENTS if name != "cuml"])
def test_opponents_train_what_the_engine_trains(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Reference: the engine's parameters after three epochs; a solver's objective is below its."""
    opponent = OPPONENTS[name]
    monkeypatch.setitem(OPPONENTS, name, replace(opponent, runs=lambda *_: True))
    monkeypatch.setattr(contenders, "CHECKED", TimedPart(3, 4))
    with torch_threads(2):
        named = contenders.checked(bench_of("90,4,3,10", 90, 3, 4), opponent.most or 19)
    assert name in named


@pytest.mark.parametrize("defect", ["order", "rates", "momentum", "start", "nothing"])
def test_an_opponent_that_trains_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    """Reference: the error; each defect is one of those that make a straw man."""

    def train(training: Training) -> Heads:
        changed = {
            "order": {"y": training.y.flip(0)},
            "rates": {"rates": training.rates.flip(1)},
            "start": {"weight": torch.zeros_like(training.weight)},
        }.get(defect, {})
        if defect == "nothing":
            return training.weight, training.bias
        return OPPONENTS["one_linear"].train(replace(training, **changed))

    if defect == "momentum":
        monkeypatch.setattr(opponents, "MOMENTUM", 0.8)
    monkeypatch.setattr(contenders, "OPPONENTS", {"straw": Opponent(train, "")})
    with pytest.raises(AssertionError, match="straw is .* off, parameters change by"):
        contenders.checked(bench_of("90,4,3,10", 90, 3, 4), 3)


def test_a_solver_that_stops_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the error, for parameters that are those at the start."""
    solver = Opponent(lambda t: (t.weight, t.bias), "", most=1, solver=True)
    monkeypatch.setattr(contenders, "OPPONENTS", {"straw": solver})
    with pytest.raises(AssertionError, match="straw ends at .*, featbank at"):
        contenders.checked(bench_of("90,4,3,10", 90, 3, 4), 1)


def test_opponents_that_exceed_the_memory_are_left_out() -> None:
    """Reference: 3 of 4·3·(6·4 + 4·10)·4 bytes, by hand."""
    bench = bench_of("90,4,3,10", 90, 3, 4)
    for memory, some in ((4 * 3 * 3 * 64, True), (4 * 3 * 3 * 64 - 1, False)):
        assert bool(contenders.checked(replace(bench, memory=memory), 3)) == some


def test_many_configurations_take_a_quarter_of_the_steps() -> None:
    """Reference: the steps of the part, by hand; none of a solver are scaled."""
    bench = bench_of("90,4,3,10", 90, 3, 4)
    few, many = (contenders.opposed(bench, "hand_fused", c, TimedPart(2, 9), 1) for c in (3, 16))
    assert (few.part, few.scale) == (TimedPart(2, 9), 90 / 18)
    assert (many.part, many.scale) == (TimedPart(1, 4), 90 / 4)
    assert contenders.opposed(bench, "scikit_learn", 1, TimedPart(2, 9), 1).scale == 1


def test_the_best_opponent_may_use_less() -> None:
    """Reference: the fastest of those with at most as many threads and configurations."""

    def timing(name: str, amount: int, threads: int, *seconds: float) -> Timing:
        task = Task(name, "", lambda _: None, amount, TimedPart(1, 1), 1.0, threads)
        return Timing(task, list(seconds), 0.0, 0)

    trainings = [
        *(timing("fused", c, t, 2.0, 4.0) for t in (1, 2) for c in (1, 16)),
        *(timing("hand_fused", 1, 1, 6.0, 6.0), timing("baddbmm", 16, 1, 4.0, 2.0)),
        *(timing("hand_fused", 16, 2, 9.0, 9.0), timing("scikit_learn", 1, 1, 0.1, 0.1)),
    ]
    rows = comparison._comparisons(trainings)
    got = [(row["threads"], row["configurations"], row["best"]) for row in rows]
    assert got == [
        *((1, 1, "hand_fused"), (1, 16, "baddbmm"), (2, 1, "hand_fused"), (2, 16, "baddbmm")),
    ]
    assert rows[3]["best_threads"] == 1
    assert rows[3]["ratio"] == {"median": 1.25, "min": 0.5, "max": 2.0}


def test_the_command_tells_numbers_that_agree(featbank: Run) -> None:
    """Reference: rates, ratios and the floor, recomputed from the times of the one repeat."""
    [result] = json.loads(featbank("benchmark", *TINY, "--repeats", 1, "--format", "json").stdout)
    assert set(result) == TOLD_ONCE
    assert (result["steps"], result["timed_steps"], result["threads"]) == (120, 4, [1])
    rates = {row["name"]: row["per_second"]["median"] for row in result["ceilings"]}
    assert set(rates) == {"product", "own_products", "copy"}
    rows = result["measurements"]
    fused = ("hand_fused", "hand_tiles", "one_linear", "baddbmm", "vmap_grad", "module_dict")
    assert [(row["name"], row["configurations"]) for row in rows] == [
        *(("fused", 1), ("fused_evaluated", 1), *((name, 1) for name in fused)),
        *(("plain_loop", 1), ("data_loader", 1), ("scikit_learn", 1)),
        *(("fused", 3), ("fused_evaluated", 3), *((name, 3) for name in fused)),
    ]
    engine = {r["configurations"]: r["seconds"]["median"] for r in rows if r["name"] == "fused"}
    for row in rows:
        seconds = row["seconds"]["median"]
        assert seconds > 0
        assert row["configurations_per_second"]["median"] == pytest.approx(1 / seconds)
        assert (row["floor"] is None) == (row["name"] != "fused")
        if row["name"].startswith("fused"):
            assert row["times_fused"] is None
            assert row["test_rows"] == (13 if "evaluated" in row["name"] else 0), "of 400"
        else:
            ratio = seconds / engine[row["configurations"]]
            assert row["times_fused"]["median"] == pytest.approx(ratio)
    best = result["comparisons"][1]
    assert (best["threads"], best["configurations"]) == (1, 3)
    assert best["ratio"]["median"] == pytest.approx(best["best_seconds"]["median"] / engine[3])
    floor = next(row["floor"] for row in rows[::-1] if row["floor"])
    assert floor["flops"] == 4 * 120 * 32 * 8 * 5
    products, traffic = floor["flops"] / rates["product"], floor["bytes"] / rates["copy"]
    assert floor["product_seconds"]["median"] == pytest.approx(products)
    assert floor["memory_seconds"]["median"] == pytest.approx(traffic)
    assert floor["seconds"]["median"] == pytest.approx(max(products, traffic))
    assert min(products, traffic) > 0
    assert floor["share"]["median"] == pytest.approx(max(products, traffic) / engine[3])
    own = floor["flops"] / rates["own_products"]
    assert floor["own_products_seconds"]["median"] == pytest.approx(own)
    assert floor["share_of_products"]["median"] == pytest.approx(own / engine[3])


def test_the_table_speaks(featbank: Run) -> None:
    """Reference: a line for each contender, and the sentences under it; two shapes, two tables."""
    options = (*TINY[:-1], "1,2", "--shape", "300,4,3,30", "--repeats", 2)
    told = featbank("benchmark", *options).stdout
    assert told.count("opponent ") == 4, "two headings, two sentences"
    for line in (
        "400,8,5,32: N = 400, D = 8, K = 5, B = 32, 10 epochs. cpu, fp32",
        "featbank, test too  1",
        "module_dict         2",
        "scikit_learn        1",
        "GFLOP/s in the two products of a step, [32, 8] × [8, 16·5] and the transpose's, on 2",
        "4 of 120 steps were timed",
    ):
        assert line in told, f"{line!r} is not in:\n{told}"
    tables = [line for line in told.splitlines() if line.strip().startswith(("1 ", "2 "))]
    assert len(tables) == 2 * 2 * 2, "threads × configurations × shapes"
    assert max(map(len, tables)) <= 80


def test_help_names_every_opponent(featbank: Run) -> None:
    """Reference: the registry; the page on performance names them as well."""
    told = featbank("benchmark", "--help").stdout
    page = (ROOT / "docs/performance.md").read_text()
    for name in OPPONENTS:
        assert name in told, name
        assert f"`{name}`" in page, name


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
        (("--threads", "0"), "--threads 0 is not a list of numbers of threads, at most 1,024."),
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
