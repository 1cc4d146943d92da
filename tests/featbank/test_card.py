"""``featbank export --card``: an exported head in Markdown, with the figures of the results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stage2.results.store import Store
from tests.conftest import Run, Toy

NAMES = ["ape", "<script>", "cat|tac", "dog\n# Title", "eel"]


@pytest.fixture
def swept(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """Results of crt, of which two seeds, and of k-NN, on classes with names that are Markdown."""
    make_toy().write(tmp_path / "bank.h5", class_names=NAMES)
    featbank(
        "sweep", "bank.h5", "--recipe", "crt", "--recipe", "knn", "--seeds", "4,5",
        "--set", "epochs=3", "--set", "calibration=temperature",
    )  # fmt: skip
    return tmp_path


def card_of(featbank: Run, name: str, *options: str) -> str:
    featbank(
        "export", "results.sqlite", name, "-o", "h.safetensors", "--card", "h.md", *options
    )  # fmt: skip
    return Path("h.md").read_text()


def table(card: str, section: str) -> dict[str, list[str]]:
    """The lines of the table of a section, by their first cell."""
    body = card.split(f"## {section}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines}


def test_figures_are_those_of_the_results(featbank: Run, swept: Path) -> None:
    """Reference: JSON of the leaderboard for means over seeds, the store for the head exported; the
    intervals those of a normal distribution with the variance of a mean of class means."""
    card = card_of(featbank, "crt")
    with Store("results.sqlite") as store:
        (fingerprint,) = store.banks()
        run = next(r for r in store.runs(fingerprint) if r.name == "crt" and r.seed == 4)
        labels = store.labels(fingerprint, "test")
        right = store.correct(fingerprint, run.recipe, "test", "selected")
    assert card.startswith(f"# {run.id}\n")
    metrics = run.metrics["test", "selected"]
    columns, cells = table(card, "Accuracy")["split"], table(card, "Accuracy")["test"]
    for column, cell in zip(columns, cells, strict=True):
        name = "top1" if column == "top-1" else column
        assert cell.startswith(f"{metrics[name]:.1f} ("), column
    assert labels is not None
    p = np.array([right[labels == k].mean() for k in range(5)])
    deviation = 100 * np.sqrt((p * (1 - p) / (np.bincount(labels) - 1)).sum()) / 5
    low, high = map(float, re.findall(r"\((.*)–(.*)\)", cells[columns.index("macro")])[0])
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, abs=0.6)
    assert table(card, "Calibration")["test"][0] == f"{metrics['ece']:.1f}"
    shown = featbank("leaderboard", "results.sqlite", "--format", "json").stdout
    row = next(r for r in json.loads(shown) if r["recipe"] == run.id and r["epoch"] == "selected")
    assert f"top-1 {row['top1']:.1f} ± {row['top1_std']:.1f}, macro" in card
    assert f"fingerprint `{fingerprint}`" in card


def test_what_a_card_says(featbank: Run, swept: Path) -> None:
    """Recipe with its sources, views, prior, protocol and limits; nothing of a name is Markdown."""
    card = card_of(featbank, "knn", "--prior", "5,3,2,1,1")
    for text in (
        "Settings that differ from the preset: calibration=temperature",
        "features [N, D = 8] of view instance, as the bank stores them",
        "Guo et al. 2017, On Calibration of Modern Neural Networks (calibration temperature)",
        "largest 'ape' 42 %, smallest 'dog\\\\n# Title' 8.3 %",
        "- 2 configurations tried",
        "Figures are those before it was moved to the prior 5,3,2,1,1.",
        "The file holds the training features",
    ):
        assert text in card, text
    assert card.count("\n# ") == 0
    assert "<script>" not in card.replace("\\<script>", "")


def test_cards_of_ensembles_and_wrong_names(featbank: Run, swept: Path) -> None:
    """An ensemble has the figures of its run; a card is .md, in a folder that is there."""
    featbank("sweep", "bank.h5", "--recipe", "crt", "--set", "lr=0.05,0.2", "--set", "epochs=3")
    featbank("ensemble", "results.sqlite")
    card = card_of(featbank, "ensemble")
    assert "Each member is divided by a temperature fitted on val." in card
    export = ("export", "results.sqlite", "knn", "-o", "h.safetensors", "--card")
    assert "Call it h.md." in featbank(*export, "h.txt", code=2).stderr
    assert "no is not a folder." in featbank(*export, "no/h.md", code=2).stderr
