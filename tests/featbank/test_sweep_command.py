"""``featbank sweep`` with a specification: plan, run, override, refuse."""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank
from stage2.engine.native.library import SWITCH, Library, library
from stage2.search import Halving, Sampling, make_search
from stage2.specification import ready_specifications
from tests.conftest import ROOT, Run, Toy

PAGE = (ROOT / "docs/sweeps.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)

SPECIFICATION = """\
# Two heads.
bank = "toy.h5"
seeds = [0, 1]
output = "here.sqlite"
[settings]
epochs = 2
[recipes.crt]
lr = {log = [0.1, 0.4], n = 3}
[recipes.tau_norm]
tau = {linear = [0, 1], n = 3}
"""


@pytest.fixture
def folder(toy_bank: Path) -> Path:
    """A folder with a bank and a specification that names it."""
    (toy_bank.parent / "s.toml").write_text(SPECIFICATION)
    return toy_bank.parent


def names_of(featbank: Run, results: str, *options: str) -> set[str]:
    """Configurations of a results file."""
    rows = json.loads(featbank("leaderboard", results, *options, "--format", "json").stdout)
    return {row["recipe"] for row in rows}


@pytest.mark.usefixtures("folder")
def test_a_sweep_warns_once_of_odd_smoothing(featbank: Run) -> None:
    """Reference: ε_K > ε_1 in all configurations of a recipe; one line. A grid over the edge, as
    that of the paper's figure, is meant."""
    options = ("--set", "epochs=1", "--seeds", "0,1")
    odd = ("--recipe", "mislas", "--set", "smooth_tail=0.45,0.5")
    for sweep, times in ((("smoothing-grid",), 0), (("mislas-ablation",), 0), (odd, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            featbank("sweep", "toy.h5", *sweep, *options)
        texts = [str(each.message) for each in caught]
        assert sum("range, 0 ≤ smooth_tail ≤ smooth_head ≤ 0.5" in t for t in texts) == times, texts


@pytest.mark.usefixtures("folder")
def test_a_specification_runs(featbank: Run) -> None:
    """Reference: the same sweep by options; the second time everything is there already."""
    output = featbank("sweep", "s.toml").stdout
    assert "6 configurations, 9 runs with their seeds, in 3 fused groups on cpu" in output
    assert ", chosen on val among 6 configurations, has " in output
    last = output.splitlines()[-1]
    assert last.startswith("Wrote here.sqlite. Next: featbank export here.sqlite "), last
    options = "--recipe crt --recipe tau_norm --set lr=0.1,0.2,0.4 --set epochs=2 --seeds 0,1"
    featbank("sweep", "toy.h5", *options.split(), "--set", "tau=0,0.5,1", "-o", "other.sqlite")
    assert names_of(featbank, "here.sqlite") == names_of(featbank, "other.sqlite")
    assert "9 runs were in here.sqlite already" in featbank("sweep", "s.toml").stdout


def test_a_dry_run_prints_what_it_costs(featbank: Run, folder: Path) -> None:
    """Groups, memory and time; nothing is written, and what is done already does not count."""
    output = featbank("sweep", "s.toml", "--dry-run").stdout
    assert "6 configurations, 9 runs with their seeds, in 3 fused groups on cpu" in output
    assert "class_aware, batch 222, 2 epochs of 1 step, seed 1: 3 × linear" in output
    assert re.search(r"memory: 1 MiB of features, up to 1 MiB for a fused group", output), output
    assert re.search(r"time: about \d+ s, within a factor of [23] if nothing else runs", output)
    assert not (folder / "here.sqlite").exists()
    featbank("sweep", "s.toml", "--recipe", "crt")
    output = featbank("sweep", "s.toml", "--dry-run").stdout
    assert "6 of the runs are in the results already" in output
    assert "linear" not in output.partition("already")[2]
    featbank("sweep", "s.toml")
    assert "time:" not in featbank("sweep", "s.toml", "--dry-run").stdout
    assert "time:" in featbank("sweep", "s.toml", "--dry-run", "--force").stdout


@pytest.mark.usefixtures("folder")
def test_options_override(featbank: Run) -> None:
    """Reference: the counts by hand; the file's own recipes, fewer of them, with other values."""
    output = featbank(
        "sweep", "toy.h5", "s.toml", "--recipe", "crt", "--set", "crt:lr=0.3", "--seeds", "5,6,7",
        "--precision", "bf16", "--select-on", "test", "-o", "o.sqlite",
    ).stdout  # fmt: skip
    assert "1 configuration, 3 runs with their seeds" in output
    assert "selected on test" in output
    (row, *_) = json.loads(featbank("leaderboard", "o.sqlite", "--format", "json").stdout)
    parameters = row["parameters"]
    assert (parameters["lr"], parameters["precision"], parameters["epochs"]) == (0.3, "bf16", 2)


def test_several_banks(featbank: Run, folder: Path, make_toy: Callable[..., Toy]) -> None:
    """Each has its plan and its table; the leaderboard then wants one of them."""
    make_toy((50, 20, 9)).write(folder / "b.h5")
    output = featbank("sweep", "toy.h5", "b.h5", "s.toml", "--seeds", "0").stdout
    titles = [line for line in output.splitlines() if line in ("toy.h5:", "b.h5:")]
    assert titles == ["toy.h5:", "b.h5:", "toy.h5:", "b.h5:"]
    banks = re.findall(r"bank ([0-9a-f]{12})", output)
    assert len(set(banks)) == 2
    assert "featbank leaderboard here.sqlite --bank toy --format json" in output
    for bank in banks:
        assert len(names_of(featbank, "here.sqlite", "--bank", bank)) == 6
    assert featbank("sweep", "toy.h5", "b.h5", "--recipe", "ncm", "--dry-run").stdout.count(":\n")


def test_ready_specifications(featbank: Run, toy_bank: Path) -> None:
    """They are listed with one line each, and run by their names."""
    with Bank(toy_bank) as bank:
        rng = np.random.default_rng(0)
        np.save("text.npy", rng.normal(size=(bank.num_classes, bank.dim)).astype(np.float32))
    listed = featbank("sweep", "--list").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert "baseline" in names
    featbank("amend", toy_bank, "--text", "text.npy", "-o", "with-text.h5")
    for name in names:
        trained = ["--set", "epochs=2"]
        if name in ("tau-curve", "la-reweighting"):  # nothing to train; weights from epoch 8 on
            trained = []
        output = featbank("sweep", "with-text.h5", name, *trained, "--seeds", "0").stdout
        assert "Wrote results.sqlite" in output, (name, output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a bank, or a specification. See featbank sweep --help."),
        (["gone.toml"], "gone.toml: no such file. Name a TOML file."),
        (["toy.h5", "basline"], "no ready specification. Did you mean 'baseline'?"),
        (["baseline"], "baseline names no bank. Write featbank sweep BANK baseline."),
        (["gone.h5", "s.toml"], "gone.h5: no such file"),
        (["s.toml", "baseline"], "One specification at a time, got s.toml and baseline."),
        (["s.toml", "--recipe", "lws"], "The specification has no recipe 'lws'."),
        (["s.toml", "--set", "lws:lr=1"], "--set lws:lr=1: 'lws' is not swept."),
        (["s.toml", "--set", "lr"], "--set lr is not KEY=V1,V2."),
        (["s.toml", "--set", "lrr=3"], "None of the recipes takes a setting 'lrr'."),
        (["s.toml", "--seeds", "x"], "--seeds x is not a list of integers."),
        (["toy.h5", "bad.toml"], "bad.toml:2: The 'lr' of recipe 'crt' must be a float > 0"),
        (["s.toml", "--dry-run", "-o", "s.toml"], "s.toml is not a results file"),
    ],
)
def test_bad_input_is_one_line(
    featbank: Run, folder: Path, arguments: list[str], message: str
) -> None:
    """No traceback, a remedy, and no file that was not there before."""
    (folder / "bad.toml").write_text("[recipes.crt]\nlr = -1\n")
    before = sorted(p.name for p in folder.iterdir())
    error = featbank("sweep", *arguments, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in folder.iterdir()) == before


def test_all_errors_are_listed(featbank: Run, folder: Path) -> None:
    """Each on a line of its own below the count."""
    text = SPECIFICATION.replace("lr =", "rl =").replace("tau =", "tua =").replace("= 2", "= 0")
    (folder / "s.toml").write_text(text)
    lines = featbank("sweep", "s.toml", code=2).stderr.splitlines()
    assert lines[0] == "featbank: s.toml: 3 errors."
    assert [line.split(":")[:2] for line in lines[1:]] == [
        ["  s.toml", "6"],
        ["  s.toml", "8"],
        ["  s.toml", "10"],
    ]


@pytest.mark.usefixtures("folder")
def test_halving(featbank: Run) -> None:
    """Reference: of three crt of the first seed two continue after epoch 1; only they then have
    both seeds. The table lists what was stopped last; without a search it is trained."""
    output = featbank("sweep", "s.toml", "--search", "halving", "--eta", "2", "--dry-run").stdout
    assert "one configuration in 2 continues after epochs 1, 2, 4, …" in output
    assert "2 epochs of 1 step, seed 0: 3 × linear; continuing: 2 after 1\n" in output
    assert "then the survivors, with the other seeds: 2 runs\n" in output
    assert re.search(r"time: about \d+ s, within a factor of", output)
    output = featbank("sweep", "s.toml", "--search", "halving", "--eta", "2").stdout
    assert "· 6 configurations tried, 1 stopped early by halving · seeds 0, 1 ·" in output
    rows = json.loads(featbank("leaderboard", "here.sqlite", "--format", "json").stdout)
    assert rows[-1]["status"] == "stopped"
    assert rows[-1]["seeds"] == [0]
    assert all(r["seeds"] in ([0], [0, 1]) for r in rows)
    again = featbank("sweep", "s.toml", "--search", "halving", "--eta", "2").stdout
    assert "8 runs were in here.sqlite already" in again.replace("8 of", "8")
    dry = featbank("sweep", "s.toml", "--dry-run").stdout
    assert "7 of the runs are in the results already" in dry
    assert "halving" not in featbank("sweep", "s.toml").stdout


@pytest.mark.usefixtures("folder")
def test_optuna(featbank: Run, folder: Path) -> None:
    """Reference: the trials of the search from Python have the same recipes; its dry run writes
    nothing."""
    pytest.importorskip("optuna")
    text = SPECIFICATION.replace(", n = 3", "").replace(
        "[settings]", "[search]\nmethod = 'optuna'\ntrials = 5\nbatch = 3\n[settings]"
    )
    (folder / "o.toml").write_text(text)
    output = featbank("sweep", "o.toml", "--dry-run").stdout
    assert (
        "optuna (tpe, seed 0): 5 trials in 2 batches of 3, each with 2 seeds; the first" in output
    )
    assert "1 more batch follows, in about that time" in output
    assert not (folder / "here.sqlite").exists()
    output = featbank("sweep", "o.toml").stdout
    assert "· 5 configurations tried, all chosen adaptively by Optuna · seeds 0, 1 ·" in output
    more = featbank("sweep", "o.toml", "--trials", "7").stdout
    assert "· 7 configurations tried, all chosen" in more
    choices = "--recipe crt --set lr=0.1,0.2 --set crt:epochs=1,2 --seeds 0 -o c.sqlite"
    output = featbank("sweep", "toy.h5", *choices.split(), "--search", "optuna", "--trials", "9")
    assert re.search(r"· [234] configurations tried, all chosen", output.stdout)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("s.toml --eta 2", "--eta 2: 'eta' is for the search 'halving'. Choose that, or leave it"),
        ("toy.h5 --trials 2", "--trials 2: 'trials' is for the search 'optuna'. Choose that, or"),
        ("s.toml --search halving --trials 2", "--trials 2: 'trials' is for the search 'optuna'."),
        (
            "toy.h5 --search halving --eta 1",
            "--eta 1: The 'eta' of search 'halving' must be an integer ≥ 2",
        ),
        (
            "toy.h5 --recipe crt --set lrr=1 --search optuna",
            "--set lrr=1: None of the recipes takes a setting 'lrr'. Did you mean 'lr'?",
        ),
        (
            "toy.h5 --recipe crt --set crt:lr=-1,1 --search optuna",
            "--set crt:lr=-1,1: The 'lr' of recipe 'crt' must be a float > 0, got -1.",
        ),
        ("toy.h5 --recipe crt --set seed=1,2 --search optuna", "--set seed=1,2: A search does"),
    ],
)
def test_a_wrong_search_is_one_line(featbank: Run, options: str, message: str) -> None:
    """Exit 2 and one line."""
    error = featbank("sweep", *options.split(), code=2).stderr
    assert error.startswith(f"featbank: {message}"), error
    assert error.count("\n") == 1


