"""The notebook of the docs runs from its first cell to its last, and the site shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

import stage2
from featbank import Bank
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
try:
    import notebooks
finally:
    sys.path.pop(0)

NOTEBOOK = ROOT / "docs" / "python.ipynb"


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the file of results that it leaves, and scikit-learn's accuracy of its head."""
    monkeypatch.chdir(tmp_path)
    cells = list(notebooks.run(NOTEBOOK))
    texts = [notebooks.shown(cell) for cell in cells]
    bank, swept, table, figure, head = (text for text in texts if text.startswith("```python"))
    assert "10 classes, 64 features" in bank
    assert "<table>" in swept
    board = stage2.Results("digits.sqlite").board
    assert all(row["name"] in table for row in board.rows)
    assert '<img alt="the plot of the cell" src="data:image/png;base64,' in figure
    row = board.first_rows()[0]
    assert f"{row['recipe']}: top-1 {row['top1']:.1f} % on test" in head
    with Bank("digits.h5") as opened:
        x, y = opened.read("test", "instance", 0, opened.rows("test")), opened.labels("test")
    loaded = stage2.load_head("head.safetensors")
    predicted = loaded(torch.from_numpy(x)).argmax(1).numpy()
    assert 100 * balanced_accuracy_score(y, predicted) == pytest.approx(row["macro"])


def test_the_file_is_a_notebook_without_outputs() -> None:
    """Reference: version 4.5 of Jupyter's format, whose cells have ids; outputs are made anew."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert all(cell["outputs"] == [] for cell in content["cells"] if cell["cell_type"] == "code")


def test_what_a_cell_shows(tmp_path: Path) -> None:
    """Printed text, the value of a last expression, and an error that names the cell."""
    sources = ["a = 2\nprint(a)\na + 1", "b = a", "1 / 0"]
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    running = notebooks.run(file)
    assert notebooks.shown(next(running)).endswith("```text\n2\n```\n\n```text\n3\n```")
    assert notebooks.shown(next(running)) == "```python\nb = a\n```"
    with pytest.raises(ZeroDivisionError) as caught:
        next(running)
    assert "n.ipynb, cell 2" in str(caught.traceback[-1].path)
