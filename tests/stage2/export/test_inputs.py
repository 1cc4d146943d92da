"""Heads on views made of others take what is stored, and put it together themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from featbank import Bank, errors
from stage2 import Recipe
from stage2.export.exporting import export_head
from stage2.export.headfile import KEY, load_head
from stage2.export.prediction import predict_arrays, predict_bank
from stage2.sweep import sweep
from tests.stage2.features.test_made_views import made

SHORT = {"epochs": 3, "batch_size": 8}


def exported(folder: Path, view: str, name: str = "crt", **settings: Any) -> Path:
    """A head on a view of the bank ``folder/bank.h5``."""
    made(folder / "bank.h5").close()
    recipe = Recipe(name, view=view, **({} if name == "ncm" else SHORT), **settings)
    with Bank(folder / "bank.h5") as bank:
        sweep(bank, [recipe], results=folder / "r.sqlite")
    export_head(folder / "r.sqlite", name, folder / "h.safetensors")
    return folder / "h.safetensors"


VIEWS = {
    "a|b": ["a", "b"],
    "2*a|t:gem|b": ["a", "t", "b"],
    "t:mean": ["t"],
    "a|t:max+b": ["a", "t", "b"],
    "a+b": ["a", "b"],
    "0.5*b": ["b"],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["crt", "ncm"])
def test_inputs(view: str, name: str, tmp_path: Path) -> None:
    """Reference: accuracy and likelihood of the sweep, whose bank makes the views itself. A bank of
    other numbers, with another norm, is put together as that of the training was."""
    scale = {"feature_scale": "unit"} if name == "crt" else {}
    head = load_head(exported(tmp_path, view, name, **scale))
    assert [part.view for part in head.facts.arrays] == VIEWS[view]
    with Bank(tmp_path / "bank.h5") as bank:
        predictions = predict_bank(head, bank, split="test")
        arrays = {v: bank.load("test", v)[0] for v in VIEWS[view]}
    top1 = 100 * (predictions.classes == predictions.labels).mean()
    assert top1 == pytest.approx(head.facts.metrics["test"]["top1"])
    for v, x in arrays.items():
        np.save(tmp_path / f"{v}.npy", x)
    places = [tmp_path / f"{v}.npy" for v in VIEWS[view]]
    from_arrays = predict_arrays(head, places)
    assert np.array_equal(from_arrays.logits, predictions.logits)
    xs = tuple(torch.from_numpy(arrays[v]) for v in VIEWS[view])
    with torch.no_grad():
        assert np.allclose(head(xs if len(xs) > 1 else xs[0]).numpy(), predictions.logits)
    nll = torch.nn.functional.cross_entropy(
        torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    )
    assert float(nll) == pytest.approx(head.facts.metrics["test"]["nll"], abs=1e-4)
    for place, x in zip(places, arrays.values(), strict=True):
        np.save(place, x[:3])  # a bank's norm would change with its rows
    assert np.allclose(predict_arrays(head, places).logits, predictions.logits[:3], atol=1e-5)


def test_onnx_of_tokens(tmp_path: Path) -> None:
    """ONNX takes the same arrays."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    made(tmp_path / "bank.h5").close()
    with Bank(tmp_path / "bank.h5") as bank:
        sweep(bank, [Recipe("crt", view="a|t:gem", **SHORT)], results=tmp_path / "r.sqlite")
        arrays = [bank.load("test", view)[0] for view in ("a", "t")]
    export_head(tmp_path / "r.sqlite", "crt", tmp_path / "h.safetensors", onnx=tmp_path / "h.onnx")
    session = runtime.InferenceSession(tmp_path / "h.onnx")
    (logits,) = session.run(None, {f"features_{i}": x for i, x in enumerate(arrays)})
    head = load_head(tmp_path / "h.safetensors")
    with torch.no_grad():
        expected = head([torch.from_numpy(x) for x in arrays])
    assert np.allclose(logits, expected.numpy(), atol=1e-4)


def test_wrong_arrays(tmp_path: Path) -> None:
    """Each is one line that says which arrays there must be."""
    head = load_head(exported(tmp_path, "a|t:mean"))
    rng = np.random.default_rng(0)
    for name, shape in {"a": (6, 4), "b": (6, 3), "t": (6, 5, 3), "w": (6, 5, 4)}.items():
        np.save(tmp_path / f"{name}.npy", rng.normal(size=shape).astype(np.float32))
    np.save(tmp_path / "longer.npy", np.ones((6, 9, 3)))
    predict_arrays(head, [tmp_path / "a.npy", tmp_path / "longer.npy"])  # a mean takes any T
    for names, message in {
        "a": r"The head takes 2 views of a\|t:mean \(a, t\), 1 are given",
        "b t": "b.npy has features of D = 3, the head takes D = 4",
        "a b": r"b.npy is \[N, D = 3\], the head takes \[N, T = 5, D = 3\] of t. Give that view.",
        "a w": r"w.npy is \[N, T = 5, D = 4\], the head takes",
        "t a": r"t.npy holds float32 \(6, 5, 3\)",
    }.items():
        with pytest.raises((errors.ConfigError, errors.DataError), match=message) as caught:
            predict_arrays(head, [tmp_path / f"{name}.npy" for name in names.split()])
        assert "\n" not in str(caught.value)
    with Bank(tmp_path / "bank.h5") as bank:
        same = predict_bank(head, bank, views=["a|t:mean"])
        assert np.array_equal(same.logits, predict_bank(head, bank).logits)
        with pytest.raises(errors.ConfigError, match=r"view 'b' is \[N, D = 3\], the head takes"):
            predict_bank(head, bank, views=["a|b"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shape", [0, 3], "an input has the shape"),
        ("shape", [3], "an input has the shape"),
        ("shape", "x", "an input has the shape"),
        ("pool", "median", "an input has the shape"),
        ("factor", -1.0, "an input has the factor -1.0"),
        ("factor", 1, "an input has no view or no factor"),
        ("view", None, "an input has no view or no factor"),
        ("more", 1, "its inputs have other fields"),
        ("shape", [5, 4], "weight has shape"),
    ],
)
def test_wrong_inputs_in_files(field: str, value: Any, message: str, tmp_path: Path) -> None:
    """Each is a broken head, in one line."""
    path = exported(tmp_path, "t:mean")
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    document["inputs"][0][0][field] = value
    save_file(tensors, path, {KEY: json.dumps(document)})
    with pytest.raises(errors.ConfigError, match=message):
        load_head(path)
