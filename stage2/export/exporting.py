"""A stored configuration, or an ensemble of some, as a head in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import featbank
from featbank import errors
from featbank.bank import Bank, ClassGroups
from featbank.files import replacing
from stage2.export.card import model_card
from stage2.export.facts import HeadFacts
from stage2.export.folding import ensemble_head, evaluate
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headfile import save_head
from stage2.export.inputs import Inputs, inputs_of
from stage2.export.moving import mean_prior, recipe_prior, with_prior
from stage2.export.onnxfile import ImageModel, check_onnx, save_onnx
from stage2.export.retraining import changed_rows, retrain
from stage2.export.target import read_prior, transductive
from stage2.methods.recipe import Recipe
from stage2.results.configurations import Configuration
from stage2.results.ensembles import EnsembleRecipe, Member
from stage2.results.merging import only_folds
from stage2.results.results import Results
from stage2.results.store import Run, Store

BackboneOf = Callable[[Bank], Callable[[Sequence[str]], ImageModel]]
"""From a bank to the backbone it was extracted with, and from views to the module of them."""


@dataclass(frozen=True)
class Exported:
    """A head that was written.

    Attributes
    ----------
    module, facts
        The head, and the other contents of its file.
    changed
        Rows of each split that are classified differently from the results.
    """

    module: HeadModule | AveragedHeads
    facts: HeadFacts
    changed: dict[str, int]


def export_head(
    results: str | os.PathLike[str],
    name: str,
    output: str | os.PathLike[str],
    *,
    onnx: str | os.PathLike[str] | None = None,
    maps: bool = False,
    backbone: BackboneOf | None = None,
    card: str | os.PathLike[str] | None = None,
    bank: str | None = None,
    features: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    epoch: str | None = None,
    prior: str | None = None,
    device: str = "auto",
    memory: int | None = None,
    **selection: Any,
) -> Exported:
    """Train a stored configuration, or the members of an ensemble, again and write the head.

    Parameters
    ----------
    results
        A results file.
    name
        As `stage2.results.results.Results.find` takes it.
    output
        The file, ``.safetensors``; an existing one is replaced.
    onnx
        Write the head as ONNX too.
    maps
        Makes the ONNX file take maps [B, D, H, W].
    backbone
        Makes the ONNX file take images: the backbone of the bank that it is called with.
    card
        Write its model card too, in Markdown.
    bank
        Start of a fingerprint, if the results hold several banks.
    features
        The bank, if it has moved.
    seed
        One of the stored seeds; by default the first.
    epoch
        ``last`` or ``selected``; by default the one that ranks, ``selected`` where there is one.
    prior
        Class prior that the head's outputs are to be for, as `stage2.export.target.read_prior`
        takes it; by default the one that its recipe makes them for.
    device, memory
        As for `stage2.sweep`. A bank that was streamed needs the same `memory` for the same draws.
    selection
        ``select_on``, ``select_by``, ``select_epoch`` of `stage2.results.results.Results`.

    Raises
    ------
    ConfigError
        If nothing can be exported, or training does not reproduce the results.
    DataError
        For a `prior` that is none.
    Mismatch
        If the bank is not the one the results are from.
    """
    for target in (output, onnx, card):
        if target is not None and not (folder := Path(target).parent).is_dir():
            raise errors.ConfigError(f"{folder} is not a folder. Create it first.")
    if onnx is not None:
        check_onnx()
    if prior is not None and transductive(prior):
        raise errors.ConfigError(
            f"An export has no rows to estimate a prior from by {prior}. Give uniform, values or a "
            "file, or estimate it in predict or evaluate."
        )
    with Store(results) as store:
        stored = Results(store, bank=bank, **selection)
        configuration = stored.find(name)
        run = _run_of(configuration, seed)
        epoch = _epoch_of(configuration, run, epoch)
        with Bank(bank_path(stored, features)) as opened:
            images_to = None if backbone is None else backbone(opened)
            shares = None if prior is None else read_prior(prior, list(opened.class_names))
            export = _ensemble if configuration.is_ensemble else _recipe
            training = {"device": device, "memory": memory}
            done = export(stored, opened, run, epoch, target=shares, training=training)
            images = images_to and images_to([part.view for part in done.facts.arrays])
        if card is not None:
            head, file = (done.module, done.facts), Path(output).name
            text = model_card(stored, run, head, file=file, prior=prior)
    save_head(output, done.module, done.facts)
    if onnx is not None:
        save_onnx(onnx, done.module, done.facts, backbone=images, maps=maps)
    if card is not None:
        with replacing(Path(card)) as part:
            part.write_text(text, encoding="utf-8")
    return done


def bank_path(results: Results, features: str | os.PathLike[str] | None) -> Path:
    """The path of the bank that results are of, `features` where it has moved.

    Raises
    ------
    ConfigError
        If it is no longer where it was.
    """
    place = Path(features if features is not None else results.about["path"])
    if features is None and not place.exists():
        raise errors.ConfigError(
            f"The bank of {results.path} was {place}, which is not there. "
            "Say where it is with --features."
        )
    return place


def _recipe(
    results: Results,
    bank: Bank,
    run: Run,
    epoch: str,
    *,
    target: np.ndarray | None,
    training: Mapping[str, Any],
) -> Exported:
    """The head of a run, trained again."""
    (again,) = retrain(results, bank, [(run, epoch)], **training)
    metrics = {split: evaluation.metrics for split, evaluation in again.evaluations.items()}
    facts = _facts(bank, again.recipe, run.seed, epoch, metrics)
    calibrated = again.calibrated
    implied = recipe_prior(bank, again.recipe, again.temperature, calibrated=calibrated)
    module, prior = with_prior(
        bank, again.module, facts.views, implied, calibrated=calibrated, target=target
    )
    return _exported(module, replace(facts, prior=prior), again.changed_rows(results))


def _ensemble(
    results: Results,
    bank: Bank,
    run: Run,
    epoch: str,
    *,
    target: np.ndarray | None,
    training: Mapping[str, Any],
) -> Exported:
    """The members of an ensemble, trained again and folded into one head."""
    recipe = EnsembleRecipe.of(run.parameters)
    members = [_member(results, member) for member in recipe.members]
    again = retrain(results, bank, members, calibrated=False, **training)
    for each in again:
        each.changed_rows(results)
    head = ensemble_head(recipe.members, [(each.module, each.recipe.views) for each in again])
    changed = {}
    if ("test", epoch) in run.metrics:  # figures on val are cross-fitted, not of this head
        changed = changed_rows(results, run, {"test": evaluate(head, bank, "test")}, epoch)
    metrics = {split: dict(values) for (split, _), values in run.metrics.items()}
    facts = _facts(bank, recipe, run.seed, epoch, metrics)
    implied = mean_prior(
        [
            recipe_prior(bank, each.recipe, member.temperature, calibrated=False)
            for each, member in zip(again, recipe.members, strict=True)
        ],
        [member.count / sum(m.count for m in recipe.members) for member in recipe.members],
    )
    module, prior = with_prior(  # its members were chosen and scaled on val
        bank, head.module, facts.views, implied, calibrated=True, target=target
    )
    return _exported(module, replace(facts, prior=prior), changed)


def _exported(
    module: HeadModule | AveragedHeads, facts: HeadFacts, changed: dict[str, int]
) -> Exported:
    """A head that takes the arrays of its facts."""
    module.inputs = Inputs(facts.inputs) if facts.inputs else None
    return Exported(module, facts, changed)


def _member(results: Results, member: Member) -> tuple[Run, str]:
    """The run of a member, and the epoch that ranks it."""
    configuration = results.configurations.get(member.id)
    runs = configuration.done if configuration else []
    for run in runs:
        if run.seed == member.seed:
            return run, run.measured_at("val", "selected")
    raise errors.ConfigError(
        f"{results.path} has no run of {member.id} with seed {member.seed}, a member of its "
        "ensemble. Run `featbank ensemble` again."
    )


def _facts(
    bank: Bank,
    recipe: Recipe | EnsembleRecipe,
    seed: int,
    epoch: str,
    metrics: dict[str, dict[str, float | None]],
) -> HeadFacts:
    settings = recipe.settings if isinstance(recipe, Recipe) else recipe.parameters
    groups = bank.class_groups
    usual = groups.equals(ClassGroups.usual(bank.full_counts))
    return HeadFacts(
        class_names=list(bank.class_names),
        views=list(recipe.views),
        dim=bank.dim_of(recipe.views[0]),
        bank=bank.fingerprint,
        recipe={"id": recipe.id, "name": recipe.name, "settings": settings},
        seed=seed,
        epoch=epoch,
        metrics=metrics,
        groups=dict(zip(groups.names, groups.rules, strict=True)),
        version=featbank.__version__,
        inputs=inputs_of(bank, recipe.views),
        members=[] if usual else groups.member.tolist(),
        background=bank.background,
    )


def _run_of(configuration: Configuration, seed: int | None) -> Run:
    """The run of a seed, the first without one."""
    runs = {run.seed: run for run in configuration.runs}
    run = configuration.runs[0] if seed is None else runs.get(seed)
    if run is None:
        seeds = ", ".join(map(str, runs))
        raise errors.ConfigError(f"{configuration.id} has no run of seed {seed}. It has: {seeds}.")
    if only_folds(split for split, _ in run.metrics):
        raise errors.ConfigError(
            f"{configuration.id} was trained on folds alone: there is nothing to check a head "
            "against. Sweep it without --folds first."
        )
    if run.status != "done":
        raise errors.ConfigError(
            f"{configuration.id} {run.status} with seed {run.seed}: there is no head to export. "
            "Choose another seed or configuration."
        )
    return run


def _epoch_of(configuration: Configuration, run: Run, epoch: str | None) -> str:
    """The epoch that is exported."""
    measured = {when for _, when in run.metrics}
    if epoch is not None and epoch not in measured:
        raise errors.ConfigError(
            f"{configuration.id} has no {epoch} epoch: it is not trained in epochs, or its bank "
            "has no val. Leave --epoch out."
        )
    return epoch or ("selected" if "selected" in measured else "last")
