"""The file: whole, small, closed to what names could inject; the command that writes it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from featbank import Bank
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.report.gathering import gather
from stage2.report.page import embedded, render, report
from stage2.results.results import Results
from stage2.results.store import Store
from tests.conftest import ROOT, Run
from tests.stage2.report.conftest import HARMFUL

MOST = 6_000_000
"""Bytes that a page may have."""


class Elements(HTMLParser):
    """Tags of a page, what stands in its scripts by id, and its addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        self.addresses += [attributes[key] or "" for key in ("src", "href") if key in attributes]
        self._open = (attributes.get("id") or "program") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data


def test_the_page_carries_data_and_plotly_and_asks_for_nothing(store: Store) -> None:
    """Reference: the gathered data, and plotly.js as its package brings it."""
    from plotly.offline import get_plotlyjs

    data = gather(Results(store))
    page = Elements(render(data))
    assert json.loads(page.scripts["data"]) == data
    unpacked = gzip.decompress(base64.b64decode(page.scripts["plotly"])).decode()
    assert unpacked == get_plotlyjs()
    assert page.tags.count("script") == 3
    assert "img" not in page.tags, "the name of a class became an element"
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    assert "default-src 'none'" in render(data)


@pytest.mark.parametrize(
    "name", [HARMFUL, "<!-- DATA -->", "<!--<script>", "a\u2028b\u2029c", '"\\', "&lt;"]
)
def test_no_name_ends_its_element(name: str) -> None:
    """Reference: the JSON reads back; none of its signs is one that HTML or JavaScript reads."""
    text = embedded({"name": name})
    assert json.loads(text) == {"name": name}
    assert not re.search("[<>&\u2028\u2029]", text), text


def test_titles_and_placeholders_stay_text(store: Store) -> None:
    """A title is escaped, and what data say is not taken for a place of the template."""
    data = {**gather(Results(store)), "title": f"{HARMFUL}<!-- PLOTLY -->"}
    page = Elements(render(data))
    assert page.tags.count("script") == 3
    assert json.loads(page.scripts["data"])["title"] == data["title"]


def test_two_thousand_configurations_fit(tmp_path: Path) -> None:
    """2,000 configurations of three seeds on a bank of 1,000 classes stay below 6 MB."""
    rng = np.random.default_rng(0)
    classes = 1000
    bank = SimpleNamespace(
        fingerprint="ab" * 32,
        path=Path("bank.h5"),
        num_classes=classes,
        dim=2048,
        class_names=[f"a class of nature number {k}" for k in range(classes)],
        train_counts=(counts := np.maximum(1, (1280 * 0.995 ** np.arange(classes)).astype(int))),
        full_counts=counts,
        cells=lambda split: None,
        source_groups=lambda split: None,
        outside_counts=None,
        background=None,
        class_fact=lambda name: None,
        seen=lambda split: np.zeros(8, bool),
        splits=("train", "test"),
        evaluated=("test",),
        views=("instance",),
        rows=lambda split: 8,
        classifier=lambda view: None,
        norm=lambda view: None,
        default_scale=lambda view: None,
        labels=lambda split: np.zeros(8, np.int64),
        index=lambda split: np.arange(8),
        source=lambda split: split,
        provenance={},
    )
    per_class = rng.uniform(0, 100, classes)
    details = {
        "reliability": rng.uniform(0, 100, (3, 15)),
        "weight_norm": rng.uniform(0, 3, classes).astype(np.float32),
        "confidence": rng.integers(0, 9999, (3, 2, 50)).astype(np.int32),
        "confusions": rng.integers(0, classes, (200, 3)).astype(np.int32),
        "shift_forward": rng.uniform(0, 100, 5),
        "shift_backward": rng.uniform(0, 100, 5),
    }
    right = np.zeros(8, dtype=bool)
    runs = []
    for place in range(2000):
        metrics = dict(zip(METRICS, rng.uniform(0, 100, len(METRICS)), strict=True))
        # only the best bring details to the page
        metrics["macro"] = 100 - place / 100
        carried = details if place < 12 else {"reliability": details["reliability"]}
        for seed in range(3):
            recipe = Recipe("crt", lr=0.01 + 0.001 * place, epochs=90, seed=seed)
            runs.append(
                {
                    "recipe": recipe,
                    "status": "done",
                    "selected_epoch": None,
                    "curves": {"loss": rng.random(90).tolist()} if place < 12 else {},
                    "seconds": 1.0,
                    "device": "cpu",
                    "versions": {},
                    "evaluations": {
                        ("test", "last"): Evaluation(
                            metrics, per_class if place < 12 else per_class[:1], right, carried
                        )
                    },
                    "traces": {"beta": rng.random((90, classes), np.float32)} if place < 12 else {},
                }
            )
    path = tmp_path / "results.sqlite"
    with Store(path, create=True) as store:
        store.add_bank(cast(Bank, bank))
        store.add_runs(bank.fingerprint, runs)
        size = report(Results(store, select_on="test"), tmp_path / "r.html")
    assert size == (tmp_path / "r.html").stat().st_size
    assert size < MOST, f"got {size / 1e6:.2f} MB"
    page = Elements((tmp_path / "r.html").read_text())
    data = json.loads(page.scripts["data"])
    assert len(data["rows"]) == 2000
    assert len(data["details"]) == 12


def test_the_command(featbank: Run, results: Path, tmp_path: Path) -> None:
    """It says what it wrote; options reach the page."""
    done = featbank(
        "report", results, "-o", "r.html", "--where", "name=crt", "--top", "3", "--title", "A sweep"
    )
    assert re.fullmatch(r"Wrote r\.html, \d\.\d MB\.\n", done.stdout)
    data = json.loads(Elements((tmp_path / "r.html").read_text()).scripts["data"])
    assert {row["name"] for row in data["rows"]} == {"crt"}
    assert len(data["details"]) == 3
    assert data["title"] == "A sweep"
    text = " ".join(featbank("report", "--help").stdout.split())
    assert "featbank report results.sqlite -o report.html" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.sqlite", "-o", "r.html"], "gone.sqlite: no such file."),
        (["text.sqlite", "-o", "r.html"], "text.sqlite is not a results file"),
        (["RESULTS", "-o", "r.pdf"], "r.pdf does not end in .html. Name the page like"),
        (["RESULTS", "-o", "no/r.html"], "no is not a folder. Create it first."),
        (["RESULTS", "-o", "folder.html"], "folder.html is a folder. Choose another name."),
        (["RESULTS", "-o", "r.html", "--bank", "zz"], "zz matches 0 banks."),
        (["RESULTS", "-o", "r.html", "--where", "lr<"], "ends where a value is expected"),
        (["RESULTS", "-o", "r.html", "--where", "lr<0"], "None of 21 configurations meets"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, results: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, a remedy, and no file that was not there before."""
    (tmp_path / "text.sqlite").write_text("not a database, though long enough to be read as one")
    (tmp_path / "folder.html").mkdir()
    words = [str(results) if argument == "RESULTS" else argument for argument in arguments]
    before = sorted(p.name for p in tmp_path.iterdir())
    error = featbank("report", *words, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_only_the_page_knows_plotly() -> None:
    """Reference: the import statements; ``featbank --help`` does not wait for it."""
    knowing = [
        file.relative_to(ROOT).as_posix()
        for package in ("featbank", "stage1", "stage2")
        for file in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(from|import) plotly", file.read_text(), re.MULTILINE)
    ]
    assert knowing == ["stage2/report/page.py"]
    assert not re.search(r"^(from|import) plotly", (ROOT / knowing[0]).read_text(), re.MULTILINE)
