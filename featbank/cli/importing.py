"""``featbank import``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.class_options import ClassFacts, class_options
from featbank.cli.map_options import map_options
from featbank.cli.options import (
    FILE,
    Integer,
    label_option,
    output_option,
    overwrite_option,
    val_options,
)
from featbank.cli.terminal import say
from featbank.cli.text_options import Texts, scale_option, text_options
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from featbank.bank import HoldOut
    from featbank.exchange import Arrays, PixelSample

_PAIR = (str, str)
_SPLITS = ("train", "val", "test", "train_balanced")


@click.command("import")
@click.argument("file", required=False, type=FILE)
@click.option("--train", type=_PAIR, metavar="X Y", help="Features [N, D] and labels [N] of train.")
@click.option("--val", type=_PAIR, metavar="X Y", help="The same of val.")
@click.option("--test", type=_PAIR, metavar="X Y", help="The same of test.")
@click.option(
    "--train-balanced", type=_PAIR, metavar="X Y", help="The same of a balanced train set (oracle)."
)
@click.option(
    "--view",
    "views",
    type=(str, str, str),
    multiple=True,
    metavar="VIEW SPLIT X",
    help="Features of a further view of a split, such as: --view balanced train xb.npy.",
)
@click.option("--classifier", type=_PAIR, metavar="W B", help="Stage-1 weight [K, D] and bias [K].")
@click.option(
    "--view-classifier",
    "view_classifiers",
    type=(str, str, str),
    multiple=True,
    metavar="VIEW W B",
    help="The classifier of a further view; without one, a view has that of --classifier.",
)
@click.option(
    "--class-names",
    type=FILE,
    help="File with one name per line, in label order. [default: of text labels, sorted]",
)
@click.option(
    "--labels",
    "kind",
    type=click.Choice(["names", "numbers"]),
    help="How labels are written. [default: numbers where all are whole numbers, else names]",
)
@click.option(
    "--renumber",
    is_flag=True,
    help="Number the ids that occur 0, 1, …, in ascending order; they become class names.",
)
@click.option(
    "--max-classes",
    type=Integer(2, 10_000_000),
    metavar="K",
    default=100_000,
    show_default=True,
    help="Classes that numeric labels may define where most have no row.",
)
@click.option(
    "--label-base",
    type=Integer(0, 1),
    default=0,
    show_default=True,
    help="First label: 1 in MATLAB.",
)
@click.option(
    "--ignore-label",
    "ignore",
    multiple=True,
    metavar="LABEL",
    help="Leave rows with this label out, as it is written, such as 255. Repeatable.",
)
@click.option(
    "--source-groups",
    type=_PAIR,
    multiple=True,
    metavar="SPLIT FILE[:KEY]",
    help="Image, patient or recording of each row, numbers or names [N]; val takes whole ones.",
)
@click.option(
    "--group-column",
    metavar="NAME",
    help="Column of source groups where FILE is a table. [default: source_group]",
)
@click.option(
    "--cells",
    type=_PAIR,
    multiple=True,
    metavar="SPLIT FILE[:KEY]",
    help="Row and column of each row, a pixel, in the grid of its image [N, 2].",
)
@class_options
@val_options
@click.option("--val-seed", type=Integer(0), metavar="S", help="Seed of their draw. [default: 0]")
@click.option(
    "--seen",
    type=click.Choice(["train", "train+val", "none"]),
    help="Rows that stage 1 was trained on; none for a frozen pretrained model. A given val counts "
    "as not seen without train+val. [default: train where there is a stage-1 classifier]",
)
@click.option(
    "--copies",
    type=Integer(1),
    metavar="A",
    help="Features with three axes are A augmentation copies, [A, N, D].",
)
@click.option(
    "--tokens",
    is_flag=True,
    help="Features with a further axis are T tokens per row, [N, T, D] (or [A, N, T, D]).",
)
@map_options
@text_options
@scale_option
@label_option
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="[default: as given]")
@output_option("The bank.", required=False)
@overwrite_option("Replace an existing bank.")
@click.option("--dry-run", is_flag=True, help="Show how the arrays are read, and write nothing.")
def import_(
    *,
    file: Path | None,
    views: tuple[tuple[str, str, str], ...],
    classifier: tuple[str, str] | None,
    view_classifiers: tuple[tuple[str, str, str], ...],
    class_names: Path | None,
    source_groups: tuple[tuple[str, str], ...],
    group_column: str | None,
    cells: tuple[tuple[str, str], ...],
    class_facts: ClassFacts,
    val_per_class: int | None,
    val_fraction: float | None,
    val_seed: int | None,
    seen: str | None,
    sample: PixelSample | None,
    texts: Texts,
    scale: str | None,
    label: str | None,
    dtype: str | None,
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Make a bank from arrays made elsewhere: timm, CLIP, DINO, a colleague's.

    X, Y, W and B are files, .npy .npz .h5 .mat .pt .safetensors .csv .parquet .feather .arrow
    .tar, a folder of Zarr or of Hugging Face's datasets, or a key or column in one,
    feats.h5:train/x; many files are one, 'part-*.npy' or 'x-{000..127}.tar:npy'. X and Y may be
    folders with one file per image, or Y a table of its files; slides:features:mean pools the rows
    of each. Labels are numbers or class names. Features may have axes of length 1; copies need
    --copies, tokens --tokens. Text embeddings of the classes (--text) are matched to them by name.

    FILE may be what featbank export-features wrote: it is read back as it was, except
    BatchNorm statistics.

    FILE given alone names its keys x_train, y_train, x_test, …, further views x_train_balanced,
    the classifier w0 and b0, a view's w0_balanced and b0_balanced, text, class_names,
    source_group_train and cell_train; or it is a table with the columns embedding and label,
    and optionally split, index, path and source_group.

    \b
    featbank import --train x.npy y.npy --test xt.npy yt.npy --classifier w.npy b.npy -o bank.h5
    featbank import feats.npz --val-per-class 5 -o bank.h5
    featbank import frozen.npz --val-fraction 0.2 --seen none -o bank.h5
    featbank import table.parquet --dry-run
    featbank import exported/ -o bank.h5
    featbank import --train m.mat:X m.mat:y --label-base 1 -o bank.h5
    featbank import --train theirs.h5:train/x theirs.h5:train/y -o bank.h5
    featbank import --train features/ labels/ -o bank.h5
    featbank import --train slides:features:mean train.csv -o bank.h5
    featbank import --train x.npy taxon_ids.npy --renumber -o bank.h5
    featbank import --train crops.npy y.npy --copies 10 -o bank.h5
    featbank import --train patches.npy y.npy --tokens --scale unit -o bank.h5
    featbank import camera-traps.parquet --group-column location -o bank.h5
    featbank import pixels.npz --ignore-label 255 --groups head,body,tail:1%,0.1% -o bank.h5
    featbank import dense.npz --maps --ignore-label 255 --pixels-per-image 256 -o bank.h5
    featbank import clip.npz --text text.npz --logit-scale 100 --val-fraction 0.2 -o bank.h5
    """
    from featbank import exchange
    from featbank.bank.copying import refuse_inputs
    from featbank.bank.naming import check_label

    if output is None and not dry_run:
        raise ConfigError("No output was given. Add -o bank.h5, or --dry-run to write nothing.")
    if label is not None:
        check_label(label)
    pairs = {split: pair for split in _SPLITS if (pair := options.pop(split))}
    holding_out = _hold_out(val_per_class, val_fraction, val_seed)
    if holding_out and "val" in pairs:
        raise ConfigError(
            "There is a val split already, --val. Leave out --val-per-class and --val-fraction."
        )
    classifiers = [*([("instance", *classifier)] if classifier else []), *view_classifiers]
    if output is not None and output.exists():
        places = [
            *(str(path) for path in (file, class_names) if path),
            *itertools.chain.from_iterable(pairs.values()),
            *(place for _, _, place in views),
            *(place for _, *pair in classifiers for place in pair),
            *(place for _, place in (*source_groups, *cells)),
            *texts.places,
            *class_facts.places,
        ]
        refuse_inputs(output, [path for place in places for path in exchange.files_of(place)])
    arrays = _read_file(file, group_column)
    _add_arrays(arrays, pairs, views, classifiers, texts)
    for split, place in source_groups:
        exchange.add_source_groups(arrays, split, place)
    for split, place in cells:
        exchange.add_cells(arrays, split, place)
    _settle(arrays, class_names, sample, options)
    _describe_classes(arrays, class_facts)
    if scale is not None:
        arrays.default_scale = dict.fromkeys(arrays.features["train"], scale)
    if seen:
        exchange.mark_seen(arrays, seen.split("+") if seen != "none" else ())
    held_out = exchange.hold_out_val(arrays, holding_out) if holding_out else {}
    for line in exchange.report(arrays):
        say(line)
    if dry_run or output is None:
        say("Nothing was written: this was a dry run.")
        return
    options["labels"] = options.pop("kind")
    named = ("label_base", "labels", "renumber", "copies", "tokens", "ignore")
    recorded = {name: options[name] for name in named if options[name]}
    recorded |= {"ignored": arrays.ignored} if options["ignore"] else {}
    recorded |= sample.settings if sample else {}
    recorded |= held_out
    recorded |= {} if label is None else {"label": label}
    provenance = exchange.provenance(arrays, **recorded)
    write_arrays(output, arrays, dtype=dtype, provenance=provenance, overwrite=overwrite)
    say(f"Wrote {output}. Next: featbank info {output}")


