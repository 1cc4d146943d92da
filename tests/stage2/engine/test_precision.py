"""Rounded factors, float32 sums: against explicit rounding and the bounds of the formats."""

from __future__ import annotations

import pytest
import torch

from stage2.methods.precision import precision, product
from stage2.methods.precisions import PRECISIONS
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, run

BITS = {"fp32": 24, "tf32": 11, "bf16": 8}


def _matrices() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 40, generator=generator), torch.randn(40, 7, generator=generator)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_product_has_factors_of_so_many_bits(name: str) -> None:
    """Reference: factors rounded to that many significant bits with frexp, summed in float64."""
    a, b = _matrices()

    def rounded(x: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(x.double())
        return torch.ldexp((mantissa * 2 ** BITS[name]).round(), exponent - BITS[name])

    with precision(name):
        got = product(a, b)
        with_bias = product(a, b, torch.arange(7.0))
    assert_close(got, rounded(a) @ rounded(b), 1e-5, name)
    assert_close(with_bias, got + torch.arange(7.0), 1e-5, f"{name} with a bias")
    if name != "fp32":
        assert float((got - a @ b).abs().max()) > 1e-4, "nothing was rounded"


def test_outside_it_is_float32_again() -> None:
    """Reference: the plain product, also after an exception."""
    a, b = _matrices()
    with pytest.raises(ValueError, match="out"), precision("bf16"):
        raise ValueError("out")
    assert torch.equal(product(a, b), a @ b)


def test_a_recipe_trains_at_its_precision_beside_others(small: Problem) -> None:
    """Reference: fp32 alone; bf16 and tf32 lie near it, in the order of their bits."""
    recipes = {name: Recipe("crt", precision=name, epochs=4, batch_size=32) for name in PRECISIONS}
    outcomes = run(list(recipes.values()), small, workers=2)
    weight = {name: outcomes[recipe].parameters["weight"] for name, recipe in recipes.items()}
    (alone,) = run([recipes["fp32"]], small).values()
    assert_close(weight["fp32"], alone.parameters["weight"], 1e-5, "fp32 beside the others")
    gap = {name: float((w - weight["fp32"]).abs().max()) for name, w in weight.items()}
    assert 0 < gap["tf32"] < gap["bf16"] < 0.05, f"got {gap}"
