"""Class priors on the command line: ``featbank evaluate``, and ``--prior`` of three commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, write_bank
from stage2 import load_head
from tests.conftest import Run, Toy

NAMES = ["ape", "bee", "cat", "dog", "eel"]


@pytest.fixture
def heads(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """``bank.h5``; ``crt.safetensors``, calibrated, and ``ce.safetensors``, which is not."""
    make_toy().write(tmp_path / "bank.h5", class_names=NAMES)
    for name, calibration in (("crt", "temperature"), ("ce", "none")):
        settings = ("--set", "epochs=3", "--set", f"calibration={calibration}")
        featbank("sweep", "bank.h5", "--recipe", name, "--seeds", 0, *settings)
        featbank("export", "results.sqlite", name, "-o", f"{name}.safetensors")
    return tmp_path


def test_evaluate(featbank: Run, heads: Path) -> None:
    """Reference: the metrics that the sweep stored, in the head."""
    shown = featbank("evaluate", "crt.safetensors", "bank.h5", "--format", "json").stdout
    (row,) = json.loads(shown)
    stored = load_head("crt.safetensors").facts.metrics["test"]
    assert row["prior"] == "as exported"
    for name in ("top1", "macro", "many", "few", "nll", "ece", "brier"):
        assert row[name] == pytest.approx(stored[name], abs=1e-3), name
    text = featbank("evaluate", "crt.safetensors", "bank.h5").stdout
    assert "100 rows" in text
    assert "top-1  macro  many  medium  few" in " ".join(text.split("\n")).replace("   ", "  ")
    for form in ("csv", "md", "latex"):
        assert (
            "as exported"
            in featbank("evaluate", "crt.safetensors", "bank.h5", "--format", form).stdout
        )


def test_arrays_and_their_labels(featbank: Run, heads: Path) -> None:
    """The same table from arrays; labels that are wrong, one line each."""
    with Bank("bank.h5") as bank:
        x, y = bank.load("test")
    np.save("x.npy", x)
    np.save("y.npy", y)
    command = ("evaluate", "crt.safetensors", "x.npy", "--format", "json")
    bank_rows = featbank("evaluate", "crt.safetensors", "bank.h5", "--format", "json").stdout
    assert featbank(*command, "--labels", "y.npy").stdout == bank_rows
    assert "labels of the rows are not known" in featbank(*command, code=2).stderr
    np.save("y.npy", y[:-1])
    assert "has 99 labels for 100 rows" in featbank(*command, "--labels", "y.npy", code=2).stderr
    np.save("y.npy", np.full(100, 5))
    assert "the head has the classes 0…4" in featbank(*command, "--labels", "y.npy", code=2).stderr
    error = featbank("evaluate", "crt.safetensors", "bank.h5", "--labels", "y.npy", code=2).stderr
    assert "--labels are those of arrays" in error


def test_a_prior_in_three_commands(featbank: Run, heads: Path) -> None:
    """Predicted, measured, and made part of the head: the same probabilities. A head that is made
    for equal shares predicts the same bits under a uniform prior."""
    prior = "1,2,3,4,90"
    plain = ("predict", "crt.safetensors", "bank.h5")
    featbank(*plain, "-o", "plain.npz")
    featbank(*plain, "--prior", "uniform", "-o", "uniform.npz")
    featbank(*plain, "--prior", prior, "-o", "given.npz")
    one, same, given = (np.load(f"{name}.npz") for name in ("plain", "uniform", "given"))
    assert all((one[key] == same[key]).all() for key in one.files)
    expected = one["probabilities"].astype(np.float64) * [1, 2, 3, 4, 90]
    assert given["probabilities"] == pytest.approx(
        expected / expected.sum(1, keepdims=True), abs=1e-6
    )
    shown = featbank("evaluate", "crt.safetensors", "bank.h5", "--prior", prior, "--format", "json")
    rows = json.loads(shown.stdout)
    assert [row["prior"] for row in rows] == ["as exported", prior]
    right = 100 * (given["classes"] == given["labels"]).mean()
    assert rows[1]["top1"] == pytest.approx(right)
    done = featbank("export", "results.sqlite", "crt", "--prior", prior, "-o", "baked.safetensors")
    assert f"Its logits are then moved to the prior {prior}." in done.stdout
    featbank("predict", "baked.safetensors", "bank.h5", "-o", "baked.npz")
    assert np.load("baked.npz")["probabilities"] == pytest.approx(given["probabilities"], abs=1e-5)
    back = ("predict", "baked.safetensors", "bank.h5", "--prior", "uniform", "-o", "back.npz")
    featbank(*back)
    assert np.load("back.npz")["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


def test_estimates(featbank: Run, heads: Path) -> None:
    """A line with intervals, and a file that is read back as the same prior."""
    for method in ("em", "bbse"):
        command = ("predict", "crt.safetensors", "bank.h5", "-o", "p.npz", "--prior")
        done = featbank(*command, method, "--prior-output", "prior.csv")
        assert f"Prior by {method} from 100 rows: largest '" in done.stdout
        assert "Wrote prior.csv. --prior prior.csv gives it again." in done.stdout
        first = np.load("p.npz")["probabilities"]
        rows = list(csv.DictReader(Path("prior.csv").read_text().splitlines()))
        assert [row["class"] for row in rows] == NAMES
        assert sum(float(row["prior"]) for row in rows) == pytest.approx(1)
        assert all(float(row["low"]) <= float(row["prior"]) <= float(row["high"]) for row in rows)
        featbank(*command, "prior.csv")
        assert np.load("p.npz")["probabilities"] == pytest.approx(first, abs=1e-5)


def test_transductive_priors_are_marked(featbank: Run, heads: Path) -> None:
    """In the table of `evaluate`; and an export, which has no rows, refuses them."""
    for prior in ("sinkhorn", "sinkhorn:1,2,3,4,90", "em"):
        command = ("evaluate", "crt.safetensors", "bank.h5", "--prior", prior, "--format", "json")
        rows = json.loads(featbank(*command).stdout)
        assert [row["prior"] for row in rows] == ["as exported", f"{prior} (transductive)"]
    export = ("export", "results.sqlite", "crt", "-o", "h.safetensors", "--prior", "sinkhorn")
    assert "no rows to estimate a prior from by sinkhorn" in featbank(*export, code=2).stderr


def test_what_is_wrong(featbank: Run, heads: Path) -> None:
    """One line each."""
    predict = ("predict", "crt.safetensors", "bank.h5", "-o", "p.npz", "--prior")
    for prior, message in (
        ("1,2", "The prior of --prior has 2 values, the head 5 classes."),
        ("1,2,3,4,-5", "has -5 for class 'eel'"),
        ("gone.txt", "gone.txt: no such file. Check the path."),
        ("em2", "em2: no such file."),
    ):
        error = featbank(*predict, prior, code=2).stderr
        assert message in error
        assert error.count("\n") == 1
    error = featbank(*predict, "uniform", "--prior-output", "x.csv", code=2).stderr
    assert "--prior-output writes an estimate." in error
    error = featbank(*predict, "em", "--prior-output", "gone/x.csv", code=2).stderr
    assert "gone is not a folder." in error
    error = featbank("evaluate", "ce.safetensors", "bank.h5", "--prior", "em", code=2).stderr
    assert "was not calibrated on a val that stage 1 never saw" in error
    export = ("export", "results.sqlite", "crt", "-o", "h.safetensors", "--prior")
    assert "no rows to estimate a prior from by em" in featbank(*export, "em", code=2).stderr
    assert "has 1 value," in featbank(*export, "3", code=2).stderr


def test_plain_cross_entropy_is_moved(featbank: Run, heads: Path) -> None:
    """Its outputs are for the shares of train: a uniform prior is logit adjustment, by hand."""
    featbank("predict", "ce.safetensors", "bank.h5", "-o", "a.npz")
    featbank("predict", "ce.safetensors", "bank.h5", "--prior", "uniform", "-o", "b.npz")
    with Bank("bank.h5") as bank:
        counts = bank.train_counts
    moved = np.load("a.npz")["logits"] - np.log(counts / counts.sum()) - np.log(5)
    assert np.load("b.npz")["logits"] == pytest.approx(moved, abs=1e-4)


def test_long_tailed_rows_of_cifar(featbank: Run, real_features: Path) -> None:
    """Reference: the labels. Long-tailed test rows and the reverse gain accuracy by EM, and more by
    their true prior."""
    data, rng = np.load(real_features), np.random.default_rng(0)
    x, y = data["x_test_instance"], data["y_test"]
    by_class = [rng.permutation(np.flatnonzero(y == k)) for k in range(100)]
    val = np.concatenate([rows[:20] for rows in by_class])
    write_bank(
        "bank.h5",
        {"train": {"instance": data["x_train_instance"]}, "val": {"instance": x[val]}},
        {"train": data["y_train"], "val": y[val]},
        classifier={"instance": (data["w0"], data["b0"])},
    )
    featbank("sweep", "bank.h5", "--recipe", "logit_adjust", "--set", "calibration=temperature")
    featbank("export", "results.sqlite", "logit_adjust", "-o", "h.safetensors")
    places = np.argsort(np.argsort(-np.bincount(data["y_train"]), kind="stable")) / 99
    for share in (100**-places, 100 ** (places - 1)):
        wanted = np.maximum(1, np.round(80 * share)).astype(int)
        rows = np.concatenate([r[20 : 20 + n] for r, n in zip(by_class, wanted, strict=True)])
        np.save("x.npy", x[rows])
        np.save("y.npy", y[rows])
        np.save("prior.npy", wanted)
        found = {}
        for prior in ("em", "prior.npy"):
            command = ("evaluate", "h.safetensors", "x.npy", "--labels", "y.npy", "--prior", prior)
            plain, moved = json.loads(featbank(*command, "--format", "json").stdout)
            found |= {"": plain["top1"], prior: moved["top1"]}
        assert found[""] + 3 < found["em"] < found["prior.npy"]
