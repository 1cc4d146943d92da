"""Exported heads on maps of features: every cell is classified as a row is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from featbank import errors
from stage2.export.form import Form, by_length, linear
from stage2.export.forms import FORMS, INPUT, Affine, HeadModule, Scaled
from stage2.export.onnxfile import save_onnx
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from tests.stage2.export.test_export import ONNX, RECIPES, exported, facts_of, features, named
from tests.stage2.synthetic import Problem, problem

SIZE = 2, 3, 4
"""Maps, their height and width."""


@pytest.fixture(scope="module")
def made() -> Problem:
    """Many, medium and few, and a class without a training row."""
    return problem((120, 36, 20, 12, 4, 0))


def as_maps(rows: Tensor) -> Tensor:
    """Maps [B, D, H, W] of the first rows [N, D]."""
    cells = rows[: int(np.prod(SIZE))].unflatten(0, SIZE)
    return cells.permute(0, 3, 1, 2).contiguous()


def as_rows(maps: Tensor) -> Tensor:
    """The cells of maps as rows."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_cells_are_classified_as_rows(recipe: Recipe, made: Problem) -> None:
    """Reference: the head on the cells as rows."""
    made = problem() if HEADS[recipe.head].uses_counts else made
    module, _ = exported(recipe, made)
    x = features(recipe, made)
    maps = tuple(map(as_maps, x)) if isinstance(x, tuple) else as_maps(x)
    rows = tuple(map(as_rows, maps)) if isinstance(maps, tuple) else as_rows(maps)
    with torch.no_grad():
        z, expected = module(maps), module(rows)
    assert z.shape == (SIZE[0], expected.shape[1], *SIZE[1:])
    torch.testing.assert_close(as_rows(z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", [("input_scale",), ("input_scale", "input_unit"), tuple(INPUT)])
def test_scaled_features_of_maps(scaling: tuple[str, ...], made: Problem) -> None:
    """Reference: the same head on the cells as rows, behind its scale."""
    module, _ = exported(RECIPES[0], made)
    x = as_maps(features(RECIPES[0], made))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(x.shape[1], generator=generator) + 0.5 for name in scaling[:2]}
    tensors |= {name: torch.ones(1) for name in scaling if name == "input_unit"}
    assert isinstance(module.form, Form)
    scaled = Scaled(module.form, tensors)
    torch.testing.assert_close(as_rows(scaled(x)), scaled(as_rows(x)), rtol=1e-4, atol=1e-5)


class Operations(TorchDispatchMode):
    """Names of the operations that compute: those that only view a tensor are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_an_affine_head_is_one_convolution(made: Problem) -> None:
    """A linear head is nothing but its 1 × 1 convolution, whatever it was made of: the claim of
    speed that scripts/benchmark_maps.py measures."""
    module, _ = exported(Recipe("lws", epochs=1, batch_size=32, calibration="temperature"), made)
    x = as_maps(torch.from_numpy(made.x["test", "instance"]))
    with torch.no_grad(), Operations() as operations:
        module(x)
    assert isinstance(module, HeadModule)
    assert isinstance(module.form, Affine)
    assert operations.names == ["convolution"]


def test_disalign_is_one_convolution_and_two_passes() -> None:
    """The confidence is one more output of the convolution of z⁰."""
    made = problem()
    module, _ = exported(Recipe("disalign", epochs=1, batch_size=32), made)
    x = as_maps(torch.from_numpy(made.x["test", "instance"]))
    with torch.no_grad(), Operations() as operations:
        module(x)
    assert operations.names == ["cat", "cat", "convolution", "addcmul", "sigmoid", "addcmul"]


@pytest.mark.parametrize("dim", [3, 16, 37])
def test_products_by_length(dim: int) -> None:
    """Reference: products with features of length 1, also where squares are added in uneven parts,
    and its gradient beside a feature vector of zeros."""
    weight, x, bias = torch.randn(5, dim), torch.randn(2, dim, 3, 4), torch.randn(5)
    x[0, :, 0, 0] = 0
    x.requires_grad_()
    expected = linear(normalize(x, dim=1), weight, bias)
    z = by_length(linear(x, weight), x, bias)
    torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(z[1].square().sum(), x)
    (wanted,) = torch.autograd.grad(expected[1].square().sum(), x)
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-4)


def test_forms_that_take_maps_are_those_of_products() -> None:
    """The others get rows; `Affine` does where a class is empty, which ranks it behind all."""
    taking = {name for name, form in FORMS.items() if form.on_maps}
    assert taking == {"perceptron", "projected", "gated", "gated_cosine"}


@pytest.mark.parametrize("recipe", [RECIPES[0], *ONNX], ids=named)
def test_onnx_of_maps(recipe: Recipe, made: Problem, tmp_path: Path) -> None:
    """Reference: ONNX Runtime gives the module's logits, for maps of another size too."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, _ = exported(recipe, made)
    save_onnx(tmp_path / "h.onnx", module, facts_of(recipe, made), maps=True)
    x = features(recipe, made)
    given = tuple(as_maps(part) for part in (x if isinstance(x, tuple) else (x,)))
    session = runtime.InferenceSession(tmp_path / "h.onnx")
    inputs = zip([i.name for i in session.get_inputs()], given, strict=True)
    (z,) = session.run(["logits"], {name: values.numpy() for name, values in inputs})
    with torch.no_grad():
        expected = module(given if len(given) > 1 else given[0])
    assert np.abs(z - expected.numpy()).max() < 1e-4


def test_onnx_of_maps_takes_no_tokens(made: Problem, tmp_path: Path) -> None:
    """One line, and no file."""
    pytest.importorskip("onnxscript")
    recipe = Recipe("ridge")

    class Images:
        image_shape = (3, 8, 8)

        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            raise AssertionError

    module, _ = exported(recipe, made)
    with pytest.raises(errors.ConfigError, match="Leave --maps out"):
        save_onnx(tmp_path / "h.onnx", module, facts_of(recipe, made), backbone=Images(), maps=True)
    assert not list(tmp_path.iterdir())
