"""What a trained recipe is as a PyTorch module: its head reduced to one of the forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from featbank import errors
from stage2.export.forms import (
    Affine,
    AveragedHeads,
    Form,
    Gated,
    HeadModule,
    Means,
    Neighbours,
    Perceptron,
)
from stage2.methods.heads import Context, Parameters
from stage2.methods.heads.moments import pieces
from stage2.methods.recipe import Recipe


def head_module(
    recipe: Recipe, parameters: Parameters, contexts: Sequence[Context]
) -> HeadModule | AveragedHeads:
    """The module of a trained recipe.

    Parameters
    ----------
    recipe
        What was trained.
    parameters
        Of one configuration, as `stage2.engine.tile.Outcome` has them.
    contexts
        Of its views, in their order.

    Raises
    ------
    ConfigError
        For a head that nobody wrote a form for.
    """
    if recipe.head not in _FORM_OF:
        raise errors.ConfigError(
            f"Head {recipe.head!r} of recipe {recipe.name!r} has no form to export. Add one to "
            f"stage2/export/modules.py, or choose a recipe with one of: {', '.join(_FORM_OF)}."
        )
    scale, shift = parameters.get("calibration.scale"), parameters.get("calibration.shift")
    own = [parameters]
    if len(recipe.views) > 1:
        own = [
            {
                n.removeprefix(f"{view}."): p
                for n, p in parameters.items()
                if n.startswith(f"{view}.")
            }
            for view in recipe.views
        ]
    space = _space(recipe)
    forms = [_FORM_OF[recipe.head](p, c, recipe) for p, c in zip(own, contexts, strict=True)]
    forms = [form.behind(**space) for form in forms] if space else forms
    if len(forms) > 1:
        return AveragedHeads(forms, recipe.settings["average"], scale, shift)
    form = forms[0]
    if scale is not None and isinstance(form, Affine) and not form.some_empty:
        with torch.no_grad():  # u = a(Wx + b) + β is affine too
            weight, bias = scale[:, None] * form.weight, scale * form.bias
            bias = bias if shift is None else bias + shift
        folded = {"weight": weight, "bias": bias, "empty": form.empty}
        return HeadModule(Affine(folded, form.options))
    return HeadModule(form, scale, shift)


def _space(recipe: Recipe) -> dict[str, Any]:
    """The options of the space that a recipe's generator made its head see; none for its own."""
    own = recipe.part("generator") if recipe.generator else {}
    if recipe.generator is None or not recipe.generator.moves_features(own):
        return {}
    name = recipe.settings["generator"]
    if name != "tailcalib" and own.get("output_space") != "tukey":
        raise errors.ConfigError(
            f"Generator {name!r} of recipe {recipe.name!r} shows its head features of a space that "
            "has no form to export. Add it to stage2/export/modules.py."
        )
    return {"power": float(own["tukey"]), "unit": name == "tailcalib"}


def _affine(
    weight: Tensor, bias: Tensor | None = None, *, parts: int = 0, empty: Tensor | None = None
) -> Affine:
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    empty = torch.zeros_like(bias, dtype=torch.bool) if empty is None else empty
    return Affine({"weight": weight, "bias": bias, "empty": empty}, {"parts": parts})


def _stage1(context: Context) -> tuple[Tensor, Tensor]:
    assert context.weight0 is not None
    assert context.bias0 is not None
    return context.weight0, context.bias0


def _linear(p: Parameters, context: Context, recipe: Recipe) -> Form:
    return _affine(p["weight"], p["bias"], empty=p.get("empty"))


def _lws(p: Parameters, context: Context, recipe: Recipe) -> Form:
    weight, bias = _stage1(context)
    return _affine(p["scale"][:, None] * weight, p["scale"] * bias)


def _mislas(p: Parameters, context: Context, recipe: Recipe) -> Form:
    return _affine(p["scale"][:, None] * p["weight"], p["scale"] * p["bias"])


def _logit_adjust(p: Parameters, context: Context, recipe: Recipe) -> Form:
    weight, bias = _stage1(context)
    return _affine(weight, bias + p["shift"])


def _cosine(p: Parameters, context: Context, recipe: Recipe) -> Form:
    return _affine(p["scale"] * normalize(p["weight"], dim=1), parts=1)


def _tde(p: Parameters, context: Context, recipe: Recipe) -> Form:
    # ŵ − α⟨d̂, ŵ⟩d̂ of each part, as `TDE.evaluate` has it.
    direction = p["direction"]  # [H, D/H]
    parts = p["weight"].unflatten(1, direction.shape)
    length = torch.linalg.vector_norm(parts, dim=2, keepdim=True).clamp_min(1e-12)
    unit = parts * (p["scale"] / len(direction) / (length + p["gamma"]))
    rest = unit - p["alpha"] * (unit * direction).sum(2, keepdim=True) * direction
    return _affine(rest.flatten(1), parts=len(direction))


def _mlp(p: Parameters, context: Context, recipe: Recipe) -> Form:
    return Perceptron(p, {})


def _disalign(p: Parameters, context: Context, recipe: Recipe) -> Form:
    weight, bias = _stage1(context)
    return Gated({**p, "weight": weight, "bias": bias}, {})


def _ncm(p: Parameters, context: Context, recipe: Recipe) -> Form:
    options = {name: recipe.part("head")[name] for name in ("transform", "metric")}
    keys, origin = _keys(p["means"], options["metric"])
    tensors = {"center": p["center"], "origin": origin, "keys": keys, "empty": p["empty"]}
    return Means(tensors, options)


def _knn(p: Parameters, context: Context, recipe: Recipe) -> Form:
    options = {name: recipe.part("head")[name] for name in ("transform", "metric", "k")}
    x, labels = (torch.cat(list(some)) for some in zip(*pieces(context), strict=True))
    if options["transform"] == "cl2n":
        x = x - p["center"]
    if options["transform"] != "un":
        x = normalize(x, dim=1)
    keys, origin = _keys(x, options["metric"])
    tensors = {
        "center": p["center"],
        "origin": origin,
        "keys": keys,
        "labels": labels,
        "class_weight": p["class_weight"],
        "sharpness": p["sharpness"][None],
    }
    return Neighbours(tensors, options)


def _keys(rows: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """What rows are compared with, and the origin."""
    if metric == "cosine":
        return normalize(rows, dim=1), torch.zeros_like(rows[0])
    origin = rows.mean(0)
    return rows - origin, origin


_FORM_OF: dict[str, Callable[[Parameters, Context, Recipe], Form]] = {
    "linear": _linear,
    "cosine": _cosine,
    "lws": _lws,
    "mislas": _mislas,
    "disalign": _disalign,
    "tde": _tde,
    "mlp": _mlp,
    "tau_norm": _linear,
    "logit_adjust": _logit_adjust,
    "ncm": _ncm,
    "knn": _knn,
    "ridge": _linear,
    "lda": _linear,
}
"""How each head of `stage2.methods.heads.HEADS` becomes a form."""
