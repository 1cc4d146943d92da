"""The command line: quick help, one-line errors, sweeps that resume."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.cli import main
from featbank.cli.progress import progress
from stage2.results.store import Store
from tests.conftest import Run, Toy


def rows_of(featbank: Run, results: str) -> list[dict]:
    """The leaderboard as JSON rows."""
    return json.loads(featbank("leaderboard", results, "--format", "json").stdout)


def _seconds_of_children() -> float:
    """What finished children took of a processor: others that run beside them do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """`featbank --help` in under half a second, without PyTorch, NumPy or h5py."""
    code = (
        "import sys; from featbank.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'rich', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    times = []
    for _ in range(3):
        started = _seconds_of_children()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        times.append(_seconds_of_children() - started)
        assert done.returncode == 0, done.stderr
    assert "train → extract (or import) → sweep → leaderboard" in done.stdout
    assert min(times) < 0.5, times


def test_every_command_has_help_with_an_example(featbank: Run) -> None:
    """Each `--help` shows a line that can be copied."""
    for command in (
        "train",
        "extract",
        "import",
        "info",
        "sweep",
        "leaderboard",
        "export",
        "predict",
        "methods",
        "demo",
    ):
        assert (
            f"featbank {command}"
            in featbank(command, "--help").stdout.split("Options:")[0].split("\n\n", 1)[1]
        )


def test_sweep_and_leaderboard(featbank: Run, toy_bank: Path) -> None:
    """A grid over two recipes: rows, keys and ranking; a second run trains nothing."""
    sweep = (
        "sweep", toy_bank, "--recipe", "crt", "--recipe", "mislas", "--recipe", "tau_norm",
        "--set", "lr=0.05,0.1", "--set", "epochs=3", "--set", "mislas:smooth_head=0.2,0.3",
        "--set", "tau=0,1", "--seeds", "0,1", "-o", "r.sqlite",
    )  # fmt: skip
    first = featbank(*sweep).stdout
    # crt 2, mislas 2 × 2, tau_norm 2 configurations; two seeds for those that train
    assert "8 configurations, 14 runs with their seeds" in first
    assert "selected on val (macro accuracy) · 8 configurations tried · seeds 0, 1" in first
    rows = rows_of(featbank, "r.sqlite")
    assert {row["name"] for row in rows} == {"crt", "mislas", "tau_norm"}
    assert len({row["recipe"] for row in rows}) == 8
    last = [row for row in rows if row["epoch"] == "last"]
    assert len(last) == 8
    assert {row["epoch"] for row in rows if row["name"] == "crt"} == {"last", "selected"}
    for row in rows:
        assert set(row) >= {
            "recipe", "name", "parameters", "seeds", "split", "epoch", "top1", "macro", "many",
            "medium", "few", "top5", "ece", "mce", "nll", "brier", "top1_std",
        }  # fmt: skip
        assert row["split"] == "test"
        assert row["seeds"] == ([0] if row["name"] == "tau_norm" else [0, 1])
        assert 0 <= row["few"] <= 100
    ranked = [row["selection"] for row in rows]
    assert ranked == sorted(ranked, reverse=True)
    again = featbank(*sweep).stdout
    assert "14 runs were in r.sqlite already" in again
    assert "runs: " not in again
    assert rows_of(featbank, "r.sqlite") == rows
    table = list(
        csv.DictReader(io.StringIO(featbank("leaderboard", "r.sqlite", "--format", "csv").stdout))
    )
    assert [row["recipe"] for row in table] == [row["recipe"] for row in rows]
    assert json.loads(table[0]["parameters"]) == rows[0]["parameters"]
    for form, mark in (("md", "| --- |"), ("latex", r"\bottomrule"), ("table", "few")):
        assert mark in featbank("leaderboard", "r.sqlite", "--format", form).stdout


def test_the_table_names_the_split_that_ranks(featbank: Run, toy_bank: Path) -> None:
    """With val and test at hand, the ranking column is the chosen split's, and the groups are those
    of the epoch that ranks; compared with the JSON rows of that epoch."""
    featbank("sweep", toy_bank, "--recipe", "crt", "--set", "epochs=6", "--seeds", "0")
    for split, epoch in (("val", "selected"), ("test", "last")):
        options = ("results.sqlite", "--select-on", split, "--format")
        (row,) = (
            row
            for row in json.loads(featbank("leaderboard", *options, "json").stdout)
            if row["epoch"] == epoch
        )
        header, _, line = featbank("leaderboard", *options, "md").stdout.splitlines()[:3]
        cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
        assert cells[f"{split} macro"] == f"{row['selection']:.1f}", (split, cells)
        assert cells["few"] == f"{row['few']:.1f}", (split, cells)


def test_seeds_can_be_set_like_any_setting(featbank: Run, toy_bank: Path) -> None:
    """`--set seed=4,5` stands over `--seeds`."""
    featbank("sweep", toy_bank, "--recipe", "lws", "--set", "seed=4,5", "--set", "epochs=1")
    assert {tuple(row["seeds"]) for row in rows_of(featbank, "results.sqlite")} == {(4, 5)}


def test_without_val_every_table_says_that_nothing_is_selected(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """The protocol is never silent: test selects only where it is asked to, and never an epoch."""
    make_toy(splits=("train", "test")).write(tmp_path / "b.h5")
    swept = featbank("sweep", "b.h5", "--recipe", "lws", "--set", "lr=0.1,0.3", "--seeds", "0")
    assert "not selected: there is no val" in swept.stdout
    assert "featbank split b.h5 --val-from-test 5" in swept.stdout, "the ways out"
    for form in ("table", "md", "latex"):
        command = ("leaderboard", "results.sqlite", "--format", form)
        assert "not selected: there is no val" in featbank(*command).stdout
        assert "selected on test (macro" in featbank(*command, "--select-on", "test").stdout
    rows = rows_of(featbank, "results.sqlite")
    assert {row["epoch"] for row in rows} == {"last"}
    assert {row["selection"] for row in rows} == {None}
    refused = featbank("export", "results.sqlite", "lws", "-o", "h.safetensors", code=2)
    assert "Nothing selects among the 2 configurations of 'lws'" in refused.stderr
    featbank(
        *("export", "results.sqlite", "lws", "-o", "h.safetensors", "--select-on", "test"),
    )


def _sweep_and_signal(number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Sweep in a fork of this process, which gets a signal once it has stored its first results.

    Returns
    -------
    Its exit code, of a killed one the negative number of the signal, and what it wrote to stderr.
    """
    child = os.fork()
    if not child:
        add_runs = Store.add_runs

        def add_and_signal(self: Store, *runs: Any) -> None:
            add_runs(self, *runs)
            os.kill(os.getpid(), number)

        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
            Store.add_runs = add_and_signal  # type: ignore[method-assign]
            sys.stdout, sys.stderr = open(os.devnull, "w"), open("stderr", "w")  # noqa: SIM115
            main(["sweep", *arguments])
        except SystemExit as exit:
            sys.stderr.flush()
            os._exit(int(exit.code or 0))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), Path("stderr").read_text()


def test_a_killed_sweep_resumes_to_the_same_table(featbank: Run, toy_bank: Path) -> None:
    """SIGKILL after the first results; the same command ends with the uninterrupted table."""
    sweep = (
        str(toy_bank), "--recipe", "crt", "--recipe", "lws", "--recipe", "disalign",
        "--set", "lr=0.01,0.1", "--set", "epochs=5", "--seeds", "0,1",
    )  # fmt: skip
    featbank("sweep", *sweep, "-o", "whole.sqlite")
    code, _ = _sweep_and_signal(signal.SIGKILL, *sweep, "-o", "killed.sqlite")
    assert code == -signal.SIGKILL
    stored = _runs_in(Path("killed.sqlite"))
    assert 0 < stored < 12
    text = featbank("sweep", *sweep, "-o", "killed.sqlite").stdout
    assert f"{stored} runs were in killed.sqlite already" in text
    assert rows_of(featbank, "killed.sqlite") == rows_of(featbank, "whole.sqlite")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reports_what_the_results_hold(
    number: signal.Signals, featbank: Run, toy_bank: Path
) -> None:
    """A signal after the first results: one line with the number of stored runs, exit 1."""
    sweep = (str(toy_bank), "--recipe", "crt", "--set", "epochs=2", "--seeds", "0,1,2")
    code, text = _sweep_and_signal(number, *sweep, "-o", "stopped.sqlite")
    stored = _runs_in(Path("stopped.sqlite"))
    assert 0 < stored < 3
    line = f"{stored} of 3 runs are in stopped.sqlite; the same command continues from there."
    assert (code, text) == (1, f"featbank: stopped. {line}\n")


def test_progress_shows_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: 3 of 4 done after six seconds are 0.5 per second and two seconds more."""
    clock = iter([0.0, 6.0, 6.0, 8.0, 8.0])
    monkeypatch.setattr("featbank.cli.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("featbank.cli.progress.time.strftime", lambda form: "12:34:56")
    with progress("runs") as report:
        report(3, 4)
        report(4, 4)
    assert capsys.readouterr().out.splitlines() == [
        "12:34:56 runs: 3 of 4, 0.5 per second, 2 s left",
        "12:34:56 runs: 4 of 4, 0.5 per second",
    ]


def _runs_in(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT count(*) FROM run").fetchone()[0]


def test_dry_run_trains_nothing(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """The plan is printed, and no results file appears."""
    output = featbank("sweep", toy_bank, "--recipe", "crt", "--dry-run").stdout
    assert "1 configuration, 3 runs with their seeds, in 3 fused groups" in output
    assert "class_aware, batch 222, 10 epochs of 1 step, seed 2: 1 × linear" in output
    assert not (tmp_path / "results.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "gone.h5"], "gone.h5: no such file"),
        (["sweep", "text.h5"], "text.h5 is not a readable HDF5 file"),
        (["info", "text.h5"], "text.h5 is not a readable HDF5 file"),
        (["sweep", "toy.h5", "--recipe", "crtt"], "Unknown recipe 'crtt'. Did you mean 'crt'?"),
        (["sweep", "toy.h5", "--recipe", "oracle"],
         "Recipe 'oracle' learns from train_balanced, toy.h5 has no rows of it."),
        (["sweep", "toy.h5", "--recipe", "mislas", "--set", "optimiser=lbfgs"],
         "Recipe 'mislas' cannot have optimiser=lbfgs: head 'mislas' is not convex."),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "view=instance+expert1"],
         "Recipe 'crt' needs the view 'expert1', toy.h5 has: instance, balanced."),
        (["sweep", "toy.h5", "--recipe", "ce", "--set", "max_norm=-1"],
         "The 'max_norm' of recipe 'ce' must be a float > 0, got -1."),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "wieght_decay=1"],
         "takes a setting 'wieght_decay'. Did you mean 'weight_decay'?"),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "lr=0"],
         "The 'lr' of recipe 'crt' must be a float > 0, got 0."),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "lr=fast"], "a float > 0, got 'fast'"),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "lr"], "--set lr is not KEY=V1,V2"),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "lws:lr=1"], "'lws' is not swept"),
        (["sweep", "toy.h5", "--recipe", "crt", "--set", "view=balancd"],
         "needs the view 'balancd'"),
        (["sweep", "toy.h5", "--recipe", "crt", "--seeds", "a"], "--seeds a is not a list"),
        (["sweep", "toy.h5", "--recipe", "crt", "--seeds", "-1"], "--seeds -1: The 'seed' of"),
        (["sweep", "toy.h5", "--recipe", "crt", "--device", "tpu9"], "Device 'tpu9'"),
        (["sweep", "toy.h5", "--recipe", "crt", "--memory", "lots"], "--memory lots is not a size"),
        (["sweep", "toy.h5", "--recipe", "crt", "--memory", "1kB"], "the memory budget is"),
        (["sweep", "toy.h5", "--recipe", "crt", "-o", "text.h5"], "text.h5 is not a results file"),
        (["sweep", "toy.h5", "--recipe", "crt", "-o", "no/r.sqlite"], "no is not a folder"),
        (["sweep", "bare.h5", "--recipe", "mislas"], "needs the view 'balanced'"),
        (["sweep", "bare.h5", "--recipe", "balanced_softmax"],
         "needs a training sample in every class; 1 have none: 1"),
        (["leaderboard", "gone.sqlite"], "gone.sqlite: no such file"),
        (["leaderboard", "text.h5"], "text.h5 is not a results file"),
        (["methods", "mislsa"], "Did you mean 'mislas'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run,
    make_toy: Callable[..., Toy],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """No traceback, a remedy, and no file that was not there before."""
    make_toy().write(tmp_path / "toy.h5")
    make_toy((30, 0, 5), views=("instance",)).write(tmp_path / "bare.h5", classifier=None)
    (tmp_path / "text.h5").write_text("a text that is not a database either " * 10)
    before = sorted(p.name for p in tmp_path.iterdir())
    error = featbank(*arguments, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_methods_shows_what_a_recipe_takes(featbank: Run) -> None:
    """Settings with default, meaning and range, where they come from, and reported numbers."""
    output = featbank("methods", "mislas").stdout
    assert "delta_lr" in output
    assert "0.2" in output
    assert "a float ≥ 0 and ≤ 1" in output
    assert "reported by Zhong et al. 2021 on CIFAR-100-LT IF 100 ResNet-32: 47.0 %" in output
    assert "\n  settings: release\n" in output
    assert "\n  settings: paper, Table 6\n" in featbank("methods", "mislas-imagenet").stdout
    assert "\n  reported by Sun et al. 2025 on " in featbank("methods", "balanced_softmax").stdout
    listed = [line.split()[0] for line in featbank("methods").stdout.splitlines() if line[0] == " "]
    assert {"balanced_softmax", "disalign", "class_aware", "adamw"} <= set(listed)
    for name in set(listed) - {"cosine_prestep", "cosine_step", "multistep", "constant"}:
        assert "  from " in featbank("methods", name).stdout, name


def test_real_features_match_the_published_picture(featbank: Run, real_features: Path) -> None:
    """On CIFAR-100-LT features, post-hoc logit adjustment gives the 46.7 % that their maker
    measured, and cRT and MiSLAS what a frozen-feature run of them gave elsewhere (45.2/18.2 and
    46.4/7.7 top-1/ECE), within a point."""
    featbank("import", real_features, "-o", "b.h5")
    recipes = ("logit_adjust", "crt-cifar", "mislas")
    chosen = [word for name in recipes for word in ("--recipe", name)]
    featbank("sweep", "b.h5", *chosen, "--seeds", "0")
    got = {row["name"]: row for row in rows_of(featbank, "results.sqlite")}
    for name, top1, ece in (
        ("logit_adjust", 46.7, None),
        ("crt-cifar", 45.2, 18.2),
        ("mislas", 46.4, 7.7),
    ):
        tolerance = 0.06 if ece is None else 0.6
        assert abs(got[name]["top1"] - top1) < tolerance, (name, got[name]["top1"], top1)
        assert ece is None or abs(got[name]["ece"] - ece) < 1, (name, got[name]["ece"], ece)
    assert np.isclose(got["logit_adjust"]["top1"], got["logit_adjust"]["macro"])
