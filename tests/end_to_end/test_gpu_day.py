"""The script for a first day with a GPU, on a CPU, so that it does not fail there for a typo."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stage2.benchmark import find_workload
from stage2.benchmark.model import SHAPES, model
from tests.conftest import ROOT
from tests.stage2.cuda.running import TRITON

pytestmark = pytest.mark.skipif(not TRITON, reason="no Triton")

PAGE = ROOT / "docs" / "performance.md"
DAY = ROOT / "scripts/gpu_days/day.py"
QUICK = {2: 13, 3: 21, 4: 40, 6: 20}
"""Phases that take seconds on tiny shapes, and measurements that each has at the least."""


def gpu_day(*words: object) -> str:
    """Run the script; its output."""
    command = [sys.executable, str(DAY), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def gpu_day_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the script in this process, where it measures nothing; its output, or the message with
    which it exits."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "path", [str(DAY.parent), *sys.path])
        monkeypatch.setattr(sys, "argv", [str(DAY), *map(str, words)])
        try:
            runpy.run_path(str(DAY), run_name="__main__")
        except SystemExit as error:
            return f"{error.code}\n"
        return capsys.readouterr().out

    return run


def test_phases_are_listed(gpu_day_here: Callable[..., str]) -> None:
    """Reference: six phases of less than ten minutes, 45 in all."""
    listed = gpu_day_here("--dry-run").splitlines()
    minutes = [int(line.split()[1]) for line in listed[:-1]]
    assert [line.split()[0] for line in listed[:-1]] == list("123456")
    assert max(minutes) < 10
    assert sum(minutes) == int(listed[-1].split()[0]) <= 45


def test_quick_phases_run(tmp_path: Path) -> None:
    """Reference: every measurement of them, without an error."""
    gpu_day(*QUICK, "--device", "cpu", "--small", "-o", tmp_path)
    for number, least in QUICK.items():
        record = json.loads((tmp_path / f"phase-{number}.json").read_text())
        failed = {name: r["trace"] for name, r in record["results"].items() if "error" in r}
        assert not failed, "\n".join(failed.values())
        assert len(record["results"]) >= least
        assert (record["device"], record["left_out"]) == ("cpu", [])


@pytest.mark.long
def test_every_phase_runs(tmp_path: Path) -> None:
    """Reference: every measurement, without an error."""
    gpu_day("--device", "cpu", "--small", "-o", tmp_path)
    for path in tmp_path.glob("*.json"):
        results = json.loads(path.read_text())["results"]
        assert not [result["trace"] for result in results.values() if "error" in result]
    assert len(list(tmp_path.glob("*.json"))) == 6


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    """Reference: a phase of no minutes."""
    told = gpu_day(2, "--device", "cpu", "--small", "-o", tmp_path, "--minutes", 0)
    record = json.loads((tmp_path / "phase-2.json").read_text())
    assert (record["results"], record["left_out"][0]) == ({}, "copy")
    assert "left out, for want of time: copy, copy to the host" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("7", "--dry-run"), "gpu_day: there is no phase 7. Choose from 1 to 6."),
        (("--write", "--page", ROOT / "README.md"), "has no place for the table"),
    ],
)
def test_wrong_input_is_one_line(
    words: tuple[object, ...], message: str, gpu_day_here: Callable[..., str]
) -> None:
    """Reference: the message."""
    told = gpu_day_here(*words)
    assert message in told
    assert told.count("\n") == 1


def _table(page: Path) -> dict[tuple[str, str, str], list[str]]:
    """Cells of the table of sweeps, by shape, number and precision."""
    block = page.read_text().partition("<!-- gpu: begin")[2].partition("<!-- gpu: end")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
    return {(r[0], r[1], r[2]): r[3:] for r in rows if len(r) == 9 and r[0] in SHAPES}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_has_the_model_of_the_engine(shape: str) -> None:
    """Reference: the model; ``scripts/gpu_day --write`` writes the table anew."""
    number = SHAPES[shape][0]
    cells = _table(PAGE)[shape, f"{number:,}", "bf16"]
    written = float(re.findall(r"[\d.,]+", cells[-1])[-1].replace(",", ""))
    got = model(find_workload(shape), configurations=number, precision="bf16")["seconds"]
    assert written == pytest.approx(got, rel=0.03, abs=0.001), "run scripts/gpu_day --write"


def test_measurements_stand_beside_the_model(
    tmp_path: Path, gpu_day_here: Callable[..., str]
) -> None:
    """Reference: the numbers of records as a GPU would leave them; tries on a CPU are left out."""

    def record(number: int, device: str, **results: Any) -> None:
        each = {name: {"result": result, "seconds": 1} for name, result in results.items()}
        about = {
            "phase": number,
            "device": device,
            "small": False,
            "torch": "2.11",
            "triton": "3.6",
        }
        (tmp_path / f"phase-{number}.json").write_text(json.dumps({**about, "results": each}))

    name = "cifar100-lt, 256, linear, sgd, bf16"
    record(2, "NVIDIA H200", copy={"TB/s": 4.21}, **{"square product, bf16": {"TFLOP/s": 777}})
    record(4, "NVIDIA H200", **{name: {"ms": 1234.5}})
    record(5, "cpu", **{"group cifar100-lt, 256, bf16": {"seconds": 4321}})
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    gpu_day_here("--write", "--small", "-o", tmp_path, "--page", page)
    text, cells = page.read_text(), _table(page)["cifar100-lt", "256", "bf16"]
    assert "Measured on one NVIDIA H200 (torch 2.11, Triton 3.6), beside the model" in text
    assert "Copies ran at 4.21 TB/s, large products at 777 in bf16, in TFLOP/s." in text
    assert re.fullmatch(r"1,234 \*[\d.]+\*", cells[0]), cells
    assert re.fullmatch(r"\*[\d.]+\*", cells[-1]), cells
    assert text.endswith(PAGE.read_text().partition("<!-- gpu: end -->")[2])
