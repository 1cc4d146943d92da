"""``featbank amend``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.class_options import ClassFacts, class_options
from featbank.cli.options import FILE, output_option, overwrite_option
from featbank.cli.terminal import say
from featbank.cli.text_options import Texts, scale_option, text_options


@click.command()
@click.argument("bank", type=FILE)
@text_options
@scale_option
@class_options
@output_option("The bank.")
@overwrite_option("Replace an existing bank.")
def amend(
    *,
    bank: Path,
    texts: Texts,
    scale: str | None,
    class_facts: ClassFacts,
    output: Path,
    overwrite: bool,
) -> None:
    """Copy a bank with other text, counts or groups of its classes, or another default scale.

    Features, labels and classifiers stay as they are, so a recorded scale can be replaced at any
    time. Text is matched to the classes by name where it has names. Groups that are stored stay
    where counts or the background change; --groups makes them anew.

    \b
    featbank amend extracted.h5 --text text.npz -o bank.h5
    featbank amend bank.h5 --scale unit -o unit.h5
    featbank amend bank.h5 --class-counts pixels.json --groups 1%,0.1% -o pixels.h5
    """
    from featbank.bank import Bank
    from featbank.bank.amend import amend as write
    from featbank.bank.checks import check_model_view
    from featbank.cli.progress import progress
    from featbank.exchange.embeddings import read_text

    with Bank(bank) as b:
        numbered = b.class_names == [str(k) for k in range(b.num_classes)]
        text = {}
        for view, place in texts.of_views:
            check_model_view("text", view, b.views)
            embeddings = read_text(place, names=texts.names, logit_scale=texts.logit_scale)
            embeddings = embeddings.of_classes(None if numbered else b.class_names, b.num_classes)
            text[view] = embeddings.checked(view, b.dim_of(view) if view in b.views else b.dim)
        classes = class_facts.resolved(
            None if numbered else b.class_names,
            b.full_counts,
            outside=b.outside_counts,
            background=b.background,
        )
        stale = bool(classes) and "class_groups" not in classes
        stale = stale and b.class_fact("class_groups") is not None
        scales = {} if scale is None else dict.fromkeys(b.views, scale)
    with progress("MiB written") as report:
        write(
            bank,
            output,
            text=text,
            default_scale=scales,
            classes=classes,
            overwrite=overwrite,
            progress=report,
        )
    if stale:
        say("Note: the class groups are those of the bank; --groups makes them anew.")
    say(f"Wrote {output}. Next: featbank info {output}")
