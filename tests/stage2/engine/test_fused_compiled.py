"""The kernels of the fused pass compiled ahead of time: no spills, wide accesses, tensor cores."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from stage2.engine.gpu import descent, scaled_loss
from tests.stage2.engine.test_triton_compiled import (
    ARCHITECTURES,
    WIDTHS,
    _assert_no_spills,
    _compiled,
    _widest,
    by_turns,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")

LINEAR = ("slopes", "bias")
EVERYTHING = (*LINEAR, "along", "rho", "scale", "shift", "margin", "smoothing", "weight")
EVERYTHING += ("weight_sum", "gamma", "frozen_gamma")
LOSS = by_turns([(K, EVERYTHING, "fp32") for K in (100, 1000, 8142)])
LOSS += [(90, K, LINEAR, "bf16") for K in (100, 1000, 8142)] + [(90, 4000, EVERYTHING, "bf16")]

SGD = ("momentum", "nesterov")
ADAMW = ("second", "mean_share", "square_share", "ratio", "floor")
COSINE = ("squares", "toward", "anchor")
WEIGHT = by_turns(
    [
        (100, 64, "tf32", SGD),
        (8142, 2048, "tf32", (*ADAMW, *COSINE)),
        (1000, 2048, "bf16", SGD),
        (1000, 64, "bf16", (*ADAMW, *COSINE)),
        (8142, 2048, "bf16", (*ADAMW, *COSINE)),
        (1000, 2048, "fp32", (*ADAMW, *COSINE)),
    ]
) + [(90, 100, 33, precision, (*ADAMW, *COSINE)) for precision in ("tf32", "bf16")]
INSTRUCTIONS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
"""Of the tensor cores."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(("arch", "classes", "given", "dtype"), LOSS)
def test_the_loss_kernel(arch: int, classes: int, given: tuple[str, ...], dtype: str) -> None:
    """Reference: the assembler; no spills, and 16 bytes an access where rows allow it."""
    from stage2.engine.gpu.scaled_loss_programs import scaled_loss_kernel as function

    rows, block, warps = scaled_loss.geometry(classes, 256)
    types = {"y": "*i64", "by_weights": "*i1", "batch": "i32", "configs": "i32", "span": "i32"}
    types |= dict.fromkeys(("raw", "loss", "elsewhere", "at_label", *given), "*fp32")
    types["gradient"] = f"*{dtype}"
    fixed = {"K": classes, "ROWS": rows, "BLOCK": block, "SPAN": scaled_loss.SPAN}
    fixed |= {name: None for name in function.arg_names if name not in types | fixed}
    ptx = _compiled(function, types, fixed, arch, warps=warps)
    width = WIDTHS.get(classes, 4)
    assert _widest(ptx) == {"ld": width, "st": width}
    _assert_no_spills(ptx, arch)


@pytest.mark.parametrize(("arch", "classes", "dim", "precision", "given"), WEIGHT)
def test_the_step_of_weights(
    arch: int, classes: int, dim: int, precision: str, given: tuple[str, ...]
) -> None:
    """Reference: the same where D is a multiple of 16; products run on the tensor cores."""
    from stage2.engine.gpu.descent_programs import weight_kernel as function

    plain, factor = precision == "fp32", "bf16" if precision == "bf16" else "fp32"
    types = {"batch": "i32", "units": "i32", "dim": "i32", "g": f"*{factor}"}
    types |= dict.fromkeys(("p", "first", "lr", "multiplier", "decay", *given), "*fp32")
    types |= {} if plain else {"x": f"*{factor}"}
    types |= {"shadow": "*bf16"} if precision == "bf16" else {}
    fixed = descent.weight_geometry(dim, None if plain else 2 if factor == "bf16" else 4)
    warps = fixed.pop("num_warps")
    fixed |= {"K": classes, "UNIT": 16, "ONE_ANCHOR": True}
    fixed["PRECISION"] = "tf32" if precision == "tf32" else "ieee"
    fixed |= {name: None for name in function.arg_names if name not in types | fixed}
    aligned = ("dim",) if dim % 16 == 0 else ()
    ptx = _compiled(function, types, fixed, arch, warps=warps, multiples=aligned)
    assert not aligned or _widest(ptx) == {"ld": 4, "st": 4}
    assert plain or INSTRUCTIONS[arch] in ptx
    _assert_no_spills(ptx, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("head", ["linear", "cosine", "mislas"])
def test_the_step_of_bias_and_scale(arch: int, head: str) -> None:
    """Reference: the assembler; no spills."""
    from stage2.engine.gpu.descent_programs import small_kernel as function

    types = {"loss_total": "*fp64", "parts": "i32", "configs": "i32"}
    types |= {"bias_step": "i32", "scale_step": "i32"}
    names = ["loss", "lr", *ADAMW[1:]]
    names += [] if head == "linear" else ["along"]
    names += ["length", "rho", "toward"] if head == "cosine" else ["slopes"]
    for name in {"linear": ["bias"], "cosine": ["scale"], "mislas": ["bias", "scale"]}[head]:
        names += [name, *(f"{name}_{part}" for part in ("first", "second", "anchor", "decay"))]
    types |= dict.fromkeys(names, "*fp32")
    fixed = {"K": 8142, "BLOCK": 1024, "WAYS": 64}
    fixed |= {name: None for name in function.arg_names if name not in types | fixed}
    _assert_no_spills(_compiled(function, types, fixed, arch), arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_kernels_of_lengths_and_rows(arch: int) -> None:
    """Reference: the same."""
    from stage2.engine.gpu.descent_programs import lengths_kernel
    from stage2.engine.gpu.row_programs import rows_kernel

    types = dict.fromkeys(("squares", "scale", "length", "rho"), "*fp32")
    types |= {"tiles": "i32", "rows": "i32"}
    fixed = {"K": 1000, "BLOCK": descent.LENGTHS_BLOCK}
    _assert_no_spills(_compiled(lengths_kernel, types, fixed, arch), arch)
    types = {"x": "*fp32", "rows": "*i64", "out": "*bf16", "dim": "i32"}
    fixed = {"UNIT": True, "BLOCK": 2048}
    _assert_no_spills(_compiled(rows_kernel, types, fixed, arch, multiples=("dim",)), arch)
