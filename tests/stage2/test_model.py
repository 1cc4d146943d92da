"""The model of a GPU: its rules, its arithmetic, and the command."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from featbank import errors
from stage2.benchmark import find_workload
from stage2.benchmark.absent import CUDA, absent_gpu
from stage2.benchmark.gpus import CALL, GPUS, SHORTEST, find_gpu
from stage2.benchmark.model import model, swept, tile_work
from stage2.benchmark.operations import KERNELS, Operation, launched
from stage2.engine.gpu.scaled_loss import span_of
from stage2.engine.plan import Tile
from stage2.methods.recipe import Recipe
from tests.conftest import Run
from tests.stage2.cuda.running import TRITON

pytestmark = pytest.mark.skipif(not TRITON, reason="no Triton")

N, D, K, B, C = 400, 8, 5, 32, 3
SHAPE = f"{N},{D},{K},{B}"


def _counted(run: Any) -> Operation:
    """The only operation of a call."""
    with absent_gpu() as counting:
        tensors = {
            "a": torch.empty(4, 6, device="cuda"),
            "b": torch.empty(6, 5, device="cuda", dtype=torch.float32),
            "row": torch.empty(6, device="cuda"),
            "i": torch.zeros(3, dtype=torch.int64, device="cuda"),
        }
        operations = counting.of(lambda: run(**tensors))
    ((operation, number),) = operations.items()
    assert number == 1
    return operation


@pytest.mark.parametrize(
    ("run", "moved", "flops"),
    [
        (lambda a, **_: a + 1, 24 + 24, 0),
        (lambda a, **_: a.add_(1), 24 + 24, 0),
        (lambda a, row, **_: a + row, 24 + 6 + 24, 0),
        (lambda a, row, **_: a + row.expand(4, 6), 24 + 6 + 24, 0),
        (lambda a, **_: a.zero_(), 24, 0),
        (lambda a, row, **_: a[0].copy_(row), 6 + 6, 0),
        (lambda a, **_: a.sum(0), 24 + 6, 0),
        (lambda a, i, **_: a.index_select(0, i), 2 * 18, 0),
        (lambda a, b, **_: a @ b, 24 + 30 + 20, 2 * 4 * 6 * 5),
        (lambda a, b, **_: torch.mm(a, b, out=a.new_empty(4, 5)), 24 + 30 + 20, 2 * 4 * 6 * 5),
        (lambda a, b, **_: torch.addmm(a[0, :5], a, b), 5 + 24 + 30 + 20, 2 * 4 * 6 * 5),
        (lambda a, b, **_: torch.bmm(a[None], b[None]), 24 + 30 + 20, 2 * 4 * 6 * 5),
    ],
)
def test_operations_are_counted(run: Any, moved: int, flops: int) -> None:
    """Reference: numbers read and written, four bytes each, and 2·m·n·k, by hand."""
    operation = _counted(run)
    assert (operation.moved, operation.flops) == (4 * moved, flops), operation


def test_views_and_empty_tensors_launch_nothing() -> None:
    """Reference: nothing."""
    with absent_gpu() as counting:
        torch.empty(4, 6, device="cuda").t()[None, 1:].detach().new_empty(3)
    assert not counting.operations


def test_the_host_keeps_its_numbers() -> None:
    """Reference: the numbers of a tensor on the CPU; zeros where they come from the device."""
    with absent_gpu() as counting:
        there = torch.arange(3.0).to("cuda")
        assert there.device == CUDA
        assert torch.arange(3.0).sum() == 3
        assert (there.cpu() == 0).all()
        assert bool(there.any()), "what nobody knows is true"
    assert (counting.to_device, counting.to_host, counting.waits) == (12, 12, 1)


def test_memory_is_that_of_storages() -> None:
    """Reference: two tensors of 4,000 bytes alive together, one and a view of it at the end."""
    with absent_gpu() as counting:
        first = torch.zeros(1000, device="cuda")
        second = first + 1
        del first
        view = second[:10]
        del second
        assert (counting.now, counting.most) == (4000, 8000)
        del view
        assert counting.now == 0


def test_every_kernel_has_a_rule() -> None:
    """Reference: the kernels that the tests of the simulated GPU know."""
    from tests.stage2.cuda import twins

    assert {name.rpartition(".")[2] for name in twins.KERNELS} == set(KERNELS)


def test_a_kernel_without_a_rule_is_an_error() -> None:
    """Reference: the error names it and the table."""
    with pytest.raises(LookupError, match="kernel fast_kernel has no row in KERNELS of stage2"):
        launched("fast_kernel", {})


def test_a_step_is_what_its_parts_move() -> None:
    """Reference: of a linear head with SGD, the bytes and FLOPs by hand: a product; a loss that
    reads and writes logits, and writes sums of each bias's gradient over parts of the batch; and a
    product that also reads and writes W and V."""
    workload = find_workload(SHAPE)
    recipes = swept(workload, C, "tf32", lambda **settings: Recipe("ce", **settings))
    work = tile_work(Tile(tuple(recipes)), workload)
    assert work.waits == 0
    sums: dict[str, int] = {}
    for each, number in work.step.operations.items():
        sums[each.part] = sums.get(each.part, 0) + int(each.moved * number)
    x, w, b, z = B * D, C * K * D, C * K, B * C * K
    flops = {"tf32": 2 * 2 * B * C * K * D}
    assert work.step.flops() == flops, "x·Wᵀ and Gᵀ·x"
    hyper = 4 * 4 * C  # η, λ, μ and Nesterov of each configuration, at most
    assert 0 <= sums["products"] - 4 * ((x + w + z) + (z + x + 4 * w)) <= hyper
    parts = B // span_of(B, 1)
    assert 0 <= sums["update"] - 4 * (parts * b + 4 * b) <= 4 * (parts * C + 4 * C) + hyper
    assert 0 <= sums["loss"] - 4 * (2 * z + b + parts * b) <= 4 * (parts * C + 3 * C) + 8 * B
    assert work.to_host == 4 * (w + b)


def test_the_time_of_a_kernel() -> None:
    """Reference: bytes over the rate of a copy, FLOPs over that of a product, or the shortest."""
    gpu = find_gpu("h200")
    assert gpu.rate("bytes") == pytest.approx(4.3e12, rel=1e-3)
    assert gpu.rate("bf16") == pytest.approx(790e12, rel=2e-3)
    big = 10**12
    assert gpu.seconds(Operation("", "other", big)) == big / gpu.rate("bytes")
    product = Operation("", "products", big, 10**15, "tf32")
    assert gpu.seconds(product) == 1e15 / gpu.rate("tf32")
    assert gpu.seconds(Operation("", "other", 1)) == SHORTEST


@pytest.mark.parametrize("gpu", GPUS)
def test_the_sum_of_a_sweep(gpu: str) -> None:
    """Reference: the parts of the result; small steps wait for the host."""
    got = model(find_workload(SHAPE), gpu=gpu, configurations=C, precision="bf16")
    assert got["seconds"] == pytest.approx(got["training_seconds"] + got["evaluation_seconds"])
    assert got["step_seconds"] == CALL * got["launches_step"]
    assert got["steps"] == 10 * (N // B)
    assert got["training_seconds"] > got["steps"] * got["step_seconds"]
    assert got["groups"] == 1


def test_many_configurations_take_several_groups() -> None:
    """Reference: a hundred times the memory of the larger half of them."""
    workload = find_workload("imagenet-lt")
    few = model(workload, configurations=1000, precision="tf32")
    many = model(workload, configurations=3000, precision="tf32")
    assert few["groups"] == 1
    assert many["groups"] > 1
    assert many["seconds"] == pytest.approx(3 * few["seconds"], rel=0.1)
    assert many["peak_bytes"] < GPUS["h200"].memory


def test_one_that_does_not_fit() -> None:
    """Reference: a head of 26 GB on a GPU of 80, with velocity, gradient and the best; features of
    80 GB in each of two splits."""
    with pytest.raises(errors.ConfigError, match="One configuration needs"):
        model(find_workload("100000,65536,100000"), gpu="a100")
    with pytest.raises(errors.ConfigError, match=r"take 149 GiB, a sweep on NVIDIA A100"):
        model(find_workload("1000000,20000,100"), gpu="a100")


@pytest.mark.parametrize(
    ("shape", "configurations", "seconds"),
    [
        ("cifar100-lt", 256, 1),
        ("imagenet-lt", 300, 12),
        ("imagenet-lt", 1000, 45),
        ("inaturalist2018", 32, 32 * 1.5),
    ],
)
def test_goals(shape: str, configurations: int, seconds: float) -> None:
    """Reference: the seconds that an H200 is to take, in the faster of two precisions."""
    got = {
        name: model(find_workload(shape), configurations=configurations, precision=name)["seconds"]
        for name in ("tf32", "bf16")
    }
    assert min(got.values()) <= seconds, got


def test_the_command(featbank: Run) -> None:
    """Reference: a row for each number and precision, and the words that say that it is a model."""
    printed = featbank(
        "benchmark", "--model", "a100", "--shape", SHAPE, "--configurations", "3,1"
    ).stdout
    assert "A model, not a measurement: what NVIDIA A100" in printed
    assert f"{SHAPE}: N = 400, D = 8, K = 5, B = 32, 120 steps" in printed
    rows = [line.split() for line in printed.splitlines() if line[:2] in ("1 ", "3 ")]
    assert [row[:2] for row in rows] == [[c, p] for c in "13" for p in ("fp32", "tf32", "bf16")]
    options = ("--shape", SHAPE, "--configurations", 3, "--precision", "tf32", "--format", "json")
    (result,) = json.loads(featbank("benchmark", "--model", "h200", *options).stdout)
    assert result == model(find_workload(SHAPE), configurations=3, precision="tf32")


def test_the_command_fits_a_terminal(featbank: Run) -> None:
    """Reference: 80 columns, for the shapes of the default."""
    printed = featbank("benchmark", "--model", "h200", "--precision", "tf32").stdout
    tables = [line for line in printed.splitlines() if line.lstrip()[:1].isdigit() or "──" in line]
    assert len(tables) == 1 + 2 + 1 + 3
    assert max(map(len, tables)) <= 80
    titles = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["C"])
    assert len(titles) == len(tables[1].split()) - 1, "the column of precisions has no title"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "v100"), "no model of a GPU called 'v100'. Choose from: h200, h100, a100"),
        (("--model", "h200", "--threads", "1"), "--model measures nothing. Leave out --threads."),
        (("--model", "h200", "--steps", "4", "--memory", "1GiB"), "out --steps, --memory."),
        (("--model", "h200", "--shape", "cifar"), "Unknown shape 'cifar'."),
        (("--model", "h200", "--configurations", "0"), "--configurations 0 is not a list"),
    ],
)
def test_wrong_input_is_one_line(featbank: Run, options: tuple[str, ...], message: str) -> None:
    """Reference: the message, exit code 2, nothing printed."""
    done = featbank("benchmark", *options, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, f"got {done.stderr!r}, expected one line"
    assert not done.stdout
