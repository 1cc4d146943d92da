"""What the shell completes, asked as the shell asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from featbank.cli import main
from featbank.cli.completion import PLOTS
from stage1.data.catalogue import DATASETS
from stage1.training.presets import PRESETS
from stage2 import ready_specifications
from stage2.plots import BANK_KINDS, KINDS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank, a folder, a specification and a file that is none of these."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "banks").mkdir()
    for name in ("bank.h5", "banks/a.h5", "mine.toml", "bank.txt"):
        (tmp_path / name).touch()


def completed(*words: str) -> list[str]:
    """What the last of the words behind ``featbank`` may become."""
    shell = ShellComplete(main, {}, "featbank", "_FEATBANK_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_names() -> None:
    """Reference: the registries of both stages; click's own commands and choices."""
    assert [*KINDS, *BANK_KINDS] == list(PLOTS)
    assert completed("plot", "con") == ["confidence", "confusion"]
    assert completed("sweep", "--recipe", "tau") == completed("methods", "tau") == ["tau_norm"]
    assert completed("train", "--dataset", "cifar") == ["cifar10-lt", "cifar100-lt"]
    assert completed("train", "--dataset", "") == list(DATASETS)
    assert completed("datasets", "im") == ["imagenet-lt"]
    assert completed("train", "--preset", "") == list(PRESETS)
    assert completed("sweep", "--select-on", "") == ["val", "test"]
    assert completed("exp") == ["export-features", "export"]


def test_places_of_a_sweep() -> None:
    """Reference: the folder; ready specifications only behind a bank."""
    assert completed("sweep", "ba") == ["bank.h5", "banks/"]
    assert completed("sweep", "banks/") == ["banks/a.h5"]
    assert completed("sweep", "m") == ["mine.toml"]
    assert completed("sweep", "bank.h5", "ba") == ["bank.h5", "banks/", "baseline", "baselines"]
    names = completed("sweep", "bank.h5", "")
    assert [name for name in names if name in ready_specifications()] == list(
        ready_specifications()
    )


def test_without_pytorch() -> None:
    """Reference: the modules of a process that completes."""
    code = (
        "import sys; from featbank.cli import main\n"
        "try: main(prog_name='featbank')\n"
        "except SystemExit: print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    words = ("train --preset mis", "sweep bank.h5 ba", "datasets i", "plot b")
    for text in words:
        asked = {
            "_FEATBANK_COMPLETE": "bash_complete",
            "COMP_WORDS": f"featbank {text}",
            "COMP_CWORD": str(len(text.split())),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.endswith("[]\n"), (text, done.stdout)
