"""Affine heads: which modules are some, and their weighted mean as one plain head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from featbank.errors import ConfigError
from stage2.export.folding import affine_head, ensemble_head
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headfile import load_head, save_head
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from stage2.results.ensembles import Member
from tests.stage2.export.test_export import (
    RECIPES,
    SHORT,
    exported,
    facts_of,
    features,
    named,
)
from tests.stage2.synthetic import Problem, problem

Module = HeadModule | AveragedHeads

LINEAR = [
    Recipe("crt", **SHORT),
    Recipe("lws", **SHORT),
    Recipe("mislas", view="instance", **SHORT),
    Recipe("disalign", confidence="off", form="eq5", **SHORT),
    Recipe("tau_norm", keep_bias=True),
    Recipe("logit_adjust", tau=1.3),
    Recipe("ridge"),
    Recipe("ce", head="lda"),
    Recipe("ncm", transform="un", metric="l2"),
]
NOT_CONSTANT = [
    recipe
    for recipe in RECIPES
    if recipe.settings.get("k") != 500 and not HEADS[recipe.head].takes_tokens
]
"""With as many neighbours as rows, every row is classified alike; of one token heads of tokens are
affine, and of no others."""
TWO_VIEWS = Recipe("crt", view="instance+balanced", average="logits", **SHORT)
OTHER_VIEW = Recipe("balanced_softmax", view="balanced", **SHORT)


@pytest.fixture(scope="module")
def made() -> Problem:
    """Rows of every class."""
    return problem()


def is_affine(module: Module, recipe: Recipe, made: Problem) -> bool:
    """Whether f(x) + f(y) − f(x + y) − f(0) is the same for all classes, on every row."""
    x = [torch.from_numpy(made.x["test", view]) for view in recipe.views]
    several = len(x) > 1

    def f(*xs: Tensor) -> Tensor:
        z = module(xs if several else xs[0])
        return z - z.mean(1, keepdim=True)

    y = [values.flip(0) for values in x]
    both = f(*(a + b for a, b in zip(x, y, strict=True)))
    rest = f(*x) + f(*y) - both - f(*(0 * values for values in x))
    return bool(rest.abs().max() < 1e-3 * both.abs().max())


@pytest.mark.parametrize("recipe", NOT_CONSTANT, ids=named)
def test_exactly_the_affine_modules_are_affine_heads(recipe: Recipe) -> None:
    """Reference: additivity of the module's own logits, but for what all classes share; also where
    a class has no training rows, which some heads rank last."""
    with torch.no_grad():
        for made in (problem(), problem((120, 36, 20, 12, 4, 0))):
            if HEADS[recipe.head].uses_counts and not made.counts.all():
                continue
            plain = {k: v for k, v in recipe.settings.items() if not k.startswith("calibration")}
            module, _ = exported(Recipe(recipe.name, **plain), made)
            head = affine_head(module, recipe.views)
            assert (head is not None) == is_affine(module, recipe, made)
            if head is not None:
                x = {view: torch.from_numpy(made.x["test", view]) for view in recipe.views}
                expected = module(features(recipe, made))
                expected -= expected.mean(1, keepdim=True)
                assert (head.centred(x) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "recipes",
    [LINEAR, [*LINEAR[:3], OTHER_VIEW], [TWO_VIEWS, *LINEAR[:2], OTHER_VIEW]],
    ids=["one view", "two views", "a member of two views"],
)
def test_the_folded_head_is_the_mean_of_its_members(
    recipes: list[Recipe], made: Problem, tmp_path: Path
) -> None:
    """Reference: members' logits from their own modules, centred, over T, weighted by how often
    each was chosen; the folded head is a file like any other."""
    members = [
        Member(recipe.id, 0, count, 0.5 + 0.3 * place)
        for place, (recipe, count) in enumerate(
            zip(recipes, (3, 1, 2, 1, 1, 1, 4, 2, 1), strict=False)
        )
    ]
    modules = [exported(recipe, made)[0] for recipe in recipes]
    head = ensemble_head(
        members, [(m, recipe.views) for m, recipe in zip(modules, recipes, strict=True)]
    )
    total = sum(member.count for member in members)
    expected = torch.zeros(len(made.y["test"]), len(made.w0), dtype=torch.float64)
    with torch.no_grad():
        for member, module, recipe in zip(members, modules, recipes, strict=True):
            z = module(features(recipe, made)).double()
            z -= z.mean(1, keepdim=True)
            expected += member.count / total * z / member.temperature
        x = {view: torch.from_numpy(made.x["test", view]) for view in head.views}
        given = tuple(x.values()) if len(x) > 1 else next(iter(x.values()))
        assert (head(x) - expected).abs().max() < 1e-4
        assert (head.module(given) - expected).abs().max() < 1e-4
        facts = replace(facts_of(recipes[0], made), views=list(head.views))
        save_head(tmp_path / "h.safetensors", head.module, facts)
        loaded = load_head(tmp_path / "h.safetensors")
        assert torch.equal(loaded(given), head.module(given))


def test_a_member_that_cannot_be_folded_is_refused(made: Problem) -> None:
    """A file that says so was not made by `featbank ensemble`."""
    recipe = Recipe("knn")
    module, _ = exported(recipe, made)
    with pytest.raises(ConfigError, match="is not affine in the features"):
        ensemble_head([Member(recipe.id, 0, 1, 1.0)], [(module, recipe.views)])
