"""The Triton kernels compiled ahead of time: registers that hold everything, and wide accesses.

Compiling takes Triton and NVIDIA's assembler, which comes with it, but no GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stage2.engine.gpu import loss, measure, update

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="PyTorch has no Triton here")

ARCHITECTURES = (80, 90, 100)
"""A100, H100 and B200."""

OPTIONAL = ("scale", "shift", "margin", "smoothing", "weight", "weight_sum", "gamma")
OPTIONAL += ("frozen_gamma", "kappa", "row_weight")
WIDTHS = {100: 4, 1000: 4, 8142: 2, 21841: 1}
"""Numbers of an access by classes: rows of K numbers start at multiples of K."""


def by_turns(cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Each of the cases on one architecture, by turns; on the others in the long form."""
    return [
        pytest.param(arch, *case, marks=[] if (i - j) % 3 == 0 else pytest.mark.long)
        for j, arch in enumerate(ARCHITECTURES)
        for i, case in enumerate(cases)
    ]


LOSS = by_turns([(K, OPTIONAL, "fp32") for K in (100, 1000, 8142)])
LOSS += [(90, K, (), "fp32") for K in WIDTHS] + [(90, 21841, OPTIONAL, "fp32")]
LOSS += [(90, 1000, (), "bf16")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(("arch", "classes", "given", "dtype"), LOSS)
def test_the_loss_kernel(arch: int, classes: int, given: tuple[str, ...], dtype: str) -> None:
    """Reference: the assembler; no spills, and 16 bytes an access where rows allow it."""
    from stage2.engine.gpu.loss_programs import loss_kernel

    rows, block, warps = loss.geometry(classes)
    types = {"y": "*i64", "by_weights": "*i1", "size": "fp32", "count": "i32", "configs": "i32"}
    types |= dict.fromkeys(("loss", "elsewhere", "at_label", *given), "*fp32")
    types["z"] = f"*{dtype}"
    fixed = {"K": classes, "ROWS": rows, "BLOCK": block}
    fixed |= {name: None for name in OPTIONAL if name not in given}
    ptx = _compiled(loss_kernel, types, fixed, arch, warps=warps)
    if dtype == "fp32":
        assert _widest(ptx) == {"ld": WIDTHS[classes], "st": WIDTHS[classes]}
    _assert_no_spills(ptx, arch)


BINARY = by_turns([(K, OPTIONAL, "fp32") for K in (100, 1000, 8142)])
BINARY += [(90, 8192, OPTIONAL, "fp32"), (90, 1000, (), "fp32"), (90, 1000, OPTIONAL, "bf16")]


@pytest.mark.parametrize("name", ["softmax_bce_kernel", "sigmoid_focal_kernel"])
@pytest.mark.parametrize(("arch", "classes", "given", "dtype"), BINARY)
def test_the_kernels_of_binary_terms(
    name: str, arch: int, classes: int, given: tuple[str, ...], dtype: str
) -> None:
    """Reference: the assembler; no spills, and 16 bytes an access where rows allow it."""
    from stage2.engine.gpu import binary_programs

    program = getattr(binary_programs, name)
    rows, block, warps = loss.geometry(classes)
    types = {"y": "*i64", "by_weights": "*i1", "size": "fp32", "count": "i32", "configs": "i32"}
    types |= dict.fromkeys(("loss", *given), "*fp32")
    types = {n: t for n, t in types.items() if n in program.arg_names} | {"z": f"*{dtype}"}
    optional = [n for n in OPTIONAL if n in program.arg_names and n not in given]
    fixed = {"K": classes, "ROWS": rows, "BLOCK": block} | dict.fromkeys(optional)
    ptx = _compiled(program, types, fixed, arch, warps=warps)
    if dtype == "fp32":
        width = WIDTHS.get(classes, 4)
        assert _widest(ptx) == {"ld": width, "st": width}
    _assert_no_spills(ptx, arch)


MEASURED = ("top", "partition", "norm", "total")
SHIFTED = (*MEASURED, "place", "low", "high", "log_prior")
MEASURE = by_turns([(K, SHIFTED) for K in (100, 1000, 8142)])
MEASURE += [(90, K, given) for K in (10, 1000, 8192) for given in ((), MEASURED, SHIFTED)]


@pytest.mark.parametrize(("arch", "classes", "given"), MEASURE)
def test_the_measure_kernel(arch: int, classes: int, given: tuple[str, ...]) -> None:
    """Reference: the assembler; no spills, and 16 bytes an access where rows allow it."""
    from stage2.engine.gpu.measure_programs import measure_kernel

    rows, block, warps = measure.geometry(classes)
    types = {"y": "*i64", "far": "fp32", "batch": "i32", "configs": "i32"}
    types |= dict.fromkeys(("z", "rank", "own", *given), "*fp32")
    types |= {"predicted": "*i32"} if given else {}
    optional = {"predicted", *SHIFTED} - types.keys()
    fixed = {"K": classes, "ROWS": rows, "BLOCK": block, "SPAN": 32} | dict.fromkeys(optional)
    ptx = _compiled(measure_kernel, types, fixed, arch, warps=warps)
    assert _widest(ptx)["ld"] == WIDTHS.get(classes, 2 if classes == 10 else 4)
    _assert_no_spills(ptx, arch)


MOMENTS = by_turns([(K,) for K in (100, 1000, 8142, 16384)])


@pytest.mark.parametrize(("arch", "classes"), MOMENTS)
def test_the_moments_kernel(arch: int, classes: int) -> None:
    """Reference: the assembler; no spills, and 16 bytes an access where rows allow it."""
    from stage2.engine.gpu.temperature_programs import moments_kernel

    rows, block, warps = loss.geometry(classes)
    types = dict.fromkeys(("z", "scale", "loss", "slope", "curvature"), "*fp32")
    types |= {"y": "*i64", "chosen_configs": "*i64"}
    types |= dict.fromkeys(("count", "chosen", "configs"), "i32")
    fixed = {"K": classes, "ROWS": rows, "BLOCK": block}
    ptx = _compiled(moments_kernel, types, fixed, arch, warps=warps)
    assert _widest(ptx)["ld"] == WIDTHS.get(classes, 4)
    _assert_no_spills(ptx, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("given", [(), ("decay", "nesterov", "anchor")])
def test_the_sgd_kernel(arch: int, given: tuple[str, ...]) -> None:
    """Reference: the same, for sizes that are multiples of 16."""
    from stage2.engine.gpu.update_programs import sgd_kernel

    types = {"size": "i32", "anchor_step": "i32"}
    types |= dict.fromkeys(("p", "v", "g", "lr", "momentum", *given), "*fp32")
    fixed = {name: None for name in ("decay", "nesterov", "anchor") if name not in given}
    fixed["BLOCK"] = update.BLOCK
    ptx = _compiled(sgd_kernel, types, fixed, arch, multiples=("size", "anchor_step"))
    assert _widest(ptx) == {"ld": 4, "st": 4}
    _assert_no_spills(ptx, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("given", [(), ("decay", "anchor")])
def test_the_adamw_kernel(arch: int, given: tuple[str, ...]) -> None:
    """Reference: the same, for sizes that are multiples of 16."""
    from stage2.engine.gpu.update_programs import adamw_kernel

    types = {"size": "i32", "anchor_step": "i32"}
    moments = ("p", "m", "s", "g", "lr", "first", "second", "ratio", "floor")
    types |= dict.fromkeys((*moments, *given), "*fp32")
    fixed = {name: None for name in ("decay", "anchor") if name not in given}
    fixed["BLOCK"] = update.BLOCK
    ptx = _compiled(adamw_kernel, types, fixed, arch, multiples=("size", "anchor_step"))
    assert _widest(ptx) == {"ld": 4, "st": 4}
    _assert_no_spills(ptx, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_count_of_steps(arch: int) -> None:
    """Reference: the assembler."""
    from stage2.engine.gpu.update_programs import adamw_count_kernel

    types = {"steps": "*fp64", "log_betas": "*fp64", "configs": "i32"}
    types |= dict.fromkeys(("eps", "ratio", "floor"), "*fp32")
    ptx = _compiled(adamw_count_kernel, types, {"BLOCK": update.COUNT_BLOCK}, arch)
    _assert_no_spills(ptx, arch)


def _compiled(
    function: Any,
    types: dict[str, str],
    fixed: dict[str, Any],
    arch: int,
    *,
    warps: int = 4,
    multiples: tuple[str, ...] = (),
) -> str:
    """The PTX of a kernel whose pointers, and the numbers `multiples`, are multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, type_) in enumerate(signature.items())
        if type_.startswith("*") or name in multiples
    }
    compiled = triton.compile(
        ASTSource(function, signature, fixed, aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "enable_fp_fusion": True},
    )
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]


def _widest(ptx: str) -> dict[str, int]:
    """The most numbers of 32 bits that one load, and one store, of global memory moves."""
    widest = {"ld": 1, "st": 1}
    for access, width in re.findall(r"\b(ld|st)\.global[\w.:]*?\.v(\d)\.b32", ptx):
        widest[access] = max(widest[access], int(width))
    return widest


def _assert_no_spills(ptx: str, arch: int) -> None:
    import triton.backends.nvidia

    tools = Path(triton.backends.nvidia.__file__).parent / "bin"
    assembler = tools / ("ptxas-blackwell" if arch >= 100 else "ptxas")
    name = re.search(r"\.target (\w+)", ptx)
    assert name
    source = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.ptx"
    source.write_text(ptx)
    told = subprocess.run(
        [assembler, "-v", f"-arch={name[1]}", source, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=True,
    )
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", told.stderr)
    assert frames, told.stderr
    assert {int(size) for frame in frames for size in frame} == {0}, told.stderr