def test_the_page(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Reference: docs/sweeps.md: its example has 10 + 21 + 40 + 4 + 33 configurations and runs from
    Python; its table is that of the package. tests/docs runs its commands."""
    make_toy().write(tmp_path / "bank.h5")
    example, *searches = [text for kind, text in BLOCKS if kind == "toml"]
    example = example.replace("epochs = 10", "epochs = 2").replace("[4, 8]", "[0, 1]")
    (tmp_path / "sweep.toml").write_text(example)
    output = featbank("sweep", "sweep.toml", "--dry-run").stdout
    assert output.startswith("108 configurations, 280 runs "), output
    for search in searches:
        table = tomllib.loads(search)["search"]
        assert make_search(table.pop("method"), table) in (Halving(), Sampling())
    (python,) = [text for kind, text in BLOCKS if kind == "python"]
    exec(python, {})
    named = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == list(ready_specifications())


def test_a_later_bank_is_looked_at_before_the_first_is_trained(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Reference: the row and view that were made infinite; no results file is made."""
    toy = make_toy()
    toy.write(tmp_path / "first.h5")
    toy.features["test"]["balanced"][7, 3] = 1
    toy.write(tmp_path / "second.h5")
    with h5py.File(tmp_path / "second.h5", "r+") as file:
        file["val/balanced/feature"][0, 11, 2] = np.inf
    command = ["sweep", "first.h5", "second.h5", "--recipe", "mislas", "--set", "epochs=1"]
    error = featbank(*command, "-o", "r.sqlite", code=2).stderr
    assert "second.h5: val/balanced, copy 0" in error, error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "r.sqlite").exists()
    done = featbank("sweep", "second.h5", "first.h5", "--recipe", "ncm", "-o", "r.sqlite")
    next_ = "featbank leaderboard r.sqlite --bank second --format json"
    assert f"Wrote r.sqlite. Next: {next_}" in done.stdout
    featbank(*next_.split()[1:])


