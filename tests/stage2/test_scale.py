"""The simulation of a cluster, by hand; banks that are not there, planned as real ones are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank, write_bank
from stage2.benchmark.cluster import Driver, Task, simulate
from stage2.benchmark.gpus import GPUS
from stage2.benchmark.scale import (
    BANKS,
    QUANTITIES,
    Costs,
    ShapedBank,
    budgets,
    configurations,
    cpu_machine,
    cut,
    gpu_machine,
    planned,
)
from stage2.features.planning import plan_bank
from tests.conftest import ROOT

FREE = Driver(0.0, 0.0)


def test_tasks_go_to_the_worker_that_is_free_first() -> None:
    """Reference: by hand. Two workers, ready after 1 s: 4, 2, 2 and 3 s end at 5, 3, 5 and 8."""
    tasks = [Task(seconds, 1) for seconds in (4, 2, 2, 3)]
    got = simulate(tasks, 2, FREE, ready=1)
    assert (got.seconds, got.longest) == (8, 4)
    assert got.training == pytest.approx(11 / 16)
    assert got.starting == pytest.approx(1 / 8)
    assert got.idle == pytest.approx(1 - 11 / 16 - 1 / 8)
    assert got.storing == got.driver == got.waiting == 0
    assert got.limit == "too few groups"


def test_the_driver_stores_a_group_at_a_time() -> None:
    """Reference: by hand. Four tasks of 1 s and 10 runs, four workers; a run takes 0.5 s."""
    got = simulate([Task(1, 10)] * 4, 4, Driver(0.0, 0.5), ready=0)
    assert got.seconds == 1 + 4 * 10 * 0.5
    assert got.storing == pytest.approx(20 / 21)
    assert got.waiting == 40, "all end before the first is stored"
    assert got.limit == "driver"
    apart = simulate([Task(100, 10), Task(10, 10)], 2, Driver(0.0, 0.5), ready=0)
    assert (apart.seconds, apart.waiting) == (105, 10)


def test_tasks_are_handed_out_one_after_another() -> None:
    """Reference: by hand. 1 s each to hand out three tasks of 2 s to three workers."""
    got = simulate([Task(2, 1)] * 3, 3, Driver(1.0, 0.0), ready=0)
    assert got.seconds == 3 + 2


def test_a_worker_has_its_next_task_already() -> None:
    """Reference: by hand. With two tasks each, the second of two workers has 1 and 2 s, and takes
    the 4 s before the first has ended its 5 s; with one each, it has the 1 s between as well."""
    tasks = [Task(seconds, 1) for seconds in (5, 1, 1, 2, 4)]
    assert simulate(tasks, 2, FREE, ready=0, depth=2).seconds == 1 + 2 + 4
    assert simulate(tasks, 2, FREE, ready=0).seconds == 1 + 1 + 2 + 4
    stuck = [Task(seconds, 1) for seconds in (9, 1, 1, 1)]
    assert simulate(stuck, 2, FREE, ready=0, depth=2).seconds == 9 + 1, "nobody takes it over"
    assert simulate(stuck, 2, FREE, ready=0).seconds == 9


def test_a_second_group_waits_for_the_thread_that_stores() -> None:
    """Reference: by hand. Tasks of 1 s whose 10 runs take 2 s to store, three workers, six tasks:
    the second and third of them are handed their next task when the one before is stored."""
    got = simulate([Task(1, 10)] * 6, 3, Driver(0.0, 0.2), ready=0)
    assert got.seconds == pytest.approx(1 + 6 * 2)
    assert got.storing == pytest.approx(7 / 13), "the last ends 1 s after 5 s"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    st.integers(1, 8),
    st.floats(0, 5),
    st.floats(0, 1),
    st.integers(1, 2),
)
def test_no_schedule_beats_its_bounds(
    lengths: list[float], workers: int, ready: float, store: float, depth: int
) -> None:
    """Reference: bounds of list scheduling; shares of the workers' time sum to 1."""
    tasks = [Task(seconds, 1) for seconds in lengths]
    got = simulate(tasks, workers, Driver(0.0, store), ready=ready, depth=depth)
    least = max(sum(lengths) / workers, *lengths) + ready
    assert got.seconds >= least - 1e-9
    most = ready + sum(lengths) / workers + depth * max(lengths) + store * len(tasks)
    assert got.seconds <= most + 1e-9
    assert got.training + got.starting + got.idle + got.storing == pytest.approx(1)


