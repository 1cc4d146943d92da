"""Astronomic numbers, depths and lengths: one line and exit 2 within seconds, or linear work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.cli.options import parse_bytes
from featbank.settings import LARGEST, Setting, shortened
from stage2.methods.recipe import MOST_RUNS, Recipe, expand
from tests.conftest import Run, Toy

SECONDS = 20
"""Of a processor, whatever else the machine does."""
"""Of a command in this process, imports of a busy machine among them."""

DIGITS = "7" * 4999


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bank, its results and a head are."""
    return tmp_path_factory.mktemp("bounds")


@pytest.fixture
def refused(
    featbank: Run, folder: Path, make_toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Runs a command that must end in one line, exit code 2 and in time; gives the line."""
    monkeypatch.chdir(folder)
    if not Path("r.sqlite").exists():
        make_toy().write(folder / "b.h5")
        featbank("sweep", "b.h5", "--recipe", "ncm", "--recipe", "tau_norm", "-o", "r.sqlite")
        featbank("export", "r.sqlite", "ncm", "-o", "h.safetensors")
    before = sorted(os.listdir())

    def run(*arguments: object) -> str:
        begun = time.process_time()
        told = featbank(*arguments, code=2).stderr
        assert time.process_time() - begun < SECONDS, arguments
        assert told.strip(), arguments
        assert told.count("\n") == 1, told
        assert len(told) < 3000, len(told)
        return told

    yield run
    after = [n for n in sorted(os.listdir()) if not n.startswith("r.sqlite")]
    assert after == [n for n in before if not n.startswith("r.sqlite")]


def test_numbers_of_a_sweep(refused: Callable[..., str]) -> None:
    """Settings, seeds, sizes and counts; each line says the bound or the form."""
    sweep = ("sweep", "b.h5", "--recipe", "lws", "--dry-run", "-o", "no.sqlite")
    for text, told in (
        ("epochs=3000000000000", "must be an integer ≥ 1 and ≤ 1e+09, got 3000000000000."),
        (f"warmup={DIGITS}", "must be an integer ≥ 0"),
        ("batch_size=-0", "must be an integer ≥ 1"),
        ("steps_per_epoch=900000000", "epochs of 900,000,000 steps, at most 20,000,000"),
        ("epochs=99999999", "at most 20,000,000 steps are trained. Lower epochs"),
        ("lr=1e39", "must be a float > 0 and ≤ 3.4e+38, got 1e+39."),
        ("lr=٠.١", "must be a float > 0"),
        ("weight_decay=-nan", "must be a float ≥ 0, got nan."),
        ("lr=" + "[" * 50_000, "must be a float > 0, got '[[["),
        (f"per_class={10**7}", "≤ 100000"),
    ):
        assert told in refused(*sweep, "--set", text), text
    for option, value, told in (
        ("--memory", "0", "is not between 1 byte and 1 EiB. Write --memory 2GiB"),
        ("--memory", "0.3", "is not between 1 byte"),
        ("--memory", "2" + "0" * 200 + "TiB", "is not between 1 byte"),
        ("--memory", DIGITS + "kB", "is not between 1 byte"),
        ("--memory", "", "is not a size"),
        ("--memory", "१GiB", "is not a size"),
        ("--seeds", ",".join(map(str, range(150_000))), "150,000 runs, at most 100,000"),
        ("--seeds", DIGITS, "is not a list of integers. Write --seeds 0,1,2 or 0-2."),
        ("--seeds", "0,,1", "is not a list of integers"),
        ("--seeds", "", "is not a list of integers"),
        ("--top", DIGITS, "--top"),
    ):  # fmt: skip
        assert told in refused(*sweep, option, value), (option, value[:20])
    optuna = (*sweep, "--search", "optuna", "--trials")
    assert "≤ 100000, got 5000000000." in refused(*optuna, 5 * 10**9)


def test_grids_are_counted_before_they_are_made(refused: Callable[..., str]) -> None:
    """Reference: the product of their sizes, also where it has more digits than Python prints."""
    thousand = ",".join(f"{i}e-5" for i in range(1, 1001))
    grid = [f"--set={key}={thousand}" for key in ("lr", "weight_decay", "momentum")]
    told = refused("sweep", "b.h5", "--recipe", "crt", *grid, "--seeds", "5", "--dry-run")
    assert "The sweep has 1,000,000,000 runs" in told
    assert "draw random values, or sweep in parts" in told
    many = ",".join(f"{i}e-9" for i in range(1, 250_001))
    assert "750,000 runs" in refused("sweep", "b.h5", "--recipe", "crt", "--set", f"lr={many}")
    with pytest.raises(errors.ConfigError, match="about 1e6002 runs"):
        expand({"crt": {f"a{i}": range(1000) for i in range(2000)}}, seeds=range(100))
    with pytest.raises(errors.ConfigError, match=f"at most {MOST_RUNS:,}"):
        expand({"crt": {}, "lws": {}}, seeds=range(MOST_RUNS // 2 + 1))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[recipes.crt]]\nlr = 0.1\n" * 40_000, "The sweep has 120,000 runs"),
        ("x = " + "{a = " * 9_000 + "1" + "}" * 9_000, "nested too deeply"),
        ("[" + "q." * 30_000 + "q]\nx = 1", "nested too deeply"),
        ("settings." + "'a' . " * 5_000 + "b = 1", "nested too deeply"),
        ("[recipes.crt]\nlr = " + "[" * 90 + "]" * 90, "nested too deeply"),
        ("seeds = " + DIGITS, "integer of more than 64 bits"),
        ("seeds = 1e400\nrecipes = ['crt']", "must be an integer ≥ 0"),
        ("#" * 1_000_001, "has 1,000,001 bytes, at most 1,000,000"),
        ("[recipes.crt]\nepochs = 9000000000000000000", "≤ 1e+09"),
        ("recipes = ['crt']\n[search]\nmethod = 'optuna'\nbatch = 4000000", "≤ 100000"),
        ("recipes = ['" + "r" * 300_000 + "']", "Unknown recipe 'rrr"),
    ],
    ids=lambda value: value[:24],
)
def test_specifications(text: str, told: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """Deep, long and astronomic TOML."""
    (tmp_path / "s.toml").write_text(text)
    assert told in refused("sweep", "b.h5", tmp_path / "s.toml", "--dry-run")


def test_a_file_that_is_wrong_everywhere_lists_twenty(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """And says that there are more."""
    make_toy().write(Path("b.h5"))
    (tmp_path / "s.toml").write_text("".join(f"w{i} = {i}\n" for i in range(3_000)))
    lines = featbank("sweep", "b.h5", "s.toml", code=2).stderr.splitlines()
    assert len(lines) == 21
    assert "more than 20 errors" in lines[0]
    assert "s.toml:20:" in lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "r.sqlite", "--resamples", 10**13),
        ("embed", "b.h5", "-o", "e.png", "--seed", 2**40),
        ("embed", "b.h5", "-o", "e.png", "--perplexity", "inf"),
        ("embed", "b.h5", "-o", "e.png", "--classes", f"few:{DIGITS}"),
        ("embed", "b.h5", "-o", "e.png", "--classes", DIGITS),
        ("embed", "b.h5", "-o", "e.png", "--width", "nan"),
        ("plot", "groups", "r.sqlite", "-o", "p.pdf", "--width", "NaN"),
        ("split", "b.h5", "-o", "shards", "--shards", 10**15),
        ("benchmark", "--configurations", f"1,{10**17}"),
        ("leaderboard", "r.sqlite", "--where", "(" * 30_000 + "tau>1" + ")" * 30_000),
        ("leaderboard", "r.sqlite", "--where", "not " * 30_000 + "tau>1"),
        ("leaderboard", "r.sqlite", "--where", f"tau>{DIGITS}"),
        ("leaderboard", "r.sqlite", "--best-per", "s" * 90_000),
        ("info", "n" * 90_000),
        ("merge", "m\0.h5", "-o", "x.h5"),
        ("report", "r.sqlite", "-o", "p\0.html"),
        ("methods", "m" * 90_000),
    ],
    ids=lambda value: " ".join(map(str, value))[:40].replace("\0", "0"),
)
def test_options_of_other_commands(
    arguments: tuple[object, ...], refused: Callable[..., str]
) -> None:
    """Each ends before its work begins."""
    refused(*arguments)


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("'<f4'", "(-3, 8)"),
        ("'<f4'", "(-3, -8)"),
        ("'<f4'", "((3, 8), 8)"),
        ("'<f4'", "(3.0, 8)"),
        ("'<f4'", f"({'9' * 30}, 8)"),
        ("'<f4'", "(2305843009213693952, 8)"),
        ("'<f4'", "(" * 4_000 + ")" * 4_000),
        ("'|O'", "(3, 8)"),
        ("'<f4, <f4'", "(3, 8)"),
        ("[[[]]]", "(3, 8)"),
        ("'<c8'", "(3, 8)"),
        ("'<f987654321'", "(3, 8)"),
    ],
)
def test_arrays_that_lie(
    kind: str, shape: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    """Headers of `.npy` with shapes and types that are none."""
    header = (HEADER % (kind, shape)).encode()
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 96)
    told = refused("predict", "h.safetensors", path, "-o", "p.npz")
    assert "Give a bank, or features [N, D] as .npy." in told or "Give features [N, D]" in told


def test_predictions_that_overflow_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    """Doubles that no float32 holds: the row is named, and nothing of NumPy stands beside."""
    np.save(tmp_path / "x.npy", np.full((2, 8), 1e200))
    told = refused("predict", "h.safetensors", tmp_path / "x.npy", "-o", "p.csv")
    assert "Row 0 of the features" in told


def test_wide_and_long_tables(featbank: Run, tmp_path: Path) -> None:
    """100,000 columns are read in a second or two; one long cell is refused with its row."""
    columns = 120_000
    values = ",".join(["0.5"] * columns)
    (tmp_path / "wide.csv").write_text(
        "label," + ",".join(f"f{i}" for i in range(columns)) + f"\n1,{values}\n0,{values}\n"
    )
    names = ",".join(f"c{i}c" for i in range(columns))
    (tmp_path / "spare.csv").write_text(f"label,f_0,f_1,{names}\n1,2,3,{values}\n0,1,2,{values}\n")
    for name in ("wide.csv", "spare.csv"):
        begun = time.process_time()
        told = featbank("import", name, "--dry-run").stdout
        assert time.process_time() - begun < SECONDS, name
        assert len(told) < 5_000
    cells = "pike,1,2\n" * 5_000 + "p" * 700_000 + ",1,2\n"
    (tmp_path / "long.csv").write_text("label,f_0,f_1\n" + cells)
    told = featbank("import", "long.csv", "--dry-run", code=2).stderr
    assert "the text in row 5000 has 700,000 characters, at most 4,096" in told


def test_parquet_of_dictionaries(featbank: Run, tmp_path: Path) -> None:
    """Coded columns are what they stand for; a long word of a dictionary is refused undecoded."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = 3_000
    words = pa.array([f"k{i % 4}" for i in range(rows)])
    x = {f"f_{i}": pa.array(np.arange(rows) % (i + 2) * 1.0) for i in range(3)}
    plain = {"label": words, **x}
    coded = {name: column.dictionary_encode() for name, column in plain.items()}
    for name, columns in (("plain", plain), ("coded", coded)):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        featbank("import", f"{name}.parquet", "-o", f"{name}.h5")
    with Bank(tmp_path / "plain.h5") as plain_bank, Bank(tmp_path / "coded.h5") as coded_bank:
        assert plain_bank.fingerprint == coded_bank.fingerprint
    indices = pa.array(np.arange(rows, dtype=np.int32) % 2)
    words = pa.DictionaryArray.from_arrays(indices, pa.array(["a", "w" * 2_000_000]))
    bomb = pa.table({"label": words, **x})
    parquet.write_table(bomb, tmp_path / "bomb.parquet", write_statistics=False)
    told = featbank("import", "bomb.parquet", "--dry-run", code=2).stderr
    assert "the text in row 1 has 2,000,000 characters" in told
    wide = {f"f_{i}": pa.array([0.5, 1.5]) for i in range(6_000)}
    parquet.write_table(pa.table({"label": [0, 1], **wide}), tmp_path / "wide.parquet")
    begun = time.process_time()
    featbank("import", "wide.parquet", "--dry-run")
    assert time.process_time() - begun < SECONDS


def test_settings_from_python() -> None:
    """Numbers that no text could write: of thousands of digits, and NumPy's."""
    setting = Setting("k", 3, "how many", low=1)
    assert setting.check(np.int64(7), "a test") == 7
    assert setting.check(LARGEST[int], "a test") == 10**9
    for value in (10**6000, -(10**6000), 10**9 + 1, np.float64("inf")):
        assert "'k' of a test must be an integer ≥ 1" in str(setting.problem(value, "a test"))
    with pytest.raises(errors.ConfigError, match="an integer of more than 80 digits"):
        Recipe("crt", epochs=10**6000)
    assert Setting("x", 1.0, "a number").check(3.3e38, "a test") == 3.3e38
    assert shortened("y" * 200) == "'" + "y" * 78 + "…"


def test_sizes() -> None:
    """Reference: powers of 1000 and 1024; none where it is not given."""
    assert parse_bytes(None) is None
    assert parse_bytes(" 1.5 KiB ") == 1536
    assert parse_bytes("3mb") == 3_000_000
    assert parse_bytes("1") == 1
    with pytest.raises(errors.ConfigError, match="1 EiB"):
        parse_bytes("1200000TB")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("leaderboard", "r.sqlite", "--top", "२"), "'२' is not a valid integer."),
        (("leaderboard", "r.sqlite", "--top", "1_2"), "'1_2' is not a valid integer."),
        (("report", "r.sqlite", "-o", "r.html", "--top", "8" * 900), "80 digits is not in the"),
        (("leaderboard", "r.sqlite", "--top", "7" * 90), "80 digits is too large"),
        (("sweep", "b.h5", "--search", "halving", "--eta", "x" * 9000), "'xxx"),
        (("sweep", "b.h5", "--search", "halving", "--eta", "6" * 3000), "80 digits is too large"),
        (("train", "digits-lt", "-o", "t", "--epochs", "５"), "'５' is not a valid integer."),
        (("train", "digits-lt", "-o", "t", "--epochs", "4" * 4000), "80 digits is too large"),
        (("train", "digits-lt", "-o", "t", "--lr", "٠.٥"), "is not a finite number"),
        (("embed", "b.h5", "-o", "e.png", "--perplexity", "1_0"), "'1_0' is not a finite number."),
        (("export", "r.sqlite", "ncm", "-o", "n.safetensors", "--seed", "0x1"), "'0x1' is not"),
        (("leaderboard", "r.sqlite", "--where", "macro>1_0"), "with a number, got '1_0'."),
        (("leaderboard", "r.sqlite", "--where", "tau<२"), "with a number, got '२'."),
        (("leaderboard", "r.sqlite", "--where", "macro<1e999"), "with a number, got '1e999'."),
        (("leaderboard", "r.sqlite", "--where", f"macro<{DIGITS}"), "with a number, got '777"),
        (("leaderboard", "r.sqlite", "--where", "macro!=-inf"), "with a number, got '-inf'."),
        (("leaderboard", "r.sqlite", "--where", "not" + "(" * 300), "condition 'not((((("),
        (("leaderboard", "r.sqlite", "--sort", "s" * 90_000), "No metric is called 'sss"),
        (("leaderboard", "r.sqlite", "--bank", "b" * 90_000), "matches 0 banks"),
        (("sweep", "b.h5", "--recipe", "ncm", "--device", "d" * 9000), "there is no such device"),
        (("sweep", "b.h5", "--recipe", "ncm", "--device", "xla"), "featbank computes on cpu and"),
        (("sweep", "b.h5", "--recipe", "crt", "--seeds", "4294967296"), "≤ 4294967295, got 42949"),
        (("sweep", "b.h5", "--recipe", "crt", "--seeds", "9" * 30), "≤ 4294967295, got 9"),
        (("sweep", "b.h5", "--recipe", "lws", "--set", f"epochs={DIGITS}"), "≥ 1 and ≤ 1e+09"),
        (("sweep", "b.h5", "--recipe", "lws", "--set", f"lr={DIGITS}"), "a float > 0, got inf"),
        (("sweep", "b.h5", "--recipe", "crt", "--memory", "3KB"), "budget is 2.93 KiB, half"),
        (("embed", "b.h5", "-o", "e.svg", "--classes", "0,4", "--per-class", 1), "Raise --per-cl"),
        (("embed", "b.h5", "-o", ""), "the name is empty. Name a file. See"),
        (("plot", "groups", "", "-o", "p.svg"), "the name is empty."),
        (("sweep", ""), "The name of a bank is empty."),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_is_wrong_is_said_briefly(
    arguments: tuple[object, ...], told: str, refused: Callable[..., str]
) -> None:
    """Reference: the rule of ``--set``, ASCII digits; a value is repeated as far as one reads."""
    line = refused(*arguments)
    assert told in line, line
    assert len(line) < 700, line


@pytest.mark.parametrize("command", ["embed", "train", "sweep", "extract", "benchmark"])
def test_help_shows_no_bound_where_there_is_none(featbank: Run, command: str) -> None:
    """Reference: the words of the types, none of them with None."""
    told = featbank(command, "--help").stdout
    assert "None]" not in told
