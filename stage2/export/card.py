"""Model cards: an exported head in Markdown, from its facts and the results file alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from featbank.characters import clipped, in_markdown
from featbank.wording import listed, number
from stage2.engine.metrics import METRICS
from stage2.export.closed_forms import Kernels
from stage2.export.facts import HeadFacts
from stage2.export.forms import Cache, Neighbours
from stage2.methods.bibliography import citation
from stage2.results.cite import uses
from stage2.results.differences import MeasuredRows
from stage2.results.leaderboard import differences
from stage2.results.results import Results
from stage2.results.significance import LEVEL, interval, resampled
from stage2.results.store import Run
from stage2.results.tables import Table

RESAMPLES = 2_000
"""Resamples of the bootstrap of an interval."""

CALIBRATION = ("ece", "mce", "nll", "brier")
"""Metrics of the table on calibration."""

_NAME = 40
"""Characters of a class's name."""


def model_card(
    results: Results,
    run: Run,
    head: tuple[nn.Module, HeadFacts],
    *,
    file: str,
    prior: str | None = None,
) -> str:
    """The card of a head.

    Parameters
    ----------
    results, run
        The results that the head is of, and its run.
    head
        The module, and the facts of its file.
    file
        Name of that file.
    prior
        The class prior that it was moved to.
    """
    module, facts = head
    epoch = facts.epoch
    splits = [split for split in results.about["rows"] if (split, epoch) in run.metrics]
    sections = {
        "What it is": _identity(results, run, facts),
        "Data": _data(results, facts, splits),
        "Accuracy": _accuracy(results, run, epoch, splits),
        "Calibration": _calibration(run, epoch, splits, facts),
        "Class prior": _prior(facts),
        "Selection": _selection(results, run),
        "Limits": _limits(results, facts, prior=prior, private=_has_rows(module)),
    }
    opening = (
        f"A classifier of {number(len(facts.class_names), 'class', 'classes')} on frozen features. "
        f"Its weights are in {in_markdown(file)}, the figures here are those of "
        f"{in_markdown(results.path.name)}. Written by featbank {facts.version}."
    )
    parts = [f"# {in_markdown(run.id)}", opening]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs]
    return "\n\n".join(parts) + "\n"


def _identity(results: Results, run: Run, facts: HeadFacts) -> Iterator[str]:
    made = f", made into {' + '.join(facts.views)} inside" if facts.inputs else ""
    inputs = " and ".join(f"{part.axes} of view {part.view}" for part in facts.arrays)
    changed = differences(results.board.rows_of(run.id)[0]) or "none"
    yield _items(
        f"Recipe: {in_markdown(run.name)}, seed {facts.seed}, {facts.epoch} epoch",
        f"Settings that differ from the preset: {in_markdown(changed)}",
        f"Input: features {in_markdown(f'{inputs}, as the bank stores them{made}')}",
        f"Output: logits [N, {len(facts.class_names)}] in the order of `class_names`",
    )
    sources = uses(run.name, run.parameters).items()
    cited = [f"{in_markdown(citation(key))} ({', '.join(why)})" for key, why in sources]
    if cited:
        yield "Sources:"
        yield _items(*cited)


def _data(results: Results, facts: HeadFacts, splits: Sequence[str]) -> Iterator[str]:
    about, counts = results.about, results.counts
    lines = []
    for split, rows in about["rows"].items():
        of_class = np.array(about["train_counts"]) if split == "train" else None
        if split in splits and (tested := results.store.tested(results.fingerprint, split)):
            of_class = tested.rows_of_classes(about["num_classes"])
        spread = "–" if of_class is None else f"{of_class.min()}…{of_class.max()}"
        seen = about.get("seen", {}).get(split)
        lines.append([split, f"{rows}", spread, "–" if seen is None else f"{seen}"])
    yield f"Bank {in_markdown(Path(about['path']).name)}, fingerprint `{facts.bank}`."
    yield Table("", ["split", "rows", "rows per class", "seen by stage 1"], lines).markdown()
    groups = results.groups
    named = zip(groups.names, groups.rules, groups.masks.values(), strict=True)
    sizes = ", ".join(f"{name} {mask.sum()} ({rule})" for name, rule, mask in named)
    of = "samples, counted outside" if about.get("outside_counts") else "training rows"
    yield f"{len(counts)} classes of {counts.min()} to {counts.max()} {of}: {sizes}."


def _accuracy(results: Results, run: Run, epoch: str, splits: Sequence[str]) -> Iterator[str]:
    names: dict[str, None] = {}
    cells = {split: _intervals(results, run, epoch, split) for split in splits}
    for each in cells.values():
        names |= dict.fromkeys(each)
    lines = [[split, *(each.get(name, "–") for name in names)] for split, each in cells.items()]
    metrics = results.board.terms.metrics
    yield Table("", ["split", *(metrics[name].label for name in names)], lines).markdown()
    by_group = any(split in results.about.get("source_groups", {}) for split in splits)
    units = "whole source groups" if by_group else "the rows"
    yield f"Percent; in brackets {LEVEL} % intervals of this head, from a bootstrap over {units}."
    seeds = results.configurations[run.id].done
    if len(seeds) > 1 and "test" in splits:
        rows = results.on("test").board.rows_of(run.id)
        row = next((row for row in rows if row["epoch"] == epoch), rows[0])
        spread = (f"{metrics[n].label} {row[n]:.1f} ± {row[f'{n}_std']:.1f}" for n in names)
        yield f"On test, mean ± std over {len(seeds)} seeds: {', '.join(spread)}."


