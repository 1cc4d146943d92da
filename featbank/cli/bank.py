"""``featbank import`` and ``featbank info``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.errors import ConfigError

_PAIR = (str, str)


@click.command("import")
@click.argument("npz", required=False, type=click.Path(path_type=Path))
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
@click.option("--class-names", type=click.Path(path_type=Path), help="One class name per line.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="Default: as given.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bank.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bank.")
def import_(
    *,
    npz: Path | None,
    train: tuple[str, str] | None,
    val: tuple[str, str] | None,
    test: tuple[str, str] | None,
    train_balanced: tuple[str, str] | None,
    views: tuple[tuple[str, str, str], ...],
    classifier: tuple[str, str] | None,
    class_names: Path | None,
    dtype: str | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Make a bank from NumPy arrays: timm, CLIP, DINO, a colleague's.

    Arrays are files, x.npy, or keys of an archive, feats.npz:x_train. An NPZ given alone must name
    its keys x_train, y_train, x_test, …, further views x_train_balanced, the classifier w0 and b0.

    \b
    featbank import --train x.npy y.npy --test xt.npy yt.npy --classifier w.npy b.npy -o bank.h5
    featbank import feats.npz -o bank.h5
    """
    from featbank.bank import write_bank
    from featbank.bank.importers import Arrays, read_array, read_class_names, read_npz

    arrays = read_npz(npz) if npz else Arrays()
    pairs = {"train": train, "val": val, "test": test, "train_balanced": train_balanced}
    for split, pair in pairs.items():
        if pair:
            arrays.add(split, "instance", read_array(pair[0]))
            arrays.labels[split] = read_array(pair[1])
    for view, split, place in views:
        arrays.add(split, view, read_array(place))
    if classifier:
        arrays.classifier["instance"] = (read_array(classifier[0]), read_array(classifier[1]))
    if "train" not in arrays.features:
        raise ConfigError("No training features were given. Give --train X Y, or an .npz.")
    for line in arrays.report():
        click.echo(line)
    write_bank(
        output,
        arrays.features,
        arrays.labels,
        class_names=read_class_names(class_names) if class_names else None,
        classifier=arrays.classifier,
        dtype=dtype,
        provenance={"made_by": "featbank import", "sources": _sources(npz, pairs, views)},
        overwrite=overwrite,
    )
    click.echo(f"Wrote {output}. Next: featbank info {output}")


def _sources(
    npz: Path | None,
    pairs: dict[str, tuple[str, str] | None],
    views: tuple[tuple[str, str, str], ...],
) -> dict[str, str]:
    """Where every array came from, by its place in the bank."""
    sources = {"npz": str(npz)} if npz else {}
    for split, pair in pairs.items():
        if pair:
            sources[f"{split}/instance"], sources[f"{split}/label"] = pair
    return {**sources, **{f"{split}/{view}": place for view, split, place in views}}


@click.command()
@click.argument("bank", type=click.Path(path_type=Path))
def info(bank: Path) -> None:
    """Show a bank on one screen.

    \b
    featbank info bank.h5
    """
    from featbank.bank import GROUPS, Bank

    with Bank(bank) as b:
        counts = b.train_counts
        click.echo(
            f"{bank}  ({bank.stat().st_size / 2**20:.1f} MiB, fingerprint {b.fingerprint[:12]})"
        )
        click.echo(f"features    D = {b.dim}, views: {', '.join(b.views)}")
        click.echo(
            f"classes     K = {b.num_classes}, training samples {counts.max()} … {counts.min()} "
            f"(imbalance {_ratio(counts.max(), counts.min())})"
        )
        for group, mask in b.groups().items():
            total = counts[mask].sum()
            click.echo(f"  {group:<9} {mask.sum():>4} classes, {total} samples ({GROUPS[group]})")
        for split in b.splits:
            copies, dtype = b.copies(split), b.dtype(split)
            extra = f", {copies} augmentation copies" if copies > 1 else ""
            click.echo(f"{split:<11} {len(b.labels(split))} rows, {dtype}{extra}")
        if "val" not in b.splits:
            click.echo("val         none: comparisons on this bank are selected on test")
        has = [view for view in b.views if b.classifier(view) is not None]
        click.echo(f"classifier  {', '.join(has) or 'none'}")
        click.echo(f"batchnorm   {', '.join(v for v in b.views if b.batchnorm(v)) or 'none'}")
        click.echo(f"made by     {b.provenance.get('made_by', 'unknown')}")


def _ratio(most: int, least: int) -> str:
    return f"{most / least:.0f}" if least else "∞: a class is empty"
