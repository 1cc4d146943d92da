"""README and docs/recipes.md as they stand: a loss, a head, a sampler and a generator are added to
a copy of the sources, no other file is touched, and the suite is run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PARTS = ("inverse_shift", "shift", "logarithmic", "noisy")
"""A loss, a head, a sampler and a generator."""

COPIED = ("featbank", "stage1", "stage2", "tests", "docs", "scripts", "README.md", "pyproject.toml")

CONTRACT = (
    "tests/stage2/test_contract_suite.py",
    "tests/stage2/export/test_export.py",
    "tests/stage2/methods/test_heads.py",
    "tests/stage2/methods/test_losses.py",
    "tests/stage2/methods/test_presets.py",
    "tests/stage2/methods/test_samplers.py",
    "tests/stage2/engine/test_generation.py",
    "tests/stage2/test_objective.py",
    "tests/stage2/results/test_cite.py",
    "tests/docs/test_links.py",
)
COMPLETENESS = (
    "test_every_head_has_a_form",
    "test_every_loss_is_supported_or_refused",
    "test_every_preset_tells_what_it_is",
    "test_the_table_has_every_preset",
    "test_methods_are_told",
    "test_every_source_of_a_method_is_in_the_bibliography",
)


def _blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def _block(page: str, containing: str) -> str:
    """The Python block of a page that contains a text."""
    (block,) = (block for block in _blocks(page) if containing in block)
    return block


def _add_entry(root: Path, page: str, registry: str, module: str) -> None:
    """Append the block of a page that makes an entry to the module of its registry."""
    with (root / module).open("a", encoding="utf-8") as file:
        file.write(f"\n\n{_block(page, f'{registry}[')}")


def _add_file(root: Path, folder: str, name: str) -> None:
    """Add the file of a class and its line in the registry of the folder, as the page says."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    line, kind = re.search(rf'`("{name}": (\w+)\(\),)`', page).groups()  # type: ignore[union-attr]
    (root / folder / f"{name}.py").write_text(_block("docs/recipes.md", f"class {kind}("))
    registry = root / folder / "__init__.py"
    text = registry.read_text(encoding="utf-8")
    module = f"{folder.replace('/', '.')}.{name}"
    text = text.replace("\nfrom ", f"\nfrom {module} import {kind}\nfrom ", 1)
    registry.write_text(re.sub(r"(?m)^}$", f"    {line}\n}}", text, count=1), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources with the four parts."""
    root = tmp_path / "copy"
    root.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name)  # what is compiled, too
        else:
            shutil.copy(ROOT / name, root)
    _add_entry(root, "README.md", "LOSSES", "stage2/methods/losses.py")
    _add_entry(root, "docs/recipes.md", "SAMPLERS", "stage2/methods/samplers.py")
    _add_file(root, "stage2/methods/heads", "shift")
    _add_file(root, "stage2/methods/generators", "noisy")
    return root


def _run(root: Path, *arguments: str) -> str:
    """What pytest prints of a run in the copy, which must be green."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_the_parts_of_the_pages_can_be_added(copy: Path) -> None:
    """Reference: the tests that the new parts take part in, and those of whole registries."""
    chosen = f"({' or '.join((*PARTS, *COMPLETENESS))}) and not as_the_reference"
    output = _run(copy, *CONTRACT, "-k", chosen, "-rA")
    for part in PARTS:
        assert f"[{part}]" in output, f"no test of {part} was run"
    assert "gives_the_module_back[shift-" in output


@pytest.mark.long
def test_the_whole_suite_takes_the_parts(copy: Path) -> None:
    """Reference: every test of stage 2, of the pages and of the commands."""
    _run(
        copy,
        "tests/stage2",
        "tests/docs",
        "tests/featbank",
        "--ignore",
        "tests/stage2/test_adding_parts.py",
    )
