"""Heads that the page moves: the logits that it carries, and what it computes from them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from featbank import Bank
from featbank.bank import ClassGroups
from stage2.engine.metrics import BINS
from stage2.export.exporting import export_head
from stage2.export.headfile import load_head
from stage2.export.prediction import predict_bank
from stage2.report import live
from stage2.report.heads import gather_heads
from stage2.report.page import report
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.report.chromium import load
from tests.stage2.report.conftest import COUNTS


@pytest.fixture(scope="module")
def head(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain classifier of the results."""
    path = tmp_path_factory.mktemp("head") / "ce.safetensors"
    export_head(results, "ce", path)
    return path


def stored(data: dict[str, Any], place: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and logits [N, K] as they are carried."""
    y = np.frombuffer(base64.b64decode(data["labels"]), "<u4").astype(int)
    z = np.frombuffer(base64.b64decode(data["heads"][place]["logits"]), "<f2")
    return y, z.reshape(len(y), -1).astype(np.float64)


def test_logits_are_those_of_the_head(results: Path, head: Path) -> None:
    """Reference: the predictions of the exported head, to the precision of float16."""
    with Store(results) as store, Bank(results.parent / "b.h5") as bank:
        data = gather_heads(Results(store), [head])["live"]
        expected = predict_bank(load_head(head), bank, split="test")
        y, z = stored(data)
        order = np.argsort(expected.labels, kind="stable")
        np.testing.assert_array_equal(y, np.asarray(expected.labels)[order])
        probabilities = np.exp(log_softmax(z, axis=1))
        np.testing.assert_allclose(probabilities, expected.probabilities[order], atol=1e-3)
        np.testing.assert_allclose(
            data["logPrior"], np.log(np.array(COUNTS) / sum(COUNTS)), atol=1e-4
        )
    assert (data["split"], data["total"]) == ("test", len(y))


def test_temperatures_are_fitted_to_val(results: Path, head: Path) -> None:
    """Reference: SciPy's scalar minimiser of the mean negative log-likelihood."""
    with Bank(results.parent / "b.h5") as bank:
        log_prior = np.log(np.array(COUNTS) / sum(COUNTS))
        got = live.temperatures(load_head(head), bank, log_prior)
        predictions = predict_bank(load_head(head), bank, split="val")
    y, rows = np.asarray(predictions.labels), np.arange(len(predictions.logits))
    for tau in (0, 10, 20):
        z = predictions.logits - live.TAUS[tau] * log_prior

        def loss(scale: float, z: np.ndarray = z) -> float:
            return float(-log_softmax(np.exp(scale) * z, axis=1)[rows, y].mean())

        best = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
        assert loss(-np.log(got[tau])) == pytest.approx(best.fun, abs=1e-5)


def test_rows_are_drawn_evenly_over_classes(
    results: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: ten rows of each of eight classes, of which half fit."""
    monkeypatch.setattr(live, "BYTES", 2 * 8 * 40 * 2)
    with Store(results) as store:
        data = gather_heads(Results(store), [head, head])["live"]
    y, _ = stored(data)
    assert (len(y), data["total"]) == (40, 80)
    assert set(np.bincount(y)) == {5}


def test_the_page_computes_what_numpy_does(
    results: Path, head: Path, tmp_path: Path, browser: Any
) -> None:
    """Reference: softmax((z − τ log π) / T + log π′) and its figures in float64, of τ = 1, a test
    prior of ratio 10 that the head knows, and T."""
    with Store(results) as store:
        report(Results(store), tmp_path / "r.html", heads=[head])
    load(browser, tmp_path / "r.html")
    before, after, data, texts, groups = browser.execute_script("""
      const still = measureLive(liveLogits(0), { tau: 0, temperature: 1,
        shift: COUNTS.map(() => 0), weight: COUNTS.map(() => 1) });
      $("live-tau").value = 10;
      $("live-prior").value = 3;
      $("live-known").checked = $("live-temperature").checked = true;
      $("live-tau").dispatchEvent(new Event("input"));
      const moved = measureLive(liveLogits(0), liveChoice(0));
      return [still, moved, DATA.live,
        [...document.querySelectorAll("#live-figures dd")].map((dd) => dd.firstChild.textContent),
        DATA.classes.group];
    """)
    y, z = stored(data)
    log_prior, temperature = np.array(data["logPrior"]), data["heads"][0]["temperatures"][10]
    steps = 10.0 ** (-np.arange(8) / 7)  # classes stand by training count already
    target = np.log(steps / steps.sum())
    assert groups[0] == "many"
    for got, logits, share in (
        (before, z, None),
        (after, (z - log_prior) / temperature + target, np.exp(target)),
    ):
        log_p, classes = log_softmax(logits, axis=1), np.arange(8)
        w = np.ones(len(y)) if share is None else share[y] * len(y) / np.bincount(y)[y]
        right, confidence = log_p.argmax(1) == y, np.exp(log_p.max(1))
        by_class = 100 * np.array([right[y == k].mean() for k in classes])
        assert got["accuracy"] == pytest.approx(100 * np.average(right, weights=w), abs=1e-3)
        assert got["macro"] == pytest.approx(by_class.mean(), abs=1e-3)
        assert got["nll"] == pytest.approx(
            -np.average(log_p[np.arange(len(y)), y], weights=w), abs=1e-4
        )
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        gaps = np.bincount(place, w * (confidence - right), BINS)
        assert got["ece"] == pytest.approx(100 * np.abs(gaps).sum() / w.sum(), abs=0.01)
        for name, members in ClassGroups.usual(np.array(COUNTS)).masks.items():
            assert got[name] == pytest.approx(by_class[members].mean(), abs=1e-3)
    assert texts[0] == f"{after['accuracy']:.1f}"
    assert after["macro"] != before["macro"]
    browser.find_element("id", "live-reset").send_keys("\ue007")  # Enter
    again = browser.execute_script("return [$('live-tau').value, liveChoice(0).words.prior]")
    assert again == ["0", "as tested"]
