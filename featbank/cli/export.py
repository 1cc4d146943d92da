"""``featbank export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import (
    FILE,
    Integer,
    bank_option,
    device_option,
    epoch_option,
    memory_option,
    output_option,
    selection_options,
)
from featbank.cli.priors import GIVEN
from featbank.cli.terminal import say
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage2.export.exporting import Exported


@click.command()
@click.argument("results", type=FILE)
@click.argument("recipe")
@output_option("The file, .safetensors.")
@click.option("--onnx", type=FILE, help="Write ONNX too, to this file. Needs featbank[onnx].")
@click.option("--maps", is_flag=True, help="The ONNX file takes maps [B, D, H, W] of features.")
@click.option(
    "--backbone",
    type=FILE,
    help="The run or weights that `featbank extract` made the bank from: the ONNX file then takes "
    "images [B, C, H, W] of bytes, RGB, as large as in extraction.",
)
@click.option("--card", type=FILE, help="Write a model card too, to this file, .md.")
@bank_option
@selection_options("the file")
@click.option("--features", type=FILE, help="The bank, where it has moved since.")
@click.option("--seed", type=Integer(), help="One of the seeds swept. [default: the first]")
@epoch_option("selected where the bank has val")
@click.option(
    "--prior",
    metavar="PRIOR",
    help=f"Make the head for another class prior: {GIVEN}. [default: as its recipe makes it]",
)
@device_option
@memory_option("Budget, such as 2GiB, as in a sweep that streamed its features.")
def export(
    *,
    results: Path,
    recipe: str,
    output: Path,
    onnx: Path | None,
    maps: bool,
    backbone: Path | None,
    card: Path | None,
    **options: Any,
) -> None:
    """Write the head of a configuration of a results file.

    RECIPE is a rank of the leaderboard, an id (crt-1a2b3c4d), the beginning of one or of its
    digits, or the name of a recipe: its best configuration; ensemble is what `featbank ensemble`
    chose. Results keep no weights: it is trained again, and checked against what they hold.

    \b
    featbank export results.sqlite 1 -o head.safetensors
    featbank export results.sqlite crt -o head.safetensors --card head.md
    featbank predict head.safetensors bank.h5 -o predictions.npz
    featbank export results.sqlite crt -o head.safetensors --onnx model.onnx --backbone runs/digits
    """
    require_ending(output, ".safetensors")
    if onnx is not None:
        require_ending(onnx, ".onnx")
    elif backbone is not None:
        raise ConfigError("--backbone is for an ONNX file. Add --onnx model.onnx.")
    elif maps:
        raise ConfigError("--maps is for an ONNX file. Add --onnx head.onnx.")
    if card is not None:
        require_ending(card, ".md")
    from stage2.export.exporting import export_head

    if backbone is not None:
        from stage1.extraction.deployed import image_features

        options["backbone"] = lambda bank: image_features(backbone, bank)
    done = export_head(results, recipe, output, onnx=onnx, maps=maps, card=card, **options)
    files = [path for path in (output, onnx, card) if path is not None]
    say_exported(done, results, files, prior=options["prior"])


def say_exported(
    done: Exported, results: Path, files: Sequence[Path], *, prior: str | None = None
) -> None:
    """Print what was exported from results, how it agrees with them, and the next command; the
    first of the `files` is the head."""
    facts = done.facts
    changed = {split: count for split, count in done.changed.items() if count}
    what = f"{facts.recipe['id']} again, seed {facts.seed}, {facts.epoch} epoch"
    if "members" in facts.recipe["settings"]:
        what = f"the {facts.recipe['settings']['members']} members of {facts.recipe['id']} again"
    rows = " and ".join(f"{count} of {split}'s rows" for split, count in changed.items())
    agrees = f"but for {rows}, which another rounding tipped over" if rows else "row by row"
    say(f"Trained {what}: it classifies as in {results}, {agrees}.")
    if prior is not None:
        say(f"Its logits are then moved to the prior {prior}.")
    shown = " and ".join(map(str, files))
    say(f"Wrote {shown}. Next: featbank predict {files[0]} BANK -o predictions.npz")


def require_ending(path: Path, ending: str) -> None:
    """Raise where a file to be written is not called what it is."""
    if path.suffix != ending:
        raise ConfigError(f"{path} does not end in {ending}. Call it {path.stem}{ending}.")
