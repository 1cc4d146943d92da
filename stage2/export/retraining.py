"""Stored runs, trained again: a results file keeps no weights.

Training is deterministic and takes seconds, so runs are trained again on their bank, together, and
must reproduce what is stored of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from featbank import errors
from featbank.bank import Bank
from stage2.engine.metrics import Evaluation
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.modules import head_module
from stage2.features.loading import class_counts, facts_of, starts_of
from stage2.features.probe import Probe, probe_for, probe_on_scaled
from stage2.features.scale import Scaling, scaling_of
from stage2.methods.heads import Context
from stage2.methods.recipe import Recipe
from stage2.results.agreement import agree
from stage2.results.probes import KeptProbes
from stage2.results.results import Results
from stage2.results.store import Run
from stage2.sweep import sweep


@dataclass(frozen=True)
class Retrained:
    """A run that was trained again.

    Attributes
    ----------
    run, recipe
        What was trained.
    epoch
        The epoch of the head, ``last`` or ``selected``.
    module
        The head at this epoch.
    evaluations
        At this epoch, by split; none where it diverged.
    calibrated
        Whether a calibration was fitted.
    temperature
        Its T; 1 without one, and for one by class.
    """

    run: Run
    recipe: Recipe
    epoch: str
    module: HeadModule | AveragedHeads
    evaluations: dict[str, Evaluation]
    calibrated: bool = False
    temperature: float = 1.0

    def changed_rows(self, results: Results) -> dict[str, int]:
        """As of `changed_rows`."""
        return changed_rows(results, self.run, self.evaluations, self.epoch)


def retrain(
    results: Results,
    bank: Bank,
    wanted: Sequence[tuple[Run, str]],
    *,
    calibrated: bool = True,
    device: str = "auto",
    memory: int | None = None,
) -> list[Retrained]:
    """Train stored runs again; whether they are as stored, `changed_rows` says.

    Parameters
    ----------
    results
        The results.
    bank
        The bank that they are of.
    wanted
        Runs that are done, each with the epoch of its head, ``last`` or ``selected``.
    calibrated
        Give the heads their calibrations.
    device, memory
        As for `stage2.sweep`.

    Raises
    ------
    ConfigError
        If a run was stored by a version with other settings, or a head has no form to export.
    Mismatch
        If the bank is not the one the results are from.
    """
    if bank.fingerprint != results.fingerprint:
        raise errors.Mismatch(
            f"{bank.path} has the fingerprint {bank.fingerprint[:12]}, the results are "
            f"of {results.fingerprint[:12]}. Give the bank they are of with --features."
        )
    recipes = [_recipe_of(run) for run, _ in wanted]
    kept = KeptProbes(results.store, results.fingerprint)
    trained = sweep(bank, recipes, device=device, memory=memory, probes=kept)
    outcomes = {outcome.recipe.hash: outcome for outcome in trained.outcomes}
    heads, scaling = [], cache(scaling_of)
    for recipe, (run, epoch) in zip(recipes, wanted, strict=True):
        outcome = outcomes[recipe.hash]
        evaluations = {s: e for (s, when), e in outcome.evaluations.items() if when == epoch}
        parameters = outcome.selected if epoch == "selected" else outcome.parameters
        scalings = [scaling(bank, view, recipe.feature_scale) for view in recipe.views]
        module = head_module(
            recipe,
            {
                part: values
                for part, values in parameters.items()
                if calibrated or not part.startswith("calibration.")
            },
            [
                _context(bank, recipe, view, trained.probes, scaling)
                for view, scaling in zip(recipe.views, scalings, strict=True)
            ],
            scalings,
        )
        scale = parameters.get("calibration.scale")
        temperature = 1 / float(scale) if scale is not None and len(scale) == 1 else 1.0
        head = Retrained(run, recipe, epoch, module, evaluations, scale is not None, temperature)
        heads.append(head)
    return heads


def changed_rows(
    results: Results, run: Run, evaluations: Mapping[str, Evaluation], epoch: str
) -> dict[str, int]:
    """Count the rows of each split that are classified differently from the results.

    Raises
    ------
    ConfigError
        If there are too many, another likelihood, or no evaluation at all.
    """
    changed = {}
    for split, evaluation in evaluations.items():
        stored = results.store.correct(results.fingerprint, run.recipe, split, epoch)
        rows = results.about["rows"][split]
        before, now = (m["nll"] for m in (run.metrics[split, epoch], evaluation.metrics))
        assert before is not None  # of a run that is done
        assert now is not None
        same, changed[split] = agree((stored, evaluation.correct), (before, now), rows)
        if not same:
            raise errors.ConfigError(
                f"{run.id}, trained again, classifies {changed[split]} of {rows} "
                f"rows of {split} otherwise than in {results.path}, NLL {now:.5g} instead of "
                f"{before:.5g}. Give --memory and --device as in that sweep, or sweep it again "
                "with --force."
            )
    if not changed:
        raise errors.ConfigError(f"{run.id}, trained again, diverged. Sweep it again with --force.")
    return changed


def _recipe_of(run: Run) -> Recipe:
    """The recipe of a run, as this version understands it."""
    recipe = Recipe(run.name, **run.parameters)
    if recipe.stepped:
        recipe = Recipe(run.name, **run.parameters, seed=run.seed)
    if recipe.hash != run.recipe:
        raise errors.ConfigError(
            f"{run.id} was stored by a version of featbank that had other settings. "
            "Sweep it again and export that."
        )
    return recipe


def _context(
    bank: Bank,
    recipe: Recipe,
    view: str,
    probes: dict[Probe, tuple[Tensor, Tensor]],
    scaling: Scaling | None,
) -> Context:
    """The parts of a view that a form may need: the stage-1 classifier and the training rows, as
    they are scaled."""
    split = recipe.settings["train_on"]

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        labels = torch.from_numpy(bank.labels(split))
        for copy in range(bank.copies(split, view)):
            for start, x in bank.blocks(split, view, copy=copy):
                rows = torch.from_numpy(x).float()
                yield scaling.apply_(rows) if scaling else rows, labels[start : start + len(x)]

    start, text = starts_of(bank, view, scaling)
    probe = probe_for(bank, view, recipe.cosine_scale, recipe.feature_scale)
    cosine = probe is not None and probe.scale is not None
    if recipe.starts_from_text:
        assert text is not None
        start = text.weight, text.weight.new_zeros(len(text.weight))
    elif probe in probes:
        weight, bias = (x.cpu() for x in probes[probe])
        start = (weight, bias) if cosine else probe_on_scaled((weight, bias), scaling)
    context = Context(
        class_counts(bank, split),
        bank.dim_of(view),
        torch.device("cpu"),
        blocks,
        text=text,
        tokens=bank.tokens(view),
        facts=facts_of(bank, split),
    )
    if start is None:
        return context
    return replace(context, weight0=start[0], bias0=start[1], unit0=cosine)
