"""Banks from URLs: a copy by fingerprint, made once, whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from featbank import Bank, errors
from featbank.delivery import address_of, copy_of, fetched, is_url
from tests.conftest import Run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of copies."""
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_places() -> None:
    """Reference: by hand."""
    assert is_url("s3://bucket/bank.h5")
    assert is_url("gs://bucket/bank.h5")
    assert not is_url("bank.h5")
    assert not is_url("C:\\banks\\bank.h5")


def test_a_url_is_fetched_once(toy_bank: Path, cache: Path) -> None:
    """Reference: the file's bytes; a copy remembers its URL, and follows a bank that changes."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/toy.h5", toy_bank.read_bytes())
    url = "memory://bucket/toy.h5"
    copy = fetched(url)
    with Bank(toy_bank) as bank:
        assert copy == cache / bank.fingerprint / "toy.h5"
    assert copy.read_bytes() == toy_bank.read_bytes()
    assert address_of(copy) == url
    assert address_of(toy_bank) is None
    stamp = copy.stat().st_mtime_ns
    assert fetched(url).stat().st_mtime_ns == stamp
    files.pipe("/bucket/toy.h5", b"something else")
    with pytest.raises(errors.NotABank, match="is not a bank"):
        fetched(url)
    with pytest.raises(errors.NotABank, match="does not exist"):
        fetched("memory://bucket/absent.h5")


def test_a_copy_appears_whole_or_not_at_all(toy_bank: Path, cache: Path) -> None:
    """Reference: Mismatch for another bank, the error of what writes; nothing stays of either."""

    def broken(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        copy_of("a" * 64, "toy.h5", broken)
    with pytest.raises(errors.Mismatch, match="toy.h5 is another bank by now"):
        copy_of("a" * 64, "toy.h5", lambda part: part.write_bytes(toy_bank.read_bytes()) and None)
    assert [each.name for each in (cache / ("a" * 64)).iterdir()] == [".lock"]


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: ConfigError with the command that installs fsspec, or what fsspec says."""
    pytest.importorskip("fsspec")
    with pytest.raises(errors.ConfigError, match="unknown://x cannot be read"):
        fetched("unknown://x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'featbank\[remote\]'"):
        fetched("s3://bucket/bank.h5")


def test_a_sweep_of_a_url(featbank: Run, toy_bank: Path) -> None:
    """Reference: the sweep of the file; the table names the bank as the file."""
    pytest.importorskip("fsspec")
    done = featbank("sweep", f"file://{toy_bank}", "--recipe", "ncm", "-o", "r.sqlite")
    expected = featbank("sweep", toy_bank, "--recipe", "ncm", "-o", "s.sqlite")
    assert _table(done.stdout) == _table(expected.stdout)


def _table(text: str) -> str:
    """What a sweep prints after its progress."""
    return text.partition("per second")[2].replace("r.sqlite", "s.sqlite")