def test_a_shape_is_planned_as_its_bank(tmp_path: Path) -> None:
    """Reference: `plan_bank` on a real bank of the shape, for one worker and for eight."""
    counts = np.array([300, 120, 40, 9])
    labels = {"train": np.arange(4).repeat(counts), "val": np.arange(20) % 4}
    labels["test"] = labels["val"]
    features = {n: {"instance": np.ones((len(y), 16), np.float32)} for n, y in labels.items()}
    write_bank(tmp_path / "bank.h5", features, labels, dtype="float16")
    rows = {"val": 20, "test": 20}
    shaped = ShapedBank("s", "S", counts, 16, rows, 3, 32, store=0, statistics=0, run_bytes=0)
    recipes, machine = configurations(shaped, 500, "fp32"), cpu_machine(1 << 30)
    with Bank(tmp_path / "bank.h5") as bank:
        for count in (1, 8):
            options = {"memory": machine.memory, "workers": int(QUANTITIES["cores"].value)}
            expected = plan_bank(bank, recipes, count=count, **options)
            got = cut(shaped, planned(shaped, recipes, machine), count)
            assert got == expected


@pytest.mark.parametrize("name", BANKS)
def test_plans_cover_the_sweep(name: str) -> None:
    """Reference: each recipe once, whatever the budget; smaller budgets give more groups."""
    bank = BANKS[name]
    recipes = configurations(bank, 400)
    plans = list(budgets(bank, recipes, gpu_machine(), 100))
    assert len(plans) > 1
    sizes = []
    for machine, groups in plans:
        assert {r for group in groups for r in group.recipes} == set(recipes)
        assert machine.memory <= 0.8 * GPUS["h200"].memory
        sizes.append(len(groups))
    assert sizes == sorted(sizes)


def test_the_sizes_are_those_of_the_data_sets() -> None:
    """Reference: 14 M and 400 M rows, 21,841 classes, D = 2,048 and 768, in float16."""
    first, second = BANKS["imagenet-21k"], BANKS["laion-400m"]
    assert first.train_rows == pytest.approx(14.0e6, rel=0.01)
    assert second.train_rows == pytest.approx(400e6, rel=0.01)
    assert (first.num_classes, first.dim, second.dim) == (21_841, 2048, 768)
    assert second.size == pytest.approx(2 * 768 * 400.5e6, rel=0.01)


def test_a_cpu_takes_the_operations_of_a_group() -> None:
    """Reference: 4·N·D·K a configuration and epoch, and little more, at the rate of all cores."""
    bank = BANKS["imagenet-21k"]
    machine = cpu_machine()
    costs = Costs(bank, machine)
    assert costs.streamed is None, "half of 256 GiB holds the features"
    assert costs.start_bytes == bank.size
    (group,) = planned(bank, configurations(bank, 1, "fp32"), machine)
    rate = QUANTITIES["cpu"].value * QUANTITIES["cores"].value
    expected = 4 * bank.train_rows * bank.dim * bank.num_classes * bank.epochs / rate
    assert costs.task(group).seconds == pytest.approx(expected, rel=0.02)


@pytest.mark.long
def test_the_script(tmp_path: Path) -> None:
    """Reference: a table for each bank and plan; needs Triton, as the model of a GPU does."""
    pytest.importorskip("triton")
    command = [ROOT / "scripts/simulate_scale", "--configurations", "200", "--gpus", "1,64"]
    done = subprocess.run(
        [*command, "--bank", "laion-400m"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("| 64 |") == 3, done.stdout