def _add_arrays(
    arrays: Arrays,
    pairs: Mapping[str, tuple[str, str]],
    views: Iterable[tuple[str, str, str]],
    classifiers: Iterable[tuple[str, str, str]],
    texts: Texts,
) -> None:
    """Add the arrays that options name."""
    from featbank import exchange

    for split, pair in pairs.items():
        exchange.add_pair(arrays, split, *pair)
    for view, split, place in views:
        exchange.add_view(arrays, split, view, place)
    for view, weight, bias in classifiers:
        exchange.add_classifier(arrays, weight, bias, view=view)
    for view, place in texts.of_views:
        exchange.add_text(
            arrays, place, view=view, names=texts.names, logit_scale=texts.logit_scale
        )


def _settle(
    arrays: Arrays, class_names: Path | None, sample: PixelSample | None, options: dict[str, Any]
) -> None:
    """Number the labels and settle the axes, of maps once they are rows."""
    from featbank import exchange
    from featbank.texts import read_class_names

    names = read_class_names(class_names) if class_names else None
    if sample is None:
        exchange.settle(arrays, class_names=names, **options)
        return
    for name, flag in (("copies", "--copies"), ("tokens", "--tokens"), ("kind", "--labels")):
        if options[name]:
            raise ConfigError(f"{flag} is not for maps. Leave it out.")
    if arrays.cells or arrays.exported:
        what = "Cells are" if arrays.cells else "An export of a bank is"
        raise ConfigError(f"{what} of rows, --maps makes them. Leave one out.")
    renumber, base, ignore = options["renumber"], options["label_base"], options["ignore"]
    exchange.unfold_maps(arrays, names, sample, base=base, ignore=ignore, renumber=renumber)
    exchange.settle(arrays, max_classes=options["max_classes"])


