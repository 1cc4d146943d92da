"""``featbank export`` and ``featbank predict``: the winner leaves the results, or one line."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from featbank import Bank, write_bank
from stage2 import load_head
from tests.conftest import ROOT, Run, Toy
from tests.stage2.results.tampering import change

SWEEP = ("sweep", "bank.h5", "--seeds", "4,5", "--set", "epochs=3", "--set", "lr=0.05,0.2")


@pytest.fixture
def swept(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """``bank.h5`` and ``results.sqlite`` with crt at two learning rates and ncm."""
    make_toy().write(tmp_path / "bank.h5", class_names=["ape", "bee", "cat", "dog", "eel"])
    featbank(*SWEEP, "--recipe", "crt", "--recipe", "ncm")
    return tmp_path


def rows_of(featbank: Run, **options: object) -> list[dict[str, Any]]:
    """The leaderboard."""
    return json.loads(featbank("leaderboard", "results.sqlite", "--format", "json").stdout)


def test_export_and_predict(featbank: Run, swept: Path) -> None:
    """The best crt under the leaderboard's protocol, its first seed, its selected epoch; predicting
    the bank gives the accuracy that the results hold."""
    done = featbank("export", "results.sqlite", "crt", "-o", "head.safetensors")
    best = next(row for row in rows_of(featbank) if row["name"] == "crt")
    assert done.stdout == (
        f"Trained {best['recipe']} again, seed 4, selected epoch: it classifies as in "
        "results.sqlite, row by row.\n"
        "Wrote head.safetensors. Next: featbank predict head.safetensors BANK -o predictions.npz\n"
    )
    head = load_head("head.safetensors")
    assert head.facts.recipe["id"] == best["recipe"]
    assert head.facts.class_names == ["ape", "bee", "cat", "dog", "eel"]
    for split in ("val", "test"):
        shown = featbank("predict", "head.safetensors", "bank.h5", "--split", split, "-o", "p.npz")
        found = np.load("p.npz")
        assert (found["classes"] == found["logits"].argmax(1)).all()
        assert np.allclose(found["probabilities"].sum(1), 1)
        assert found["class_names"].tolist() == head.facts.class_names
        top1 = 100 * (found["classes"] == found["labels"]).mean()
        assert top1 == pytest.approx(head.facts.metrics[split]["top1"])
        told = f"Classified 100 rows, {top1:.1f} % of them right. Wrote p.npz.\n"
        first, figures = shown.stdout.splitlines()
        assert (f"{first}\n", shown.stderr) == (told, "")
        metrics = head.facts.metrics[split]
        assert f"macro {metrics['macro']:.1f}, many {metrics['many']:.1f}" in figures
        assert f"ECE {metrics['ece']:.1f}" in figures


def test_the_example_with_scikit_learn(make_toy: Callable[..., Toy]) -> None:
    """The block of docs/export.md on arrays X and y."""
    toy = make_toy()
    text = (ROOT / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```python\n(from sklearn.*?)```", text, re.DOTALL)
    names = {"X": toy.features["train"]["instance"], "y": toy.labels["train"]}
    exec(code, names)
    assert names["search"].best_score_ > 0.3


def test_a_run_that_diverged(featbank: Run, toy_bank: Path) -> None:
    """There is no head to export."""
    featbank("sweep", toy_bank, "--recipe", "crt", "--set", "lr=1e30", "--seeds", 0)
    error = featbank("export", "results.sqlite", "crt", "-o", "h.safetensors", code=2).stderr
    assert "Every configuration of 'crt' in results.sqlite diverged." in error
    error = featbank("export", "results.sqlite", "crt-", "-o", "h.safetensors", code=2).stderr
    assert "diverged with seed 0: there is no head to export." in error


def test_ids_seeds_and_epochs(featbank: Run, swept: Path) -> None:
    """An id, the beginning of one, another seed, the last epoch; a recipe without either."""
    ids = {row["recipe"] for row in rows_of(featbank) if row["name"] == "crt"}
    for name in ids:
        for seed, epoch in ((4, "last"), (5, "selected")):
            featbank(
                "export", "results.sqlite", name[:8], "--seed", seed, "--epoch", epoch,
                "-o", "h.safetensors",
            )  # fmt: skip
            facts = load_head("h.safetensors").facts
            assert (facts.recipe["id"], facts.seed, facts.epoch) == (name, seed, epoch)
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    assert load_head("h.safetensors").facts.epoch == "last"


def test_predictions_of_arrays_as_csv(featbank: Run, swept: Path) -> None:
    """A line per row with the name of its class and all probabilities; float16 features too."""
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    with Bank("bank.h5") as bank:
        x, _ = bank.load("test")
    np.save("x.npy", x.astype(np.float16))
    featbank("predict", "h.safetensors", "x.npy", "-o", "p.npz")
    found = np.load("p.npz")
    featbank("predict", "h.safetensors", "x.npy", "-o", "p.csv")
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    others = [f"{name} {n}" for n in range(2, 6) for name in ("class", "confidence")]
    assert list(rows[0]) == ["row", "class", "confidence", *others]
    for row, p in zip(rows, found["probabilities"], strict=True):
        order = np.argsort(-p, kind="stable")
        assert [row["class"], row["class 2"]] == found["class_names"][order[:2]].tolist()
        assert float(row["confidence 2"]) == pytest.approx(p[order[1]], abs=5.1e-5)
    done = featbank("predict", "h.safetensors", "x.npy", "--all", "-o", "p.csv")
    assert done.stdout == "Classified 100 rows. Wrote p.csv.\n"
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert list(rows[0]) == ["row", "class", "p(ape)", "p(bee)", "p(cat)", "p(dog)", "p(eel)"]
    for row in rows:
        assert max(row, key=lambda key: float(row[key]) if key[0] == "p" else -1) == (
            f"p({row['class']})"
        )


def test_arrays_by_key(featbank: Run, swept: Path) -> None:
    """Reference: the same arrays as .npy; a head scored on a labelled set of its own."""
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    with Bank("bank.h5") as bank:
        x, y = bank.load("test")
    np.save("x.npy", x)
    np.save("y.npy", y)
    with h5py.File("feats.h5", "w") as file:
        file["test/x"], file["test/y"] = x, y
    columns = {"embedding": list(x), "label": y}
    parquet.write_table(pa.table(columns), "t.parquet")
    expected = featbank("evaluate", "h.safetensors", "x.npy", "--labels", "y.npy").stdout
    for features, labels in (
        ("feats.h5:test/x", "feats.h5:test/y"),
        ("t.parquet:embedding", "t.parquet:label"),
    ):
        got = featbank("evaluate", "h.safetensors", features, "--labels", labels).stdout
        assert got == expected
    error = featbank("predict", "h.safetensors", "x.npy", "--all", "-o", "p.npz", code=2).stderr
    assert "--all is for .csv, .npz has every class. Leave it out." in error


def test_a_linear_probe_and_views_are_exported(featbank: Run, make_toy: Callable[..., Toy]) -> None:
    """A bank without a classifier, and heads on two views: `predict` takes them in their order."""
    make_toy().write(Path("bank.h5"), classifier=None)
    featbank("sweep", "bank.h5", "--recipe", "lws", "--set", "view=instance+balanced", "--seeds", 0)
    featbank("export", "results.sqlite", "lws", "-o", "h.safetensors")
    featbank("predict", "h.safetensors", "bank.h5", "-o", "bank.npz")
    with Bank("bank.h5") as bank:
        for view in bank.views:
            np.save(f"{view}.npy", bank.load("test", view)[0])
    featbank("predict", "h.safetensors", "instance.npy", "balanced.npy", "-o", "arrays.npz")
    assert (np.load("bank.npz")["logits"] == np.load("arrays.npz")["logits"]).all()
    error = featbank("predict", "h.safetensors", "instance.npy", "-o", "p.npz", code=2).stderr
    assert "The head takes 2 views (instance, balanced), 1 are given: instance.npy." in error


def test_another_bank_and_view_are_told(
    featbank: Run, swept: Path, make_toy: Callable[..., Toy]
) -> None:
    """Features of a bank the head was not trained on, and of a view: notes, not errors; without
    names to go by there are no labels."""
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    make_toy((80, 40, 20, 10, 5)).write(Path("other.h5"))
    with pytest.warns(UserWarning, match=" ") as warned:
        featbank("predict", "h.safetensors", "other.h5", "--view", "balanced", "-o", "p.npz")
    notes = [str(warning.message) for warning in warned]
    assert len(notes) == 3
    assert "the head was trained on bank " in notes[0]
    assert notes[1] == "the head was trained on instance, not balanced"
    assert notes[2] == (
        "labels are left out: other.h5 has no names for its 5 classes, the head has 5 ('ape', "
        "'bee', 'cat', …): nothing says which is which. Give --class-names FILE with the head's "
        "names, a line per class in the order of the labels."
    )
    assert "labels" not in np.load("p.npz")


def test_onnx(featbank: Run, swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the head where the packages are; without them one line before anything is trained."""
    export = ("export", "results.sqlite", "crt", "-o", "h.safetensors", "--onnx", "h.onnx")
    with monkeypatch.context() as without:
        without.setattr("stage2.export.onnxfile.find_spec", lambda name: None)
        error = featbank(*export, code=2).stderr
    assert "ONNX needs the package 'onnx'." in error
    assert not Path("h.safetensors").exists()
    pytest.importorskip("onnxscript")
    done = featbank(*export)
    assert "Wrote h.safetensors and h.onnx." in done.stdout
    assert Path("h.onnx").stat().st_size > 500


