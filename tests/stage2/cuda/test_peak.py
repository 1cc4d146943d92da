"""What the planner says of a GPU's memory, against what a step allocates at full size."""

from __future__ import annotations

import numpy as np
import pytest

from stage2.benchmark.model import tile_work
from stage2.benchmark.workloads import Workload
from stage2.engine.plan import BatchStream, Shape, Tile, _held
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import STEPPED
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.running import TRITON

pytestmark = pytest.mark.skipif(not TRITON, reason="no Triton")

COUNTS = np.geomspace(1280, 5, 1000).astype(int)
"""About those of ImageNet-LT."""
DIM, BATCH, CONFIGS = 2048, 512, 40

CASES = [{"head": name, "optimiser": o} for name in HEADS if HEADS[name].trained for o in STEPPED]
CASES += [{"head": loss.head or "lws", "loss": name} for name, loss in LOSSES.items()]
CASES += [{"head": head, "precision": "bf16"} for head in ("linear", "lws")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.values()))
def test_a_group_fits_its_budget(case: dict[str, str]) -> None:
    """Reference: storages alive in a step of as many configurations, with fake tensors. Of what the
    planner says at least two fifths are used, or three tenths with losses of K binary terms, which
    take far more without Triton: that is what the planner says."""
    recipes = [Recipe("ce", lr=0.01 + i / 1e4, batch_size=BATCH, **case) for i in range(CONFIGS)]
    shape = Shape.of(COUNTS, DIM)
    stream = BatchStream.of(recipes[0], shape)
    planned = sum(_held(recipe, stream, shape, "cuda") for recipe in recipes)
    workload = Workload("", COUNTS, DIM, BATCH, 0, 0, 0)
    used = tile_work(Tile(tuple(recipes)), workload, evaluated=False).peak
    least = 0.4 if LOSSES[case.get("loss", "ce")].kernel == "family" else 0.3
    what = f"{case}: {used / planned:.2f} of {planned >> 20} MiB"
    assert least * planned <= used <= planned, what