def _intervals(results: Results, run: Run, epoch: str, split: str) -> dict[str, str]:
    """The accuracies of a run on a split with their intervals."""
    values = run.metrics[split, epoch]
    known = [name for name in METRICS if METRICS[name].weights and values.get(name) is not None]
    tested = results.store.tested(results.fingerprint, split)
    if tested is None or not tested.has_units:
        return {name: f"{values[name]:.1f}" for name in known}
    correct = results.store.correct(results.fingerprint, run.recipe, split, epoch)
    of_bank = results.counts, results.class_names, results.groups
    rows = MeasuredRows(tested.labels, *of_bank, tested.groups, tested.rows)
    weights = rows.weights()
    known = [name for name in known if name in weights]
    drawn = resampled(
        correct.astype(np.int64),
        tested.labels,
        np.stack([weights[name] for name in known]),
        RESAMPLES,
        np.random.default_rng(0),
        groups=tested.groups,
        rows=tested.rows,
    )
    ends = zip(known, *(100 * interval(drawn)), strict=True)
    return {name: f"{values[name]:.1f} ({low:.1f}–{high:.1f})" for name, low, high in ends}


def _calibration(run: Run, epoch: str, splits: Sequence[str], facts: HeadFacts) -> Iterator[str]:
    lines = [
        [split, *(_figure(name, run.metrics[split, epoch].get(name)) for name in CALIBRATION)]
        for split in splits
    ]
    yield Table("", ["split", *(METRICS[name].label for name in CALIBRATION)], lines).markdown()
    fitted = facts.recipe["settings"].get("calibration", "none")
    if "members" in facts.recipe["settings"]:
        yield "Each member is divided by a temperature fitted on val."
    elif fitted == "none":
        yield "No calibration was fitted: take its probabilities as scores."
    else:
        clean = facts.prior is not None and facts.prior.calibrated
        of = "rows of val that stage 1 never saw" if clean else "val, where its figures flatter it"
        yield f"Calibrated by {fitted} scaling, fitted on {of}."


def _prior(facts: HeadFacts) -> Iterator[str]:
    prior = facts.prior
    assert prior is not None  # of every head that is exported
    shares, names = np.array(prior.source), facts.class_names
    if np.ptp(shares) < 1e-9:
        text = "equal shares of all classes"
    else:
        ends = {"largest": int(shares.argmax()), "smallest": int(shares.argmin())}
        text = ", ".join(f"{w} {_name(names[k])} {100 * shares[k]:.2g} %" for w, k in ends.items())
    yield f"The logits are made for this class prior: {text}."
    if prior.caveats:
        yield f"It is not exact: {', '.join(prior.caveats)}."
    yield "Where your rows have another, give it with `--prior` to `featbank predict`."


def _selection(results: Results, run: Run) -> Iterator[str]:
    board = replace(results.board, rows=results.board.rows_of(run.id))
    yield _items(*map(in_markdown, board.protocol_parts))


def _limits(
    results: Results, facts: HeadFacts, *, prior: str | None, private: bool
) -> Iterator[str]:
    about = results.about
    texts = [
        "It takes features of the backbone and the preprocessing that made the bank; on others "
        "its output means nothing.",
        f"It answers one of its {len(facts.class_names)} classes, whatever the input shows.",
    ]
    for split, seen in about.get("seen", {}).items():
        if seen and split != "train":
            texts.append(
                f"Stage 1 has seen {seen} of the {about['rows'][split]} rows of {split}: figures "
                "there are too good."
            )
    if results.select_on == "test":
        texts.append("The configuration was selected on test: its figures there are too good.")
    elif results.select_on == "val":
        texts.append(f"Val selected it among {len(results.tried)}: its figures there are too good.")
    pairs = zip(facts.class_names, about["train_counts"], strict=True)
    if untrained := [name for name, count in pairs if not count]:
        shown = listed(map(_name, untrained), 5)
        texts.append(f"{number(len(untrained), 'class', 'classes')} had no training row: {shown}.")
    if prior is not None:
        texts.append(f"Figures are those before it was moved to the prior {in_markdown(prior)}.")
    if private:
        texts.append("The file holds the training features: publish it only if they are public.")
    yield _items(*texts)


def _has_rows(module: nn.Module) -> bool:
    """Whether a head holds training rows."""
    return any(isinstance(part, Cache | Neighbours | Kernels) for part in module.modules())


def _figure(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{METRICS[name].decimals}f}"


def _name(name: str) -> str:
    return f"'{in_markdown(clipped(name, _NAME))}'"


def _items(*texts: str) -> str:
    return "\n".join(f"- {text}" for text in texts)