def _describe_classes(arrays: Arrays, given: ClassFacts) -> None:
    """Add what the options say of the classes; groups count all rows of train."""
    from featbank.bank import class_counts
    from featbank.bank.class_table import CLASS_FACTS

    counts = class_counts(arrays.labels["train"], arrays.num_classes)
    for split, held_out in arrays.held_out.items():
        counts += class_counts(arrays.labels[split][held_out], arrays.num_classes)
    facts = given.resolved(
        arrays.class_names, counts, outside=arrays.outside_counts, background=arrays.background
    )
    for name in CLASS_FACTS:
        if name in facts:
            setattr(arrays, name, facts[name])
    if given.counts:
        arrays.places["class counts"] = given.counts


def write_arrays(output: Path, arrays: Arrays, **options: Any) -> None:
    """Write settled arrays as a bank; `options` of `featbank.bank.write_bank`."""
    from featbank.bank import write_bank
    from featbank.bank.class_table import CLASS_FACTS
    from featbank.bank.schema import FLAGS

    names = ("class_names", "classifier", "index", "paths", "sources", "text", "default_scale")
    rows = ("source_groups", "source_group_names", "cells", "maps", "map_ids")
    contents = {name: getattr(arrays, name) for name in (*names, *rows, *CLASS_FACTS, *FLAGS)}
    write_bank(output, arrays.features, arrays.labels, **contents, **options)


def _read_file(file: Path | None, group_column: str | None) -> Arrays:
    """Arrays of FILE, none without it; an export says all that the options of arrays would."""
    from featbank import exchange

    if file is None:
        if group_column is not None:
            raise ConfigError(
                "--group-column is for a table that is given alone. Give --source-groups SPLIT "
                "FILE:KEY with --train."
            )
        return exchange.Arrays()
    if not exchange.is_export(file):
        return exchange.read_file(file, group_column=group_column)
    context = click.get_current_context()
    described = (
        *_SPLITS,
        *("views", "classifier", "view_classifiers", "class_names"),
        *("kind", "renumber", "label_base", "copies", "tokens", "ignore"),
        "group_column",
    )
    if used := [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in described and context.params[parameter.name]
    ]:
        raise ConfigError(
            f"{file} is an export of a bank, which says all that {', '.join(used)} would. Leave "
            "that out, or give its arrays alone, as with --train X Y."
        )
    return exchange.read_export(file)


def _hold_out(per_class: int | None, fraction: float | None, seed: int | None) -> HoldOut | None:
    """The rows to hold out of train, or None."""
    from featbank.bank import HoldOut

    if per_class is not None and fraction is not None:
        raise ConfigError("--val-per-class and --val-fraction are both given. Give one of the two.")
    if per_class is None and fraction is None:
        if seed is not None:
            raise ConfigError(
                "--val-seed is for a val that is held out. Give --val-per-class or "
                "--val-fraction, or leave it out."
            )
        return None
    return HoldOut(per_class, fraction, seed or 0)