def test_one_is_singular(featbank: Run, toy_bank: Path) -> None:
    """Reference: grammar."""
    options = ["--recipe", "crt", "--seeds", 3, "--set", "epochs=1", "-o", "one.sqlite"]
    output = featbank("sweep", toy_bank, *options, "--dry-run").stdout
    assert "1 configuration, 1 run with its seed, in 1 fused group on cpu" in output
    assert "1 epoch of 1 step, seed 3" in output
    featbank("sweep", toy_bank, *options)
    assert "1 run was in one.sqlite already (--force trains it again)." in (
        featbank("sweep", toy_bank, *options).stdout
    )
    assert "1 of the runs is in the results" in (
        featbank("sweep", toy_bank, *options, "--seeds", "3,4", "--dry-run").stdout
    )


def test_a_precision_that_suits_the_machine(
    featbank: Run, toy_bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: bf16 only where the library multiplies it; the results say which it was."""
    command = ["sweep", toy_bank, "--recipe", "crt", "--set", "epochs=1", "--seeds", 0]
    command += ["--precision", "auto", "-o", "r.sqlite"]
    found = library()
    best = "bf16" if isinstance(found, Library) and found.bf16 else "fp32"
    assert f"Precision {best}, " in featbank(*command).stdout
    rows = json.loads(featbank("leaderboard", "r.sqlite", "--format", "json").stdout)
    assert {row["parameters"].get("precision", "fp32") for row in rows} == {best}
    monkeypatch.setenv(SWITCH, "off")
    library.cache_clear()
    told = featbank(*command, "--force").stdout
    library.cache_clear()
    assert "Precision fp32, " in told
    assert told.count(f"No compiled CPU engine ({SWITCH}=off): PyTorch trains") == 1