def test_a_bank_that_moved(featbank: Run, swept: Path) -> None:
    """`--features` says where it is; another bank in its place is refused."""
    Path("bank.h5").rename("moved.h5")
    export = ("export", "results.sqlite", "crt", "-o", "h.safetensors")
    error = featbank(*export, code=2).stderr
    assert "was bank.h5, which is not there. Say where it is with --features." in error
    featbank(*export, "--features", "moved.h5")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10) % 2
    write_bank(
        "bank.h5", {"train": {"instance": x}, "test": {"instance": x}}, {"train": y, "test": y}
    )
    error = featbank(*export, code=2).stderr
    assert "bank.h5 has the fingerprint" in error
    assert error.count("\n") == 1


def test_a_head_that_is_not_what_the_results_say(featbank: Run, swept: Path) -> None:
    """Results of another training: how many rows differ, and no file. One row that another rounding
    tipped over is told and passes."""
    export = ("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    with closing(sqlite3.connect("results.sqlite")) as db, db:
        (bits,) = db.execute(
            "SELECT correct FROM evaluation JOIN run USING (bank, recipe) "
            "WHERE name = 'ncm' AND split = 'test'"
        ).fetchone()
    other = "UPDATE evaluation SET correct = ? WHERE correct = ?"
    one, many = bytes([bits[0] ^ 1]) + bits[1:], bytes([bits[0] ^ 255]) + bits[1:]
    change(Path("results.sqlite"), other, (one, bits))
    assert (
        "but for 1 of test's rows, which another rounding tipped over" in featbank(*export).stdout
    )
    Path("h.safetensors").unlink()
    change(Path("results.sqlite"), other, (many, one))
    error = featbank(*export, code=2).stderr
    assert (
        "trained again, classifies 8 of 100 rows of test otherwise than in results.sqlite" in error
    )
    assert error.count("\n") == 1
    assert not Path("h.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "gone.sqlite", "crt", "-o", "h.safetensors"], "gone.sqlite: no such file."),
        (["export", "results.sqlite", "crtt", "-o", "h.safetensors"], "Did you mean 'crt'?"),
        (["export", "results.sqlite", "crt-", "-o", "h.safetensors"], "2 configurations of"),
        (
            ["export", "results.sqlite", "crt", "--seed", "9", "-o", "h.safetensors"],
            "It has: 4, 5.",
        ),
        (
            ["export", "results.sqlite", "ncm", "--epoch", "selected", "-o", "h.safetensors"],
            "has no selected epoch: it is not trained in epochs",
        ),
        (["export", "results.sqlite", "crt", "-o", "h.pt"], "Call it h.safetensors."),
        (["export", "results.sqlite", "crt", "-o", "no/h.safetensors"], "no is not a folder."),
        (
            ["export", "results.sqlite", "crt", "-o", "h.safetensors", "--onnx", "h.ox"],
            "Call it h.onnx.",
        ),
        (
            ["export", "results.sqlite", "crt", "--maps", "-o", "h.safetensors"],
            "--maps is for an ONNX file.",
        ),
        (["predict", "gone.safetensors", "bank.h5", "-o", "p.npz"], "gone.safetensors: no such"),
        (
            ["predict", "bank.h5", "bank.h5", "-o", "p.npz"],
            "HDF5 file, not a head. `featbank",
        ),
        (["predict", "head.safetensors", "bank.h5", "-o", "p.txt"], "Choose from: .npz, .csv."),
        (
            ["predict", "head.safetensors", "bank.h5", "--split", "tset", "-o", "p.npz"],
            "has no split 'tset'",
        ),
        (
            ["predict", "head.safetensors", "narrow.npy", "-o", "p.npz"],
            "D = 3, the head takes D = 8",
        ),
        (
            ["predict", "head.safetensors", "nan.npy", "-o", "p.npz"],
            "Row 1 of the features has NaN",
        ),
        (
            ["predict", "head.safetensors", "torn.npy", "-o", "p.npz"],
            "torn.npy is cut short, its 215 bytes are fewer than its header says: copy it again.",
        ),
        (["predict", "head.safetensors", "gone.npy", "-o", "p.npz"], "gone.npy: no such file."),
        (
            ["predict", "head.safetensors", "bank.h5", "nan.npy", "-o", "p.npz"],
            "A bank and arrays are given.",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, swept: Path, arguments: list[str], message: str
) -> None:
    """No traceback, a remedy, and no file that was not there before."""
    featbank("export", "results.sqlite", "ncm", "-o", "head.safetensors")
    x = np.zeros((3, 8), np.float32)
    np.save("narrow.npy", x[:, :3])
    x[1, 2] = np.nan
    np.save("nan.npy", x)
    Path("torn.npy").write_bytes(Path("nan.npy").read_bytes()[:-9])
    before = sorted(p.name for p in swept.iterdir() if not p.name.startswith("results"))
    error = featbank(*arguments, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1, error
    now = sorted(p.name for p in swept.iterdir() if not p.name.startswith("results"))
    assert now == before


def test_arrays_as_people_save_them(featbank: Run, swept: Path) -> None:
    """Reference: the predictions of the plain array [N, D]."""
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    with Bank("bank.h5") as bank:
        x, _ = bank.load("val")
    np.save("x.npy", x)
    featbank("predict", "h.safetensors", "x.npy", "-o", "p.npz")
    expected = np.load("p.npz")["logits"]
    np.save("pooled.npy", x[:, :, None, None])
    np.save("first.NPY.npy", x[None])
    np.save("middle.npy", x[:, None])
    np.savez_compressed("one.npz", embeddings=x)
    np.savez("two.npz", train=x[:3], val=x[:, None])
    for place in ("pooled.npy", "first.NPY.npy", "middle.npy", "one.npz", "one.npz:embeddings",
                  "two.npz:val"):  # fmt: skip
        featbank("predict", "h.safetensors", place, "-o", "p.npz")
        assert (np.load("p.npz")["logits"] == expected).all(), place
    np.save("row.npy", x[:1, :, None])
    featbank("predict", "h.safetensors", "row.npy", "-o", "p.npz")
    assert np.load("p.npz")["logits"].shape == (1, 5)


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text


def test_arrays_that_cannot_be_read(featbank: Run, swept: Path) -> None:
    """Each is one line of ours with a remedy; none advises to open a pickle."""
    featbank("export", "results.sqlite", "ncm", "-o", "h.safetensors")
    x = np.ones((30, 8))
    np.savez("a.npz", x=x, y=x)
    whole = Path("a.npz").read_bytes()
    Path("short.npz").write_bytes(whole[:-100])
    Path("flipped.npz").write_bytes(whole[:700] + b"~~" + whole[702:])
    np.savez("objects.npz", x=np.array([{1: 2}, None], object))
    np.save("objects.npy", np.array([[x], ["a"]], object), allow_pickle=True)
    Path("pickled.npy").write_bytes(pickle.dumps(x))
    Path("junk.npz").write_bytes(b"row,class\n1,2\n")
    Path("empty.npy").write_bytes(b"")
    Path("digits.npy").write_bytes(_header("9" * 7000 + ", 8") + bytes(64))
    Path("large.npy").write_bytes(_header("9" * 3000 + ", 8") + bytes(64))
    Path("early.npy").write_bytes(_header("4, 8")[:30])
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("cube.npy", np.ones((4, 3, 8)))
    os.mkfifo("pipe.npy")
    for place, told in (
        ("a.npz", "has several arrays. Write a.npz:KEY with one of: x, y."),
        ("a.npz:z", "has no key 'z'"),
        ("short.npz", "is cut short: copy it again."),
        ("flipped.npz:x", "is damaged: copy it again."),
        ("objects.npz", "holds Python objects, and no pickle is opened:"),
        ("objects.npy", "holds Python objects, and no pickle is opened:"),
        ("pickled.npy", "is not an .npy file. Give a bank, or features"),
        ("junk.npz", "is not an .npz file. Give a bank, or features"),
        ("empty.npy", "is empty. Give a bank, or features"),
        ("digits.npy", "has a damaged header: copy it again."),
        ("large.npy", "is cut short, its"),
        ("early.npy", "is cut short: copy it again."),
        ("words.npy", "holds <U1 (1, 2). Give a bank"),
        ("cube.npy", "holds float64 (4, 3, 8). Give a bank"),
        ("pipe.npy", "is a named pipe, not a file."),
        ("gone.npz:x", "gone.npz: no such file"),
    ):
        error = featbank("predict", "h.safetensors", place, "-o", "p.npz", code=2).stderr
        assert told in error, error
        assert error.count("\n") == 1, error
        assert len(error) < 250, error
        assert "allow_pickle" not in error


def test_what_is_no_head_is_said(featbank: Run, swept: Path) -> None:
    """Reference: what each path is."""
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("device").symlink_to("/dev/null")
    for name, kind in (("folder", "folder"), ("pipe", "named pipe"), ("device", "device")):
        error = featbank("predict", name, "bank.h5", "-o", "p.npz", code=2).stderr
        assert f"{name} is a {kind}, not a head. Give a file that" in error
