"""``featbank info``, ``verify``, ``merge`` and ``split``: inspect and rearrange banks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.characters import clipped
from featbank.cli.options import FILE, Integer, output_option, overwrite_option, val_options
from featbank.cli.terminal import say
from featbank.wording import listed, number

if TYPE_CHECKING:
    from featbank.bank.judged import Check

_BANK = click.argument("bank", type=FILE)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_OVERWRITE = overwrite_option("Replace existing files.")

_SHOWN = 8
"""Defects of a check that are shown; ``--json`` has all."""

_LISTED = 3
"""Views that are named in the line of features; more are counted."""


@click.command()
@_BANK
@_JSON
def info(*, bank: Path, as_json: bool) -> None:
    """Show a bank on one screen.

    \b
    featbank info bank.h5
    featbank info bank.h5 --json | jq .train_counts
    """
    from featbank.bank import Bank
    from featbank.bank.summary import history, summary

    with Bank(bank) as b:
        facts = summary(b)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    label = f"{facts['label']}: " if facts["label"] else ""
    say(
        f"{label}{bank}  ({facts['size'] / 2**20:.1f} MiB, schema {facts['schema']}, "
        f"fingerprint {facts['fingerprint'][:12]})"
    )
    _show_classes(facts)
    _show_splits(facts["splits"])
    if names := facts["source_group_names"]:
        first = listed((clipped(name, 20) for name in names), 3)
        say(f"  source groups are named {first} ({len(names):,} names)")
    for name, maps in facts["maps"].items():
        labels, cells = (f"{maps[part]:,}" for part in ("pixels", "cells"))
        say(f"  {name} has {number(maps['maps'], 'whole map')}, {labels} pixels on {cells} cells")
    names = list(facts["views"])
    views = f"views: {', '.join(names)}" if len(names) <= _LISTED else f"{len(names)} views"
    sizes = {view["dim"] for view in facts["views"].values()}
    dim = facts["dim"] if len(sizes) == 1 else f"{min(sizes)} … {max(sizes)}"
    say(f"features    D = {dim}, {facts['dtype']}, {views}")
    width = max(map(len, ["instance", *names])) + 1
    for name, view in facts["views"].items():
        size = f"D = {view['dim']}; " if len(sizes) > 1 else ""
        say(f"  {name:<{width}} {size}{_described(name, view)}")
    for step, text in history(facts["provenance"]):
        indent = "" if step == "made by" else "  "
        say(f"{indent + step:<11} {text}")


@click.command()
@_BANK
@_JSON
def verify(*, bank: Path, as_json: bool) -> None:
    """Read every byte of a bank and list everything that is wrong with it.

    A note is worth knowing but no defect. Exit code 2 where a check failed.

    \b
    featbank verify bank.h5
    featbank verify bank.h5 --json | jq '.checks[] | select(.status != "ok")'
    """
    from featbank.bank.verify import verify as check_all
    from featbank.cli.progress import progress
    from featbank.errors import Corrupt

    if as_json:
        checks = check_all(bank)
    else:
        with progress("MiB verified") as report:
            checks = check_all(bank, progress=report)
    wrong = [check.name for check in checks if check.status in ("failed", "skipped")]
    if as_json:
        click.echo(json.dumps(_verdict(bank, checks, not wrong), indent=2))
    else:
        for check in checks:
            _show_check(check)
    if wrong:
        raise Corrupt(
            f"{bank} failed {len(wrong)} of {len(checks)} checks: {', '.join(wrong)}. "
            "Restore or rebuild it."
        )
    if not as_json:
        notes = sum(check.status == "note" for check in checks)
        with_notes = f", {notes} with a note" if notes else ""
        say(f"{bank} passed {len(checks)} checks{with_notes}.")


@click.command()
@click.argument("banks", nargs=-1, required=True, type=FILE)
@output_option("The bank.")
@_OVERWRITE
def merge(*, banks: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Merge banks: shards one after another, or views of the same rows side by side.

    Banks with the same views are shards; the rows of each split come in the order given. Banks
    with no view in common must have the same rows.

    \b
    featbank merge shards/bank-*of4.h5 -o bank.h5
    featbank merge instance.h5 clip.h5 -o both.h5
    """
    from featbank.bank.merge import merge as merge_banks
    from featbank.cli.progress import progress

    with progress("MiB merged") as report:
        merged = merge_banks(banks, output, overwrite=overwrite, progress=report)
    how = {
        "shards": "the rows of {n} shards, one after another",
        "views": "the views of {n} banks, side by side",
    }[merged.kind].format(n=len(banks))
    say(f"Wrote {output}: {how}. {_fingerprint_line(output)}")
    if merged.borrowed:
        say(
            f"Note: {', '.join(merged.borrowed)} had no stage-1 classifier and now has the "
            "instance view's."
        )
    if merged.borrowed_text:
        say(
            f"Note: {', '.join(merged.borrowed_text)} had no text and now has the instance view's: "
            "right only where one model made both."
        )


