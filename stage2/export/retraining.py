"""Exporting a stored configuration: it is trained again and written as a head.

A results file keeps no weights. Training is deterministic and takes seconds, so the configuration
is trained again on its bank, and must reproduce what is stored of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import featbank
from featbank import errors
from featbank.bank import GROUPS, Bank
from stage2.engine.outcome import Outcome
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headfile import HeadFacts, save_head
from stage2.export.modules import head_module
from stage2.export.onnxfile import check_onnx, save_onnx
from stage2.features.views import class_counts
from stage2.methods.heads import Context
from stage2.methods.recipe import Recipe
from stage2.results.configurations import Configuration
from stage2.results.results import Results
from stage2.results.store import Run, Store
from stage2.sweep import sweep

ROWS = 0.005
"""Share of a split's rows that may be classified differently from the results: other processors and
numbers of threads round differently, and a row on the border of two classes may tip over."""

NLL = 1e-3
"""Allowed difference of the mean negative log-likelihood, absolute and relative."""


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
    bank: str | None = None,
    features: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    epoch: str | None = None,
    device: str = "auto",
    memory: int | None = None,
) -> Exported:
    """Train a stored configuration again and write its head.

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
    bank
        Start of a fingerprint, if the results hold several banks.
    features
        The bank, if it has moved.
    seed
        One of the stored seeds; by default the first.
    epoch
        ``last`` or ``selected``; by default the one that ranks, ``selected`` where there is one.
    device, memory
        As for `stage2.sweep`. A bank that was streamed needs the same `memory` for the same draws.

    Raises
    ------
    ConfigError
        If nothing can be exported, or training does not reproduce the results.
    Mismatch
        If the bank is not the one the results are from.
    """
    for target in (output, onnx):
        if target is not None and not (folder := Path(target).parent).is_dir():
            raise errors.ConfigError(f"{folder} is not a folder. Create it first.")
    if onnx is not None:
        check_onnx()
    with Store(results) as store:
        stored = Results(store, bank=bank)
        configuration = stored.find(name)
        run = _run_of(configuration, seed)
        epoch = _epoch_of(configuration, run, epoch)
        recipe = _recipe_of(configuration, run)
        with Bank(_place(stored, configuration, features)) as opened:
            if opened.fingerprint != stored.fingerprint:
                raise errors.Mismatch(
                    f"{opened.path} has the fingerprint {opened.fingerprint[:12]}, the results are "
                    f"of {stored.fingerprint[:12]}. Give the bank they are of with --features."
                )
            trained = sweep(opened, [recipe], device=device, memory=memory)
            (outcome,) = trained.outcomes
            changed = _changed(stored, configuration, run, outcome, epoch)
            parameters = outcome.selected if epoch == "selected" else outcome.parameters
            module = head_module(
                recipe,
                {part: values.cpu() for part, values in parameters.items()},
                [_context(opened, recipe, view, trained.probes) for view in recipe.views],
            )
            facts = HeadFacts(
                class_names=list(opened.class_names),
                views=list(recipe.views),
                dim=opened.dim,
                bank=opened.fingerprint,
                recipe={"id": recipe.id, "name": recipe.name, "settings": recipe.settings},
                seed=run.seed,
                epoch=epoch,
                metrics={
                    s: e.metrics for (s, when), e in outcome.evaluations.items() if when == epoch
                },
                groups=dict(GROUPS),
                version=featbank.__version__,
            )
    save_head(output, module, facts)
    if onnx is not None:
        save_onnx(onnx, module, facts)
    return Exported(module, facts, changed)


def _run_of(configuration: Configuration, seed: int | None) -> Run:
    """The run of a seed, the first without one."""
    runs = {run.seed: run for run in configuration.runs}
    run = configuration.runs[0] if seed is None else runs.get(seed)
    if run is None:
        seeds = ", ".join(map(str, runs))
        raise errors.ConfigError(f"{configuration.id} has no run of seed {seed}. It has: {seeds}.")
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


def _recipe_of(configuration: Configuration, run: Run) -> Recipe:
    """The recipe of a run, as this version understands it."""
    recipe = Recipe(configuration.name, **configuration.parameters)
    if recipe.stepped:
        recipe = Recipe(configuration.name, **configuration.parameters, seed=run.seed)
    if recipe.hash != run.recipe:
        raise errors.ConfigError(
            f"{configuration.id} was stored by a version of featbank that had other settings. "
            "Sweep it again and export that."
        )
    return recipe


def _place(
    results: Results, configuration: Configuration, features: str | os.PathLike[str] | None
) -> Path:
    """The path of the bank."""
    place = Path(features if features is not None else results.about["path"])
    if features is None and not place.exists():
        raise errors.ConfigError(
            f"The bank of {configuration.id} was {place}, which is not there. "
            "Say where it is with --features."
        )
    return place


def _changed(
    results: Results, configuration: Configuration, run: Run, outcome: Outcome, epoch: str
) -> dict[str, int]:
    """Rows of each split that are classified differently from the results; raise if too many."""
    changed = {}
    for (split, when), evaluation in outcome.evaluations.items():
        if when != epoch:
            continue
        stored = results.store.correct(results.fingerprint, run.recipe, split, epoch)
        before, now = (m["nll"] for m in (run.metrics[split, epoch], evaluation.metrics))
        changed[split] = int(np.count_nonzero(stored != evaluation.correct))
        assert before is not None  # of a run that is done
        assert now is not None
        same = abs(now - before) <= NLL * max(1, abs(before))
        if changed[split] > max(1, ROWS * len(stored)) or not same:
            raise errors.ConfigError(
                f"{configuration.id}, trained again, classifies {changed[split]} of {len(stored)} "
                f"rows of {split} otherwise than in {results.path}, NLL {now:.5g} instead of "
                f"{before:.5g}. Give --memory and --device as in that sweep, or sweep it again "
                "with --force."
            )
    if not changed:
        raise errors.ConfigError(
            f"{configuration.id}, trained again, diverged. Sweep it again with --force."
        )
    return changed


def _context(
    bank: Bank, recipe: Recipe, view: str, probes: dict[str, tuple[Tensor, Tensor]]
) -> Context:
    """The parts of a view that a form may need: the stage-1 classifier and the training rows."""
    split = recipe.settings["train_on"]

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        labels = torch.from_numpy(bank.labels(split))
        for copy in range(bank.copies(split, view)):
            for start, x in bank.blocks(split, view, copy=copy):
                yield torch.from_numpy(x).float(), labels[start : start + len(x)]

    start: Sequence[Tensor] = ()
    if view in probes:
        start = [values.cpu() for values in probes[view]]
    elif classifier := bank.classifier(view):
        start = [torch.from_numpy(values) for values in classifier]
    return Context(class_counts(bank, split), bank.dim, torch.device("cpu"), blocks, *start)
