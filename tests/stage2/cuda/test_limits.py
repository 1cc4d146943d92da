"""What the engine allots on the simulated GPU: memory, blocks, grids, precision of products."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from stage2.cost.sample import Sample
from stage2.engine import calibration, loop
from stage2.engine.calibration import calibrate
from stage2.engine.gpu import update
from stage2.engine.plan import default_memory, plan
from stage2.engine.tile import TileRun
from stage2.engine.work import Unit, units_of
from stage2.features.budgets import group_memory, half_of
from stage2.features.planning import plan_bank
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.launches import SMALL
from tests.stage2.cuda.running import TRITON, gpu, on_device, trained
from tests.stage2.cuda.simulated import MEMORY


def test_what_pytorch_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: four fifths of what is free or kept for later tensors, on the GPU asked for."""
    with gpu():
        assert default_memory("cuda") == MEMORY * 4 // 5
        asked: list[torch.device] = []
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda of: asked.append(of) or (1000, 9))
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda of: asked.append(of) or 700)
        monkeypatch.setattr("torch.cuda.memory_allocated", lambda of: asked.append(of) or 200)
        assert default_memory("cuda:1") == 1500 * 4 // 5
    assert asked == [torch.device("cuda:1")] * 3


def test_a_group_gets_what_features_leave(tmp_path: Path) -> None:
    """Reference: the budget less float32 features of all splits and stage-1 logits of train rows;
    on the CPU, and where features are streamed, half of it."""
    recipes = [Recipe("ce"), Recipe("ce", view="balanced")]
    with SMALL.bank(tmp_path / "bank.h5") as bank:
        sizes = [bank.rows(split) * bank.dim for split in ("train", "val", "test")]
        held = 4 * (sum(sizes) + bank.rows("train") * bank.num_classes)
        given = group_memory(bank, recipes, "cuda", 1 << 20, "train")
        assert given == (1 << 20) - held
        assert group_memory(bank, recipes, "cpu", 1 << 20, "train") == 1 << 19
        made = [Recipe("ce", generator="smote")]
        large = group_memory(bank, made, "cuda", 1 << 34, "train")
        assert large == (1 << 34) - held - 3 * (1 << 30)
        little = half_of(4 * sizes[0], "cuda")
        assert group_memory(bank, recipes, "cuda", 4 * sizes[0], "train") == little


def test_calibration_takes_larger_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the launches where one block holds all logits."""
    z = torch.randn(60, 2, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 5
    launches = []
    for numbers in (calibration.BLOCK_NUMBERS, 600 // 32 + 1):
        monkeypatch.setattr(calibration, "BLOCK_NUMBERS", numbers)
        with gpu() as device:
            calibrate("vector", z.to("cuda"), y.to("cuda"), ridge=torch.full((2,), 0.1))
        launches.append(device.launches.total())
    assert launches[0] == launches[1]


@pytest.mark.skipif(not TRITON, reason="no Triton")
def test_more_configurations_than_a_grid_has_rows() -> None:
    """Reference: p − η·g, of more configurations than the second axis of a grid has programs."""
    p, g = torch.zeros(70_000, 2), torch.ones(70_000, 2)
    rate = torch.linspace(0, 1, len(p))
    with gpu():
        there = p.to("cuda")
        update.sgd_step(
            there,
            torch.zeros_like(there),
            g.to("cuda"),
            lr=rate.to("cuda"),
            momentum=torch.zeros_like(rate).to("cuda"),
        )
        got = there.cpu()
    torch.testing.assert_close(got, -rate[:, None].expand(-1, 2))


def test_sums_of_metrics_have_one_order() -> None:
    """Reference: CUDA adds what meets in one place in any order; no fractions are among it."""
    recipes = [Recipe("ce", lr=lr, epochs=1) for lr in (0.05, 0.1)]
    with gpu() as device:
        trained(recipes, SMALL, "cuda")
    assert not device.unordered, f"got {dict(device.unordered)}"


def test_a_dry_run_times_tiles_at_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the recipes of a tile, more than a CPU would time at once."""
    timed = []
    run_group = loop.run_group

    def spy(group: loop.FusedGroup, *views: object, **options: object) -> object:
        timed.append(len(group.recipes))
        return run_group(group, *views, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("stage2.cost.sample.run_group", spy)
    monkeypatch.setattr("stage2.cost.sample.STEP_FLOPS", 1)
    recipes = [Recipe("ce", lr=0.01 * i, epochs=1) for i in range(1, 6)]
    sizes = {}
    with SMALL.bank(tmp_path / "bank.h5") as bank:
        for device in ("cuda", "cpu"):
            timed.clear()
            (group,) = plan_bank(bank, recipes, device=device, memory=1 << 30)
            (unit,) = units_of(group)
            sizes[device] = _timed(unit, device, bank, timed)
    assert sizes == {"cuda": {5}, "cpu": {1}}


def _timed(unit: Unit, device: str, bank: object, timed: list[int]) -> set[int]:
    if device == "cpu":
        Sample(bank, device, 1).seconds(unit)  # type: ignore[arg-type]
    else:
        with gpu():
            Sample(bank, device, 1).seconds(unit)  # type: ignore[arg-type]
    return set(timed)


@pytest.mark.parametrize("before", ["tf32", "ieee", "none"])
def test_precision_of_products_is_put_back(before: str) -> None:
    """Reference: what was set by the newer of PyTorch's two interfaces, which then refuses to say
    it by the older."""
    matmul = torch.backends.cuda.matmul
    found = matmul.fp32_precision
    try:
        matmul.fp32_precision = before
        outcomes = trained([Recipe("ce", epochs=1, precision="tf32")], SMALL, "cpu")
        assert {outcome.status for outcome in outcomes.values()} == {"done"}
        assert matmul.fp32_precision == before
    finally:
        matmul.fp32_precision = found


def test_evaluation_has_the_precision_of_the_recipe() -> None:
    """Reference: logits of bf16 factors on the GPU, of float32 ones on the CPU; half a ulp of bf16
    is 2⁻⁹."""
    data, recipe = SMALL.view(), Recipe("ce", precision="bf16", epochs=1, init="stage1")
    (group,) = plan([recipe], SMALL.shape, memory=1 << 30)
    x = data.evaluated["test"].blocks()
    ((x, _),) = x
    exact = x @ data.weight0.t() + data.bias0
    rounded = x.bfloat16().float() @ data.weight0.bfloat16().float().t() + data.bias0
    for device, expected in (("cpu", exact), ("cuda", rounded)):
        with gpu() if device == "cuda" else contextlib.nullcontext():
            view = on_device(data, device)
            run = TileRun(group.tiles[0], group.stream, [view])
            z = torch.cat([z for _, z in run.outputs("last", [x.to(device)])])
            torch.testing.assert_close(z.cpu()[:, 0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(exact, rounded, rtol=1e-4, atol=1e-4)
