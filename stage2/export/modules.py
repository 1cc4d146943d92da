"""A trained recipe as a PyTorch module: its head reduced to one of the forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from featbank import errors
from stage2.export.form import Form
from stage2.export.forms import FORMS, Affine, AveragedHeads, HeadModule, Scaled
from stage2.features.scale import Scaling
from stage2.methods.generators.tukey import STAGE1, FeatureSpace
from stage2.methods.heads import HEADS, Context, Parameters
from stage2.methods.recipe import Recipe


def head_module(
    recipe: Recipe,
    parameters: Parameters,
    contexts: Sequence[Context],
    scalings: Sequence[Scaling | None],
) -> HeadModule | AveragedHeads:
    """The module of a trained recipe.

    Parameters
    ----------
    recipe
        What was trained.
    parameters
        Of one configuration, as `stage2.engine.outcome.Outcome` has them.
    contexts
        Of its views, in their order, with features as they were scaled in training.
    scalings
        How they were scaled, view by view. The module takes features as they were before.

    Raises
    ------
    ConfigError
        For a head, or the space of a generator, that cannot be exported.
    """
    scale, shift = (parameters.get(f"calibration.{name}") for name in ("scale", "shift"))
    space = _space(recipe)
    forms = [
        _form(recipe, _of_view(recipe, view, parameters), context, space, scaling)
        for view, context, scaling in zip(recipe.views, contexts, scalings, strict=True)
    ]
    if len(forms) > 1:
        return AveragedHeads(forms, recipe.settings["average"], scale, shift, recipe.shares)
    form = forms[0]
    if scale is not None and isinstance(form, Affine) and not form.some_empty:
        with torch.no_grad():  # u = a(Wx + b) + β is affine too
            weight, bias = scale[:, None] * form.weight, scale * form.bias
            bias = bias if shift is None else bias + shift
        folded = {"weight": weight, "bias": bias, "empty": form.empty}
        return HeadModule(Affine(folded, form.options))
    return HeadModule(form, scale, shift)


def shifted(module: HeadModule | AveragedHeads, shift: np.ndarray) -> HeadModule | AveragedHeads:
    """A head whose logits have `shift` [K] added: in its bias where it is no more than affine, else
    behind everything it does."""
    added = torch.from_numpy(shift).float()
    if isinstance(module, AveragedHeads):
        behind = added if module.shift is None else module.shift + added
        return AveragedHeads([*module.forms], module.average, module.scale, behind, module.shares)
    form = module.form
    if isinstance(form, Affine) and not form.some_empty and module.scale is module.shift is None:
        tensors = {"weight": form.weight, "bias": form.bias + added, "empty": form.empty}
        return HeadModule(Affine(tensors, form.options))
    return HeadModule(form, module.scale, added if module.shift is None else module.shift + added)


def _of_view(recipe: Recipe, view: str, parameters: Parameters) -> Parameters:
    """The parameters of the head on one view, without the name of the view and any calibration."""
    prefix = f"{view}." if len(recipe.views) > 1 else ""
    return {
        name.removeprefix(prefix): values
        for name, values in parameters.items()
        if name.startswith(prefix) and not name.startswith("calibration.")
    }


def _form(
    recipe: Recipe,
    parameters: Parameters,
    context: Context,
    space: FeatureSpace,
    scaling: Scaling | None,
) -> Form | Scaled:
    """The head on one view, behind the scale and the space of features it was trained in."""
    reduction = HEADS[recipe.head].form(parameters, recipe.part("head"), context)
    if reduction is None:
        raise errors.ConfigError(
            f"Head {recipe.head!r} of recipe {recipe.name!r} has no form to export. Give the head "
            "a method `form`, or export a recipe with another head."
        )
    form = FORMS[reduction.form](reduction.tensors, {**reduction.options, **asdict(space)})
    return form if scaling is None else _scaled(form, scaling, space)


def _scaled(form: Form, scaling: Scaling, space: FeatureSpace) -> Form | Scaled:
    """The form on features as they were; where it is affine in them, with other weights."""
    if isinstance(form, Affine) and space == STAGE1:
        if form.parts and scaling.unit:  # parts of length 1 do not depend on the row's
            return form
        if not form.parts:
            weight, bias = scaling.undone(form.weight.detach(), form.bias.detach())
            options = {**form.options, "parts": int(scaling.unit)}
            return Affine({"weight": weight, "bias": bias, "empty": form.empty}, options)
    scale = {"input_scale": scaling.factor}
    if scaling.unit:
        scale["input_unit"] = torch.ones(1)
    return Scaled(form, scale if scaling.shift is None else {**scale, "input_shift": scaling.shift})


def _space(recipe: Recipe) -> FeatureSpace:
    """The space of features that the heads of a recipe see."""
    if recipe.generator is None:
        return STAGE1
    space = recipe.generator.space(recipe.part("generator"))
    if space is None:
        raise errors.ConfigError(
            f"Generator {recipe.settings['generator']!r} of recipe {recipe.name!r} trains heads on "
            "features of a space that an exported head cannot have. Export a recipe with another."
        )
    return space