@click.command()
@_BANK
@val_options
@click.option(
    "--val-from-test",
    type=Integer(1),
    metavar="M",
    help="Move M rows of each class of test to val, at most half of a class, where stage 1 has "
    "seen all of train. Results then say that test is the rest.",
)
@click.option(
    "--by-group",
    is_flag=True,
    help="Take val by whole source groups (images, patients), about as many rows of each class.",
)
@click.option("--seed", type=Integer(0), help="Seed of the draw of val. [default: 0]")
@click.option(
    "--seen",
    type=click.Choice(["train", "none"]),
    help="Rows that stage 1 was trained on; none for a frozen pretrained model. [default: train "
    "where there is a stage-1 classifier]",
)
@click.option("--shards", type=Integer(2), help="Number of banks to cut into.")
@output_option("The bank; with --shards the folder, made where it is missing.")
@_OVERWRITE
def split(
    *,
    bank: Path,
    val_per_class: int | None,
    val_fraction: float | None,
    val_from_test: int | None,
    by_group: bool,
    seed: int | None,
    seen: str | None,
    shards: int | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Hold a val split out of test or train, or cut a bank into shards.

    The best val is one that stage 1 never saw: `featbank train --val-per-class` holds it out of
    the images. For a bank whose stage 1 has seen all of train, take val from test. For one whose
    backbone has seen no row of train, hold val out of train: the groups many, medium and few stay
    as they were, by train and val together.

    Held-out rows keep their index into the source data. Shards are named bank-0of4.h5, …;
    `featbank merge` joins them into the same bank again.

    \b
    featbank split bank.h5 --val-from-test 5 -o with-val.h5
    featbank split frozen.h5 --val-fraction 0.2 --seen none -o with-val.h5
    featbank split pixels.h5 --val-fraction 0.2 --by-group -o with-val.h5
    featbank split bank.h5 --shards 4 -o shards
    """
    from featbank.bank import Bank, HoldOut
    from featbank.bank.classes import SEEN_VAL
    from featbank.bank.split import split_shards, split_val
    from featbank.cli.progress import progress
    from featbank.errors import ConfigError

    if sum(n is not None for n in (val_per_class, val_fraction, val_from_test, shards)) != 1:
        raise ConfigError(
            "Splitting takes --val-from-test M, --val-per-class N, --val-fraction F or --shards N. "
            "Give one of them."
        )
    if shards is not None:
        if seed is not None or seen is not None or by_group:
            raise ConfigError(
                "--seed, --seen and --by-group are for val. Leave them out with --shards."
            )
        with progress("MiB written") as report:
            paths = split_shards(bank, output, shards, overwrite=overwrite, progress=report)
        together = output / f"{bank.stem}-*of{shards}.h5"
        say(
            f"Wrote {paths[0]} … {paths[-1].name}: {shards} shards. "
            f"Join them with: featbank merge {together} -o BANK"
        )
        return
    how = HoldOut(val_from_test or val_per_class, val_fraction, seed or 0)
    with progress("MiB written") as report:
        held_out = split_val(
            bank,
            output,
            how,
            of="train" if val_from_test is None else "test",
            by_group=by_group,
            seen=None if seen is None else seen == "train",
            overwrite=overwrite,
            progress=report,
        )
    say(f"Wrote {output}: {held_out}. {_fingerprint_line(output)}")
    with Bank(output) as written:
        if written.seen("val").any():
            say(f"Note: {SEEN_VAL}")


def _show_classes(facts: Mapping[str, Any]) -> None:
    most, least = max(facts["train_counts"]), min(facts["train_counts"])
    ratio = f"{most / least:.0f}" if least else "∞: a class is empty"
    say(
        f"classes     K = {facts['num_classes']}, training samples {most} … {least} "
        f"(imbalance {ratio})"
    )
    for group in facts["groups"].values():
        say(
            f"  {group['name']:<9} {number(len(group['classes']), 'class', 'classes'):>12}, "
            f"{number(group['samples'], 'sample')} ({group['rule']})"
        )
    if facts["outside_counts"]:
        say(f"  counts from outside, {max(facts['full_counts'])} … {min(facts['full_counts'])}")
    elif facts["full_counts"] != facts["train_counts"]:
        say("  grouped by train and the rows held out of it together")
    if facts["background"] is not None:
        say(f"  background {facts['class_names'][facts['background']]}, in no group")


def _show_splits(splits: Mapping[str, Any]) -> None:
    shortened = any(split["from_test"] for split in splits.values())
    say("splits                    rows  classes    per class  source")
    for name, split in splits.items():
        least, most = split["per_class"]
        per_class = str(most) if least == most else f"{least} … {most}"
        notes = [
            split["source"],
            *(["with paths"] if split["paths"] else []),
            *(["with cells"] if split["cells"] else []),
            *(_grouped(split["source_groups"])),
            *(["held out of train"] if split["held_out"] else []),
            *(["taken from test"] if split["from_test"] else []),
            *(["without the rows of val"] if name == "test" and shortened else []),
            *([_seen_text(split)] if split["seen"] or (split["rows"] and name != "test") else []),
        ]
        source = ", ".join(notes)
        figures = f"{split['rows']:>14} {split['classes']:>8} {per_class:>12}"
        say(f"  {name:<14}{figures}  {source}")
    if not splits.get("val", {}).get("rows"):
        way = "--val-from-test 5" if splits["train"]["seen"] else "--val-fraction 0.2"
        say(f"  val           none to select by; `featbank split BANK {way}` makes one")


def _grouped(groups: int | None) -> list[str]:
    return [] if groups is None else [number(groups, "source group")]


def _seen_text(split: Mapping[str, Any]) -> str:
    """The share of a split's rows that stage 1 was trained on, in words."""
    if not split["seen"]:
        return "not seen by stage 1"
    return ("" if split["seen"] == split["rows"] else f"{split['seen']} rows ") + "seen by stage 1"


def _described(name: str, view: Mapping[str, Any]) -> str:
    """``4 copies of train; stage-1 classifier; 31 BatchNorm layers``; where recipes scale the
    features, ``norm 103.2, scaled by default``, or ``scaled by default: unit``."""
    copies = [f"{n} copies of {split}" for split, n in view["copies"].items() if n > 1]
    classifier = {name: "stage-1 classifier", None: "no stage-1 classifier"}.get(
        view["classifier"], "stage-1 classifier of instance"
    )
    layers, norm, weight = (view[key] for key in ("batchnorm_layers", "norm", "expert_weight"))
    scale, text = view["default_scale"], view["text"]
    scaled = ", scaled by default" if scale is None else ""
    return "; ".join(
        [
            *([] if view["tokens"] is None else [f"{number(view['tokens'], 'token')} per row"]),
            *copies,
            classifier,
            *([] if text is None else [_embedded(text)]),
            f"{layers} BatchNorm layers" if layers else "no BatchNorm statistics",
            *([] if norm is None else [f"norm {norm:.4g}{scaled}"]),
            *([] if scale is None else [f"scaled by default: {scale}"]),
            *([] if weight == 1 else [f"weight {weight:g} in averages of experts"]),
        ]
    )


def _embedded(text: Mapping[str, Any]) -> str:
    """``text of 80 prompts, logit scale 100``."""
    return f"text of {number(text['prompts'], 'prompt')}, logit scale {text['logit_scale']:g}"


def _show_check(check: Check) -> None:
    status = check.status.upper() if check.status in ("failed", "skipped") else check.status
    lines = check.findings
    if len(lines) > _SHOWN:
        lines = (*lines[:_SHOWN], f"… and {len(lines) - _SHOWN} more (--json lists all)")
    lines = (*lines, *check.figures) if lines else (check.detail,)  # a detail has the figures
    for i, line in enumerate(lines):
        lead = f"{status:<7} {check.name:<11}" if i == 0 else " " * 19
        say(f"{lead} {line}")


def _verdict(bank: Path, checks: list[Check], passed: bool) -> dict[str, Any]:
    return {
        "path": str(bank),
        "fingerprint": _fingerprint_of(bank),
        "passed": passed,
        "checks": [
            {
                "name": check.name,
                "status": check.status,
                "detail": check.detail,
                "found": check.findings,
            }
            for check in checks
        ],
    }


def _fingerprint_of(path: Path) -> str | None:
    """The fingerprint of a bank, or None where it cannot be opened."""
    from featbank.bank import Bank
    from featbank.errors import BankError

    try:
        with Bank(path) as bank:
            return bank.fingerprint
    except BankError:
        return None


def _fingerprint_line(path: Path) -> str:
    return f"Fingerprint {str(_fingerprint_of(path))[:12]}."
