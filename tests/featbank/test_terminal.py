"""What reaches a terminal: escapes visible, closed pipes quiet, signals in one line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from featbank import errors
from featbank.characters import in_csv, in_latex, in_markdown, visible
from featbank.cli import main
from stage2.results.tables import Table
from tests.conftest import Run, Toy

FEATBANK = str(Path(sys.executable).with_name("featbank"))
NAMES = [
    "gnu\x1b]0;owned\x07",
    "ox\r\nROOT: done",
    "\u202eyak|`id`",
    "-2+3*cmd",
    "\x9b31m<b>&<img src=x>",
]


def obeyed(text: str) -> list[str]:
    """Characters that a terminal would obey, but for line ends."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\u200c\u200d"]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, in which ``featbank`` is the installed command."""
    return subprocess.run(
        ["bash", "-c", f'featbank() {{ "{FEATBANK}" "$@"; }}; {line}'],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def hostile(featbank: Run, make_toy: Callable[..., Toy]) -> str:
    """Results on a bank of classes with such names."""
    make_toy().write(Path("b.h5"), class_names=NAMES)
    featbank("sweep", "b.h5", "--recipe", "ncm", "--recipe", "tau_norm", "-o", "r.sqlite")
    return "r.sqlite"


def test_names_are_shown_and_never_obeyed(featbank: Run, hostile: str) -> None:
    """Every command that prints names, in every format; names stay distinct."""
    for form in ("table", "json", "csv", "md", "latex"):
        text = featbank("compare", hostile, "ncm", "tau_norm", "--format", form).stdout
        assert not obeyed(text), (form, obeyed(text))
        assert "ROOT: done" not in text.splitlines(), form
    table = featbank("compare", hostile, "ncm", "tau_norm").stdout
    assert r"gnu\x1b]0;owned\x07" in table
    for command in (("info", "b.h5"), ("info", "b.h5", "--json"), ("leaderboard", hostile)):
        assert not obeyed(featbank(*command).stdout), command
    path = Path("evil\x1b[2J\nfeatbank: all is well.h5")
    path.write_bytes(Path("b.h5").read_bytes()[:100])
    for command in (("info", path), ("sweep", path), ("leaderboard", path), ("embed", path)):
        output = featbank(*command, *(("-o", "e.csv") if "embed" in command else ()), code=2).stderr
        assert output.count("\n") == 1, output
        assert not obeyed(output), output
    output = featbank("embed", "b.h5", "-o", "\x1b[31mred\u2066.csv", "--per-class", 9).stdout
    assert output == "Wrote \\x1b[31mred\\u2066.csv.\n"


def test_csv_files_run_nothing(featbank: Run, hostile: str) -> None:
    """Reference: what a CSV reader makes of predictions and embeddings."""
    featbank("export", hostile, "ncm", "-o", "h.safetensors")
    featbank("predict", "h.safetensors", "b.h5", "-o", "p.csv")
    featbank("embed", "b.h5", "-o", "e.csv", "--per-class", 9)
    for path in ("p.csv", "e.csv"):
        text = Path(path).read_text()
        cells = {cell for row in csv.reader(io.StringIO(text)) for cell in row}
        assert "'-2+3*cmd" in cells
        assert not obeyed(text), path
        numbers = {cell for cell in cells if in_csv(cell) == cell and cell[:1] in "=+-@"}
        assert all(cell == "" or float(cell) < 0 for cell in numbers), numbers


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("@SUM(1)", "'@SUM(1)"),
        ("+49 30", "'+49 30"),
        ("\tx", "'\\tx"),
        ("\r=1", "'\\r=1"),
        ("＝1+1", "'＝1+1"),
        ("-1e-5", "-1e-5"),
        ("+.5", "+.5"),
        ("-", "'-"),
        ("a=b", "a=b"),
        (-3, -3),
        (None, None),
    ],
)
def test_what_a_spreadsheet_would_run(text: object, shown: object) -> None:
    """Reference: OWASP's list of first characters; numbers are none."""
    assert in_csv(text) == shown


def test_markdown_and_latex_show_names_as_they_are() -> None:
    """Cells stay in their column, HTML and TeX are text, and usual tables are as they were."""
    cells = ["x\\|y", "<script>alert(1)</script>", "n < 20, a_b, [1, 2]"]
    text = Table("", ["a|b"], [[cell] for cell in cells]).markdown()
    assert text.splitlines() == [
        r"| a\|b |", "| --- |", r"| x\\\|y |", r"| \<script>alert(1)\</script> |",
        "| n < 20, a_b, [1, 2] |",
    ]  # fmt: skip
    assert in_markdown("[a](javascript:1)`c`\n| d") == r"[a]\(javascript:1)\`c\`\\n\| d"
    assert in_latex("\\input{/etc/x}^^M%\n") == (
        r"\textbackslash{}input\{/etc/x\}\textasciicircum{}\textasciicircum{}M\%"
        r"\textbackslash{}n"
    )
    body = Table("", ["c"], [["[2cm]x"], ["*"]]).latex().splitlines()
    assert [line for line in body if line.startswith("{}")] == [r"{}[2cm]x \\", r"{}* \\"]


