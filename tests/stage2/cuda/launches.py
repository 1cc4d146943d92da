"""The kernels that a step launches on the simulated GPU, by the part that it is made of.

    python -m tests.stage2.cuda.launches

writes them to `launches.json` beside this file. `test_device.py` fails where a step launches more
than is written there.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import STEPPED
from stage2.methods.precisions import PRECISIONS
from stage2.methods.recipe import Recipe
from stage2.methods.samplers import SAMPLERS
from tests.stage2.cuda.running import gpu, pair, step_cost
from tests.stage2.synthetic import problem

TABLE = Path(__file__).with_suffix(".json")
SMALL = problem((24, 12, 7, 5, 3, 2), dim=6, val=5, test=4)

STEPS: dict[str, list[Recipe]] = {
    **{f"head {name}": pair(head=name) for name, head in HEADS.items() if head.trained},
    **{
        f"loss {name}": pair(loss=name, head=loss.head or "linear") for name, loss in LOSSES.items()
    },
    **{f"sampler {name}": pair(sampler=name) for name in SAMPLERS},
    **{f"optimiser {name}": pair(optimiser=name) for name in STEPPED},
    **{f"precision {name}": pair(precision=name) for name in PRECISIONS},
    **{f"generator {name}": pair(generator=name) for name in GENERATORS},
    "nesterov": pair(nesterov=True),
    "cosine, adamw, tf32": pair(head="cosine", optimiser="adamw", precision="tf32"),
    "mislas, weights": pair("mislas", loss="weighted"),
    "anchors": pair("mislas", decay="delta"),
    "limit of norms": pair(max_norm=1.0),
    "cosine, limit, tf32": pair(head="cosine", max_norm=0.5, precision="tf32"),
    "limit of norms, bf16": pair(max_norm=0.5, precision="bf16"),
    "β of its own": [
        Recipe("ce", generator="afg", epochs=1, batch_size=16, **{"generator.beta": beta})
        for beta in (0.2, 0.6)
    ],
}
"""Recipes of one tile each that are trained in steps, by what a step has beside a linear head,
cross-entropy and SGD."""

PLAIN = [case for case in STEPS if case.startswith("head")]
PLAIN += [f"loss {name}" for name in ("los", "focal", "sla", "distil", "cb_bce", "sigmoid_focal")]
"""Those that are measured without Triton as well."""


def table() -> dict[str, dict[str, int]]:
    """Launches of a step, with and without Triton."""
    rows: dict[str, dict[str, int]] = {"triton": {}, "pytorch": {}}
    for kernels, cases in (("triton", STEPS), ("pytorch", PLAIN)):
        for case in cases:
            with gpu(triton=kernels == "triton") as device:
                cost, _ = step_cost(device, STEPS[case], SMALL)
            rows[kernels][case] = cost.trained["launches"]
    return rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    TABLE.write_text(json.dumps(table(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