def test_what_is_visible() -> None:
    """Every control is an escape; letters of any script, signs and emoji are themselves."""
    for code in (*range(32), *range(127, 160), 0x61C, 0x2028, 0x202E, 0x2069, 0xFEFF, 0xD800):
        assert visible(chr(code)).startswith("\\"), hex(code)
    for text in ("naïve", "猫", "می\u200cخواهم", "👩\u200d🔬", "≤ … ±", "a\u00a0b", "\\x1b"):
        assert visible(text) == text


def test_pipes_files_and_encodings(tmp_path: Path) -> None:
    """A closed pipe is quiet, a full or closed stdout is one line, and signs are replaced."""
    for command in ("featbank methods", "featbank sweep --help"):
        done = shell(f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert done.stderr == b"", done
        assert done.stdout.count(b"\n") == 1, done
    done = shell("featbank datasets > /dev/full", tmp_path)
    output = done.stderr.decode()
    assert done.returncode == 1
    assert output.count("\n") == 1
    assert "featbank: the work failed: /dev/full could not be written (No space left" in output
    done = shell("featbank --help >&-", tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done
    assert b"stdout is closed" in done.stderr
    assert shell("featbank --help 2>&-", tmp_path).returncode == 0
    done = shell("featbank --help", tmp_path, PYTHONIOENCODING="ascii")
    assert "train -> extract (or import) -> sweep" in done.stdout.decode("ascii"), done
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell("featbank info 'no≤.h5'", tmp_path, **bare)
    assert done.returncode == 2, done
    assert done.stderr.decode("ascii").count("\n") == 1


def test_a_terminal_gets_styles_and_no_names_that_act(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pseudo-terminal rich writes escape sequences of its own; names none."""
    outer, inner = pty.openpty()
    read = bytearray()
    reader = threading.Thread(target=_read_all, args=(outer, read))
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with monkeypatch.context() as terminal, os.fdopen(inner, "w", encoding="utf-8") as stdout:
        terminal.setattr(sys, "stdout", stdout)
        main.main(["compare", hostile, "ncm", "tau_norm"], standalone_mode=False)
    reader.join()
    os.close(outer)
    assert b"\x1b[1m" in read
    assert b"\x1b]0;owned" not in read
    assert "\x9b31m".encode() not in read
    assert rb"\x1b]0;owned\x07" in read


def _read_all(descriptor: int, read: bytearray) -> None:
    with contextlib.suppress(OSError):  # how a pseudo-terminal ends
        while data := os.read(descriptor, 1 << 16):
            read.extend(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0, 0.3])
def test_a_signal_during_the_imports_is_one_line(
    number: signal.Signals, seconds: float, tmp_path: Path
) -> None:
    """click, then PyTorch are on their way in, once the command has its handlers."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    try:
        process = subprocess.Popen(
            [FEATBANK, "benchmark"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    while not _catches(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(number)
    shown, output = process.communicate(timeout=300)
    assert (shown, output, process.returncode) == (b"", b"featbank: stopped.\n", 1)


def _catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> number - 1 & 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(), "OSError"),
        (OSError("\n"), "OSError"),
        (MemoryError(), "out of memory. Free some, or give a smaller --memory where the command"),
        (PermissionError(13, "Permission denied", "a\nb"), "Permission denied: 'a\\nb'"),
        (OSError("first\x1b[2J\n  second"), r"first\x1b[2J second"),
    ],
)
def test_work_that_failed_says_how(
    error: Exception, message: str, featbank: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`the work failed:` is followed by something, on the same line."""

    def failing(wanted: Sequence[str]) -> str:
        raise error

    monkeypatch.setattr("stage2.results.cite.cite", failing)
    shown = featbank("cite", "crt", code=1).stderr
    assert shown.startswith("featbank: the work failed: "), shown
    assert message in shown, shown
    assert shown.count("\n") == 1, shown


def test_several_errors_are_a_line_each(featbank: Run, make_toy: Callable[..., Toy]) -> None:
    """Also where one of them quotes a name with line ends."""
    make_toy().write(Path("b.h5"))
    Path("s.toml").write_text('"a\\nfeatbank: fine" = 1\n[recipes."x\\u001b[2J"]\n')
    lines = featbank("sweep", "b.h5", "s.toml", code=2).stderr.splitlines()
    assert lines[0] == "featbank: s.toml: 2 errors."
    assert [line[:10] for line in lines[1:]] == ["  s.toml:1", "  s.toml:2"], lines
    assert not obeyed("".join(lines))
    problems = errors.SeveralErrors("title", ["one", "two"])
    assert str(problems) == "title\n  one\n  two"
    assert json.dumps(problems.lines) == '["title", "one", "two"]'
